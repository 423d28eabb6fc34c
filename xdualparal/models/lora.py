"""LoRAs, fused into a transformer's tensors as they are loaded.

Knows: what is added to a tensor, ``weight * scale * up @ down``, in float32. Must not know: stages, flags, and how a file is laid
out (lora_file.py). A tensor that no LoRA changes costs nothing, and of a LoRA's file only what belongs to the tensors that are
asked for is read.
"""

import torch

from ..limits import LORA_WEIGHT
from ..run_spec import short_digest
from .finite import is_finite
from .identity import sample_of
from .lora_file import LoraFile
from .reading import Reader


class Adapters:
    """The LoRAs of one transformer.

    ``given``: (path, weight) of each; they are added in this order. ``part``: the transformer, one of the pipeline's ``parts``
    ("transformer", or with two experts "transformer_2" too): of a file with keys of both each takes its own. Reads the files'
    headers; raises ValueError, one line with the file and key, for what cannot be fused, and for a weight of 0.
    """

    def __init__(self, given, part="transformer", parts=("transformer",)):
        self._loras = [(LoraFile(path, part, parts), _checked(path, weight)) for path, weight in given]
        self._is_checked = False

    def __bool__(self):
        return bool(self._loras)

    def check(self, shapes):
        """Finds what each key changes. ``shapes``: {name: shape} of the whole transformer's tensors, by diffusers' names.

        Raises ValueError for a key that matches none, half a pair, and shapes that do not fit.
        """
        for lora, _ in self._loras:
            lora.match(shapes)
        self._is_checked = True

    def change(self, name, tensor):
        """``tensor``, the one that a checkpoint calls ``name``, with what the LoRAs add to it, in float32 on its device; itself where
        they add nothing. ``check`` comes first. Raises ValueError for a LoRA with a NaN or an infinity."""
        assert self._is_checked, "check(shapes) finds what the keys change"
        changed = None
        for lora, weight in self._loras:
            pair, differences = lora.pair(name), lora.differences(name)
            if pair is None and not differences:
                continue
            if changed is None:
                changed = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            _add(changed, lora, weight, pair, differences)
        return tensor if changed is None else changed

    @property
    def files(self):
        """Their files' paths."""
        return [lora.file for lora, _ in self._loras]

    def identity(self):
        """("<digest>:<weight>", ...): what is known of the LoRAs without reading all of them, wherever they are."""
        return tuple(f"{_digest(lora)}:{weight:g}" for lora, weight in self._loras)


def _checked(path, weight):
    weight = LORA_WEIGHT.of(f"the weight of the LoRA {path}", weight)
    if weight == 0:
        raise ValueError(f"the weight of the LoRA {path} is 0, which adds nothing: leave it out")
    return weight


def _digest(lora):
    return short_digest(repr((sample_of(lora.file), lora.config and lora.config.identity)).encode())


def _add(changed, lora, weight, pair, differences):
    with Reader(changed.device) as reader:
        if pair is not None:
            up, down = (_read(reader, lora, stored).flatten(1) for stored in (pair.up, pair.down))
            changed.view(len(changed), -1).addmm_(up, down, alpha=weight * _scale(reader, lora, pair))
        for stored, scaled_by in differences:
            scale = 1.0 if scaled_by is None else _scale(reader, lora, scaled_by)
            changed.add_(_read(reader, lora, stored), alpha=weight * scale)


def _scale(reader, lora, pair):
    return pair.scale if pair.alpha is None else float(_read(reader, lora, pair.alpha)) / pair.down.shape[0]


def _read(reader, lora, stored):
    tensor = reader.read(stored)
    if not is_finite(tensor):
        raise lora.refusal(f"has a NaN or an infinity ({stored.name}): give a LoRA that is right")
    return tensor.to(torch.float32)
