"""Which Wan models a family computes right, by their configurations.

Knows: what diffusers' configurations of Wan models say. Must not know: weights, files, how anything is computed.
"""

_IMAGE_ENCODERS = "CLIPVisionModel", "CLIPVisionModelWithProjection"  # transformers': what is used of them is the same


def check(family, index, configs):
    """Raises ValueError, one line, for what ``family`` would compute wrongly.

    ``index``: model_index.json's content. ``configs``: {part: config.json's content} of the experts and the VAE.
    """
    wrong = [f"{name} is {given}, not {allowed}" for name, given, allowed in _compared(family, index, configs) if given != allowed]
    if wrong:
        raise ValueError(
            f"this is no {family.facts.name} model ({'; '.join(wrong)}) and DualParal supports no other yet: give one, "
            f"for example {family.facts.example}"
        )


def check_pipeline(family, pipeline):
    """As ``check``, for a diffusers pipeline. Also refuses an own ``__call__`` or ``forward``, and a step cache."""
    classes, experts = family.classes(), _experts_of(pipeline)
    index = dict(
        _class_name=_class_name(pipeline, class_among(pipeline, family.facts.same_pipelines) or classes.pipeline, "__call__"), vae=(None, _class_name(pipeline.vae, classes.vae)),
        boundary_ratio=pipeline.config.get("boundary_ratio"), expand_timesteps=pipeline.config.get("expand_timesteps", False),
        **{name: (None, _class_name(one, classes.transformer, "forward")) for name, one in experts.items()},
    )
    parts = experts | dict(vae=pipeline.vae)
    check(family, index, {name: getattr(part, "config", {}) for name, part in parts.items()})
    for name in family.facts.experts:
        _check_calls(name, experts[name], classes.transformer)


def class_among(pipeline, names):
    """The class of diffusers that ``pipeline`` is of and that has one of ``names``; None without."""
    return next((base for base in type(pipeline).__mro__ if base.__module__.startswith("diffusers.") and base.__name__ in names), None)


def has_clean_frames(index):
    """Whether a model_index.json, a dict, is of a Wan model whose frames have timesteps of their own."""
    return bool(index.get("expand_timesteps"))


def has_two_experts(index):
    """Whether a model_index.json, a dict, is of a Wan model with a second transformer, or should be."""
    return index.get("boundary_ratio") is not None or (index.get("transformer_2") or (None, None))[1] is not None


def sees_images(index):
    """Whether a model_index.json, a dict, is of a Wan model whose cross-attention sees an image as CLIP describes it."""
    return (index.get("image_encoder") or (None, None))[1] is not None


def index_of(pipeline):
    """What ``has_two_experts``, ``has_clean_frames`` and ``sees_images`` ask for, of a diffusers pipeline."""
    second, config, first = _experts_of(pipeline)["transformer_2"], pipeline.config, getattr(pipeline.transformer, "config", {})
    return dict(
        # Which may be gone: what it says of images may be known before the pipeline is there.
        image_encoder=(None, None if first.get("image_dim") is None else "CLIPVisionModel"),
        boundary_ratio=config.get("boundary_ratio"), transformer_2=(None, second and type(second).__name__),
        expand_timesteps=config.get("expand_timesteps", False),
    )


def _experts_of(pipeline):
    return dict(transformer=pipeline.transformer, transformer_2=getattr(pipeline, "transformer_2", None))


def _check_calls(name, transformer, transformer_class):
    if transformer.is_cache_enabled:
        raise ValueError(f"a step cache is enabled and DualParal has none: call {name}.disable_cache() first")
    if getattr(transformer.forward, "__func__", None) is not transformer_class.forward:
        raise ValueError(
            f"the {name}'s forward was replaced, by cache-dit or a hook, and DualParal does not call it: give a "
            f"{name} without it (cache_dit.disable_cache(pipeline))"
        )


def _class_name(part, base=None, *methods):
    """The name of the class of ``part``, or of ``base`` where it is one and has these ``methods`` of it; None for None."""
    own = type(part)
    if base is not None and isinstance(part, base) and all(getattr(own, m) is getattr(base, m) for m in methods):
        return base.__name__
    return None if part is None else own.__name__


def _compared(family, index, configs):
    """(name, what is given, what is allowed) of all that a stage takes for granted.

    Defaults are those of diffusers' classes. A pipeline without VAE makes latents only: nothing of it is compared.
    """
    facts, classes = family.facts, family.classes()
    pipeline = index.get("_class_name")
    yield "the pipeline", pipeline, pipeline if pipeline in facts.same_pipelines else facts.pipeline
    for name in ("transformer", "transformer_2"):
        allowed = classes.transformer.__name__ if name in facts.experts else None
        yield name, (index.get(name) or (None, None))[1], allowed
    yield from _compared_boundary(facts, index.get("boundary_ratio"))
    # SkyReels-V2 has no such setting: frames of its own timesteps are what its class computes.
    yield "expand_timesteps", index.get("expand_timesteps", False), facts.clean_frames and not facts.frame_timesteps
    if facts.conditioned and "image_encoder" in index:
        encoder = (index.get("image_encoder") or (None, None))[1]
        yield "image_encoder", encoder, (encoder if encoder in _IMAGE_ENCODERS else _IMAGE_ENCODERS[0]) if facts.sees_images else None
    for name in facts.experts:
        yield from _compared_in_expert(name, configs.get(name, {}), configs.get("transformer", {}), facts)
    if index.get("vae", (None, None))[1] is not None:
        yield from _compared_in_vae(index["vae"][1], configs["vae"], configs.get("transformer", {}), family)


def _compared_boundary(facts, ratio):
    if len(facts.experts) == 1:
        yield "boundary_ratio", ratio, None
        return
    is_right = isinstance(ratio, (int, float)) and not isinstance(ratio, bool) and 0 < ratio < 1
    yield "boundary_ratio", ratio, ratio if is_right else "a number between 0 and 1"


def _compared_in_expert(name, config, first, facts):
    prefix = "" if config is first else f"{name}'s "
    yield from _compared_on_images(prefix, config, facts.sees_images)
    yield prefix + "num_frame_per_block", config.get("num_frame_per_block", 1), 1  # SkyReels-V2's: more are causal
    rate = config.get("inject_sample_info", False)
    yield prefix + "inject_sample_info", rate, rate if facts.frame_timesteps else False  # SkyReels-V2's, of frames a second
    channels = config.get("in_channels", 16)
    made = config.get("out_channels") or channels
    yield prefix + ("in_channels" if facts.conditioned else "out_channels"), *((channels, 2 * made + facts.frames_per_latent) if facts.conditioned else (made, channels))
    yield prefix + "patch_size", tuple(config.get("patch_size", facts.patch)), facts.patch
    if config is not first:  # stages split both alike, and hidden states of both have one shape
        for key in sorted(key for key in {*config, *first} if not key.startswith("_")):
            yield prefix + key, config.get(key), first.get(key)


def _compared_on_images(prefix, config, sees_images):
    """The layers of an image's tokens: all of them, or none."""
    dim = config.get("num_attention_heads", 40) * config.get("attention_head_dim", 128)
    image_dim, pair = config.get("image_dim"), config.get("pos_embed_seq_len")
    yield prefix + "image_dim", image_dim, (image_dim or "a number") if sees_images else None
    yield prefix + "added_kv_proj_dim", config.get("added_kv_proj_dim"), dim if sees_images else None
    yield prefix + "pos_embed_seq_len", pair, pair if sees_images else None


def _compared_in_vae(vae_class, vae, transformer, family):
    """What the VAE's config says twice: channels and the sizes of a latent."""
    facts = family.facts
    yield "vae", vae_class, family.classes().vae.__name__
    yield "out_channels", transformer.get("out_channels") or transformer.get("in_channels", 16), vae.get("z_dim", 16)
    for name in ("latents_mean", "latents_std"):
        if name in vae:
            yield f"the length of {name}", len(vae[name]), vae.get("z_dim", 16)
    if "dim_mult" in vae:
        pixels = 2 ** (len(vae["dim_mult"]) - 1) * (vae.get("patch_size") or 1)  # each level but the last halves the picture
        yield "scale_factor_spatial", vae.get("scale_factor_spatial", 8), pixels
    if "temperal_downsample" in vae:
        yield "frames of a latent by temperal_downsample", 2 ** sum(vae["temperal_downsample"]), facts.frames_per_latent
    yield "scale_factor_temporal", vae.get("scale_factor_temporal", 4), facts.frames_per_latent
