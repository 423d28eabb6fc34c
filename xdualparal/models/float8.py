"""Weights in float8, which mean something only together with the scales beside them.

Knows: how ComfyUI's, LightX2V's and block-wise scales are named and used. Must not know: models, files, who asks.
Facts are from ComfyUI (QUANTIZATION.md; before it, scaled_fp8 files with scale_weight) and LightX2V (tools/convert/converter.py,
one scale an output channel): the weight is what is stored times its scale.
"""

import torch

from .tensors import named, some

USABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_STORED_AS = torch.float8_e4m3fn
_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")  # of X.weight, beside it: X.scale_weight ...
# Beside them, and not about weights: scales of activations, and ComfyUI's names of its formats.
_OF_OTHER_THINGS = ("scale_input", "input_scale", "comfy_quant")
_MARKS = ("scaled_fp8",)  # of a whole file
_BLOCK = 128  # rows and columns of a block with one scale, where scales are of blocks (DeepSeek's; LightX2V's fp8-b128)


def with_scales(tensors):
    """``tensors``, {name: Stored}, with each float8 weight's scale put into it, and without scales and what belongs to them.

    Raises ValueError, one line, for numbers that cannot be used: float8 without a scale, other quantized numbers.
    """
    paired = {name: one._replace(scale=_scale_of(name, one, tensors)) for name, one in tensors.items()}
    used = {one.scale.name for one in paired.values() if one.scale is not None}
    eight = {name.removesuffix("weight") for name, one in paired.items() if one.scale is not None}
    beside = {start + end for start in eight for end in _OF_OTHER_THINGS} | set(_MARKS if eight else ())
    rest = {name: one for name, one in paired.items() if one.name not in used and name not in beside}
    return check_usable(rest)


def _scale_of(name, stored, tensors):
    if stored.dtype != _STORED_AS or not name.endswith(".weight"):
        return None
    found = [tensors[name.removesuffix("weight") + end] for end in _SCALES if name.removesuffix("weight") + end in tensors]
    for scale in found[:1]:
        if scale.dtype not in USABLE or not _fits(scale.shape, stored.shape):
            raise ValueError(
                f"{named(scale.file)}: {scale.name}, {scale.kind} {list(scale.shape)}, is no scale of a weight {list(stored.shape)}"
            )
    return found[0] if found else None


def _fits(scale, weight):
    """Whether there is one scale, one a row, or one a block."""
    return scale in _shapes(weight)


def _shapes(weight):
    rows = weight[:1]
    shapes = [(), (1,), rows, rows + (1,) * (len(weight) - 1)]
    return shapes + [tuple(-(-size // _BLOCK) for size in weight)] * (len(weight) == 2)


def check_usable(tensors):
    """``tensors``. Raises ValueError, one line, for numbers in them that cannot be computed with as they are, or scaled."""
    odd = [name for name, one in tensors.items() if one.dtype not in USABLE and (one.dtype != _STORED_AS or one.scale is None)]
    if not odd:
        return tensors
    first = tensors[odd[0]]
    without = " without scales" if first.dtype == _STORED_AS else ""
    raise ValueError(
        f"{named(first.file)} holds {first.kind} numbers{without} ({some(odd)}), which cannot be computed with: give float32, "
        "float16 or bfloat16 weights, or a transformer's float8 (e4m3) ones with their scales"
    )


def dequantized(weight, scale):
    """``weight``, float8, times ``scale`` in float32: one number, or one a row or a block of the weight, see ``with_scales``."""
    scale = scale.float()
    if scale.numel() == 1:
        scale = scale.reshape(())
    elif scale.shape[0] == weight.shape[0]:
        scale = scale.view(-1, *[1] * (weight.dim() - 1))
    else:
        scale = scale.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)[:weight.shape[0], :weight.shape[1]]
    return weight.float().mul_(scale)
