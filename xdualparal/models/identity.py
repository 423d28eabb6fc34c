"""Tells models, and their fine-tuned or merged versions, apart by all their weights.

Knows: modules' parameters and buffers. Must not know: families, or what is compared.

A tensor is told by the sum of its bits as whole numbers: exact, and the same on every device and for every split over
stages. It is no defence against somebody who wants two models to look the same.
"""

import hashlib
import re

import torch

from ..run_spec import short_digest

_PIECE = 1 << 22  # numbers; 32 MiB as int64
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def part_sums(parts, first_layer):
    """{part: {"config": text, "tensors": {name: sum}}} of what this rank has of each module in ``parts`` (None: not here).

    ``first_layer``: the model's number of the first of a transformer's ``blocks`` that are here.
    """
    return {
        part: dict(config=_config_of(module), tensors=_numbers(module, first_layer if hasattr(module, "blocks") else 0))
        for part, module in parts.items() if module is not None
    }


def digest_of_parts(gathered):
    """{part: digest} of what all ranks gave, see ``part_sums``; a part that no rank has is not there."""
    digests = {}
    for part in sorted({part for rank in gathered for part in rank}):
        ranks = [rank[part] for rank in gathered if part in rank]
        tensors = {name: value for rank in ranks for name, value in rank["tensors"].items()}
        digests[part] = short_digest(repr((ranks[0]["config"], sorted(tensors.items()))).encode())
    return digests


def dtype_name(dtype):
    """``float32``, say."""
    return str(dtype).removeprefix("torch.")


def precision_name(dtype, quantization):
    """What a RunSpec says of a transformer's ``dtype`` and of its layers' ``quantization``, None or a format's name."""
    return dtype_name(dtype) + (f", layers {quantization}" if quantization else "")


def tiling_of(vae):
    """The sizes of a VAE's tiles in pixels; () for one that decodes without, or for None."""
    if vae is None or not vae.use_tiling:
        return ()
    names = ("tile_sample_min_height", "tile_sample_min_width", "tile_sample_stride_height", "tile_sample_stride_width")
    return tuple(getattr(vae, name) for name in names)


def _config_of(module):
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    # Where it was loaded from and by which version do not change what it computes.
    return repr(sorted((name, value) for name, value in config.items() if not re.match("_|transformers_version", name)))


def _sums(module, first_layer):
    return {_name(name, first_layer): _sum(tensor) for name, tensor in module.state_dict().items() if not tensor.is_meta}


def _numbers(module, first_layer):
    """The sums, and the scales of LoRA adapters (PEFT keeps them beside the tensors, see set_adapters in diffusers)."""
    scales = {
        f"{_name(name, first_layer)} scaling": (sorted(layer.scaling.items()), list(layer.active_adapters), layer.disable_adapters, layer.merged)
        for name, layer in module.named_modules() if isinstance(getattr(layer, "scaling", None), dict) and layer.scaling
    }
    return _sums(module, first_layer) | scales


def _name(name, first_layer):
    match = re.match(r"blocks\.(\d+)\.", name)
    return f"blocks.{int(match[1]) + first_layer}.{name[match.end():]}" if match else name


def _sum(tensor):
    bits = tensor.detach().contiguous().flatten().view(_WHOLE[tensor.element_size()])
    # In pieces: torch makes int64 numbers of all that it sums, 4 times the memory of a 16-bit tensor.
    return tuple(tensor.shape), sum(int(part.sum(dtype=torch.int64)) for part in bits.split(_PIECE))

def sample_of(file):
    """(size, digest of some of its bytes) of a file: what tells it apart from another without reading it all."""
    size, digest = file.stat().st_size, hashlib.sha256()
    with open(file, "rb") as content:
        for place in (0, size // 3, size // 2, size - 4096):
            content.seek(max(0, place))
            digest.update(content.read(4096))
    return size, digest.hexdigest()
