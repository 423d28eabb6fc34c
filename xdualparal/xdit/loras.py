"""The LoRAs of a command: which of the model's transformers each is for.

Knows: ``--lora`` and ``--lora_2``. Must not know: how a LoRA's file is laid out, or what it does to a tensor (models/lora.py).
"""

from ..models.checkpoint_files import Weights, tensors_of
from ..models.lora import Adapters
from .settings import weighted_path

_FLAGS = {"transformer": "lora", "transformer_2": "lora_2"}


def check_loras(model, command, source):
    """Raises ValueError, one line, for a LoRA that cannot be fused, or does not fit the model as far as its weights are here.

    ``model``: its class or one of it. ``source``: its weights, checkpoint_files.Weights. Reads headers only.
    """
    source = Weights.of(source)
    for part, own in _adapters(model, command).items():
        if source.place(part).exists():
            own.check(_shapes(source, part))


def lora_changes(model, command, source):
    """{transformer: what changes its tensors as they are loaded, see Adapters.change} for those that have LoRAs.

    Arguments and errors: see ``check_loras``; the weights are here.
    """
    adapters = _adapters(model, command)
    for part, own in adapters.items():
        own.check(_shapes(Weights.of(source), part))
    return {part: own.change for part, own in adapters.items()}


def loras_identity(model, command):
    """For a RunSpec: ("<transformer> <digest>:<weight>", ...), wherever the files are."""
    return tuple(f"{part} {one}" for part, own in _adapters(model, command).items() for one in own.identity())


def lora_files(model, command):
    """The LoRAs' files."""
    return [file for own in _adapters(model, command).values() for file in own.files]


def lines_on_loras(model, command):
    """What is said of a model of which only some transformers have a LoRA: people sell them in pairs."""
    parts = model.family.facts.experts
    without = [part for part in parts if not getattr(command, _FLAGS[part])]
    if not without or len(without) == len(parts):
        return []
    return [f"{part} has no LoRA, only the other expert has one: --{_FLAGS[part]} gives it one" for part in without]


def _shapes(source, part):
    return {name: stored.shape for name, stored in tensors_of(source, part).items()}


def _adapters(model, command):
    parts = model.family.facts.experts
    for part, flag in _FLAGS.items():
        if getattr(command, flag) and part not in parts:
            raise ValueError(f"--{flag} is {getattr(command, flag)[0]} and {model.family.facts.name} models have one transformer: give --lora")
    given = {part: [weighted_path(text) for text in getattr(command, _FLAGS[part]) or ()] for part in parts}
    return {part: Adapters(loras, part, parts) for part, loras in given.items() if loras}
