"""The images that a video begins and ends with, in a call.

Knows: what of a call is an image, and what the VAE and CLIP make of one. Must not know: files and flags, or what a run does with latents.
"""

import torch

from .call_checks import check_images, check_last_image
from .limits import FRAMES, SIDE
from .models.wan_vae import encode_video
from .request import check_size, condition_frames

_IMAGES = "image", "last_image"


def with_encoded_images(pipe, family, mesh, prompt, options):
    """``options`` of a call, with height, width and num_frames, with what the model sees of its images instead. Every rank of the replica must
    call it: the output rank encodes. Raises ValueError for what is no image, and on all ranks for one that cannot be encoded."""
    images = {name: options[name] for name in _IMAGES if options.get(name) is not None}
    options = {name: value for name, value in options.items() if name not in _IMAGES}
    is_continued = family.facts.conditioned and options.get("continue_latents") is not None
    if not images and not (is_continued and options.get("image_latents") is None):
        return options
    _check(pipe, family, prompt, images, options, is_continued)
    first, last = (images.get(name) and (images[name] if isinstance(images[name], list) else [images[name]]) for name in _IMAGES)
    latent_frames = family.facts.latent_frames(options["num_frames"]) if options["num_frames"] else None  # None: without end
    encode = lambda: encode_images(pipe, family, first, options["height"], options["width"], latent_frames, last, is_continued=is_continued)  # noqa: E731
    return options | mesh.share_object(mesh.on_output_rank(encode))


def _check(pipe, family, prompt, images, options, is_continued):
    """Raises ValueError for images, and sizes of the video, that cannot be: before they are encoded."""
    _check_first(family.facts, images, is_continued)
    for name in (*(f"{one}_latents" for one in images), "image_embeds"):
        if options.get(name) is not None:
            raise ValueError(f"image and {name} are given, which are one thing: leave one out")
    if "last_image" in images and not family.facts.conditioned:
        raise ValueError(f"last_image is given and {family.facts.name} takes none: leave it out, or take Wan2.2-I2V")
    if "last_image" in images and family.facts.sees_images and pipe.transformer.config.pos_embed_seq_len is None:
        raise ValueError("last_image is given and the model's cross-attention knows one image alone: leave it out, or take Wan2.1-FLF2V or Wan2.2-I2V")
    embeds = options.get("prompt_embeds")
    count = len(prompt) if isinstance(prompt, list) else 1 if embeds is None else len(embeds)
    for name, value in images.items():
        check_images(name, value if isinstance(value, list) else [value], count)
    if family.facts.sees_images and pipe.image_encoder is None:
        raise ValueError("an image is given and the pipeline has no image_encoder, which the model needs: give one with it")
    height, width, num_frames = (limit.of(name, options[name]) for name, limit in (("height", SIDE), ("width", SIDE), ("num_frames", FRAMES)))
    check_size(height, width, (pipe.vae_scale_factor_spatial,) * 2)
    if "last_image" in images:
        check_last_image(num_frames, family.facts.frames_per_latent, is_continued)


def _check_first(facts, images, is_continued):
    """Of a video that continues another one the first image is known of to CLIP alone."""
    if is_continued and facts.sees_images and "image" not in images:
        raise ValueError(f"continue_latents are given and image is not, which {facts.name} sees in all passes: give the one that the other video began with")
    if is_continued and not facts.sees_images and "image" in images:
        raise ValueError("image and continue_latents are given and both are the video's first frames: leave one out")
    if "image" not in images and not is_continued:
        raise ValueError("last_image is given and image is not: give both")


def encode_images(pipe, family, images, height, width, latent_frames, last_images=None, describe=None, is_continued=False):
    """What a model of ``family`` sees of PIL ``images``, each scaled to ``height`` x ``width`` pixels, whatever its shape, as diffusers' image-to-video
    pipeline does: a dict of these arguments of a call, tensors in float32 on the CPU.

    ``image_latents``: (images, channels, frames, height, width), as the transformer predicts them: of the image, and for a family that is ``conditioned``
    with empty frames behind it. ``latent_frames``: of the video, None: endless. ``last_images``: as many, or one for all, or None; then
    ``last_image_latents``, (images, channels, 1, height, width). ``image_embeds``: (images, tokens, dim), where the family ``sees_images``.
    ``describe``: see ``described``, by default with the pipeline's image encoder. Where the video ``is_continued``, from another one, the VAE sees empty frames
    in place of ``images``, which may be None, and ``image_latents`` is one latent frame of them.

    Raises ValueError where the VAE of ``pipe`` is not there, or makes numbers that are not finite.
    """
    if pipe.vae is None:
        raise ValueError("the pipeline has no VAE that encodes an image, or empty frames: give image_latents")
    frames = condition_frames(pipe, family, None if is_continued else latent_frames) if family.facts.conditioned else 1
    images = _as_many(images or [None], last_images)
    pairs = [(image, last_images and last_images[n if len(last_images) > 1 else 0]) for n, image in enumerate(images)]
    encode = lambda first, last: _encode(pipe, family, (None if is_continued else first, last), height, width, frames)  # noqa: E731
    try:
        first = [encode(None, None)[:, :, -1:]] if is_continued else [encode(image, None) for image in images]
        encoded = dict(image_latents=torch.cat(first))
        if last_images:
            encoded["last_image_latents"] = torch.cat([encode(*pair)[:, :, -1:] for pair in pairs])
        if family.facts.sees_images:
            describe = describe or (lambda pair: described(pipe.image_processor, pipe.image_encoder, pair))
            encoded["image_embeds"] = torch.cat([describe([one for one in pair if one is not None]) for pair in pairs])
    except FloatingPointError as error:
        raise ValueError(f"the image cannot be encoded: {error}") from None
    return encoded


def _as_many(images, last_images):
    return images * len(last_images) if last_images and len(images) == 1 else images


def _encode(pipe, family, pair, height, width, latent_frames):
    """Latents of a video of ``latent_frames`` that begins with the first of ``pair``, ends with the second, each where it is not None, and is grey, which
    is 0, else."""
    video = torch.zeros(1, 3, 1 + (latent_frames - 1) * family.facts.frames_per_latent, height, width)
    for place, image in zip((0, -1), pair):
        if image is not None:
            video[:, :, place] = pipe.video_processor.preprocess(image, height=height, width=width)
    return encode_video(pipe.vae, video)


@torch.no_grad()
def described(processor, encoder, images):
    """What CLIP says of PIL ``images``, one or a first and a last, (1, tokens, dim) float32 on the CPU, as diffusers' image-to-video pipeline asks
    for it: the last layer's input. Each image's tokens stand behind the other's."""
    seen = processor(images=images, return_tensors="pt").to(encoder.device, encoder.dtype)
    states = encoder(**seen, output_hidden_states=True).hidden_states[-2]
    if not states.isfinite().all():
        raise FloatingPointError("the image encoder made a NaN or an infinity of it: use its weights in float32, or others")
    return states.float().cpu().flatten(0, 1)[None]
