"""The names of a Wan transformer's tensors: Wan's own and diffusers'.

Knows: names. Must not know: files, tensors, who asks.
Wan's own names are also LightX2V's and ComfyUI's, there behind a prefix. Facts are from Wan 2.1 and 2.2 (wan/modules/model.py),
diffusers 0.42.1 (WanTransformer3DModel) and xfuser 0.7.0 (runner_models/wan.py), which reads LightX2V's files.
"""

PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # ComfyUI's, before every name of its files
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
# {Wan's own: diffusers'} of modules, and of tensors that belong to no module inside, in a block ...
IN_BLOCK = {
    **{f"self_attn.{own}": f"attn1.{theirs}" for own, theirs in _ATTENTION.items()},
    **{f"cross_attn.{own}": f"attn2.{theirs}" for own, theirs in (_ATTENTION | _IMAGE_ATTENTION).items()},
    "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
    "norm3": "norm2",  # the only norm with weights besides those of queries and keys: before the cross-attention
    "modulation": "scale_shift_table",
}
# ... and outside of the blocks.
OUTSIDE = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out", "head.modulation": "scale_shift_table",
}
_OWN_IN_BLOCK = {theirs: own for own, theirs in IN_BLOCK.items()}
_OWN_OUTSIDE = {theirs: own for own, theirs in OUTSIDE.items()}


def diffusers_name(name):
    """diffusers' name of what Wan, LightX2V or ComfyUI call ``name``; one that is diffusers' already, or unknown, as it is.

    What comes after a module's name stays: "diffusion_model.blocks.3.self_attn.q.lora_A.weight" is
    "blocks.3.attn1.to_q.lora_A.weight".
    """
    return _renamed(without_prefix(name), IN_BLOCK, OUTSIDE)


def original_name(name):
    """Wan's own name, without prefix, of what diffusers calls ``name``: the inverse of ``diffusers_name``."""
    return _renamed(name, _OWN_IN_BLOCK, _OWN_OUTSIDE)


def without_prefix(name):
    """``name`` without ComfyUI's prefix."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _renamed(name, in_block, outside):
    first, _, rest = name.partition(".")
    layer, _, inner = rest.partition(".")
    if first == "blocks" and layer.isdecimal():
        return f"blocks.{layer}.{_with_other_start(inner, in_block)}"
    return _with_other_start(name, outside)


def _with_other_start(name, starts):
    """``name`` with the start replaced that ``starts`` names; a start ends at a dot."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        start = ".".join(parts[:count])
        if start in starts:
            return ".".join([starts[start], *parts[count:]])
    return name
