"""The models that DualParal runs, by xDiT's names and their own.

Knows: names. Must not know: what the models do.
"""

import difflib
import os

from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

from .demo_model import TinyWanModel
from .models import DualParalWanModel
from .wan_models import Wan21T2VSmallModel

DUALPARAL_MODELS = {
    "tiny-wan": TinyWanModel,
    "Wan2.1-T2V-1.3B": Wan21T2VSmallModel,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Wan21T2VSmallModel,
    "Wan2.1-T2V": DualParalWanModel,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": DualParalWanModel,
}


def model_class(name, degree):
    """The class of the model ``name``, with DualParal where ``degree`` is not None. Raises ValueError when there is none."""
    known = {**MODEL_REGISTRY, **DUALPARAL_MODELS}
    if name not in known and os.path.isdir(name):
        raise ValueError(f"--model {name} is a folder: give --model Wan2.1-T2V-1.3B --model_path {name}, or another model's name")
    if name not in known:
        raise ValueError(f"model {name!r} is not known: give one of {', '.join(_nearest_first(name, known))}")
    if degree is None and name not in MODEL_REGISTRY:
        raise ValueError(f"model {name} runs with DualParal only: add --dualparal_degree 1 (or more)")
    if degree is not None and name not in DUALPARAL_MODELS:
        supported = ", ".join(_nearest_first(name, DUALPARAL_MODELS))
        raise ValueError(
            f"model {name} has no DualParal support: give one of {supported}, or leave --dualparal_degree out"
        )
    return MODEL_REGISTRY[name] if degree is None else DUALPARAL_MODELS[name]


def _nearest_first(name, known):
    def likeness(other):
        return difflib.SequenceMatcher(None, str(name).lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)
