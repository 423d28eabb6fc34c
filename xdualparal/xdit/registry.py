"""The models that DualParal runs, by xDiT's names and their own, and which of them a folder holds.

Knows: names. Must not know: what the models do.
"""

import difflib
import os
from dataclasses import replace

from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

from ..models import family_of_folder
from ..models.checkpoint_files import Weights
from ..models.folder import check_folder
from ..models.weights import read_configs
from .demo_model import TinyWan2Model, TinyWanI2VModel, TinyWanModel
from .skyreels_models import (
    SkyReelsDFLarge720Model, SkyReelsDFLargeModel, SkyReelsDFModel, SkyReelsI2VLarge720Model, SkyReelsI2VLargeModel, SkyReelsI2VModel,
)
from .wan_image_models import Wan21I2V480Model, Wan21I2VModel, Wan21PairModel, Wan22DistilledI2VModel, Wan22I2VModel
from .wan_models import FastWan22TI2VModel, Wan21T2VModel, Wan21T2VSmallModel, Wan22DistilledT2VModel, Wan22T2VModel, Wan22TI2VModel

DUALPARAL_MODELS = {
    "tiny-wan": TinyWanModel,
    "tiny-wan-2": TinyWan2Model,
    "tiny-wan-i2v": TinyWanI2VModel,
    "Wan2.1-T2V-1.3B": Wan21T2VSmallModel,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Wan21T2VSmallModel,
    "Wan2.1-T2V": Wan21T2VModel,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Wan21T2VModel,
    "Wan2.2-T2V": Wan22T2VModel,
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": Wan22T2VModel,
    "Wan2.2-Distilled-T2V": Wan22DistilledT2VModel,
    "Wan2.2-TI2V": Wan22TI2VModel,
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Wan22TI2VModel,
    "FastWan2.2-TI2V": FastWan22TI2VModel,
    "FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers": FastWan22TI2VModel,
    "Wan2.1-I2V": Wan21I2VModel,
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": Wan21I2VModel,
    "Wan2.1-I2V-480P": Wan21I2V480Model,
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": Wan21I2V480Model,
    "Wan2.1-FLF2V": Wan21PairModel,
    "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers": Wan21PairModel,
    "Wan2.2-I2V": Wan22I2VModel,
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": Wan22I2VModel,
    "Wan2.2-Distilled-I2V": Wan22DistilledI2VModel,
    "SkyReels-V2-DF-1.3B": SkyReelsDFModel,
    "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers": SkyReelsDFModel,
    "SkyReels-V2-DF-14B": SkyReelsDFLargeModel,
    "Skywork/SkyReels-V2-DF-14B-540P-Diffusers": SkyReelsDFLargeModel,
    "SkyReels-V2-DF-14B-720P": SkyReelsDFLarge720Model,
    "Skywork/SkyReels-V2-DF-14B-720P-Diffusers": SkyReelsDFLarge720Model,
    "SkyReels-V2-I2V-1.3B": SkyReelsI2VModel,
    "Skywork/SkyReels-V2-I2V-1.3B-540P-Diffusers": SkyReelsI2VModel,
    "SkyReels-V2-I2V-14B": SkyReelsI2VLargeModel,
    "Skywork/SkyReels-V2-I2V-14B-540P-Diffusers": SkyReelsI2VLargeModel,
    "SkyReels-V2-I2V-14B-720P": SkyReelsI2VLarge720Model,
    "Skywork/SkyReels-V2-I2V-14B-720P-Diffusers": SkyReelsI2VLarge720Model,
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


def at_path(name, model, path, files):
    """``model``, the class of the model ``name``, for the weights in the folder ``path``: their sizes are what the folder says.

    ``files``: {expert: path} of weights that are given apart. Raises ValueError when the folder holds no model in diffusers'
    layout, one that is not supported, or one of another family.
    """
    try:
        family = _family_of(path, model)
        check_folder(family, Weights(path, files))
        sizes = family.sizes(*read_configs(path)[1:])
    except ValueError as error:
        raise ValueError(f"--model_path {error}") from None
    except KeyError as key:
        raise ValueError(f"--model_path {path}: transformer/config.json has no {key}: give a folder whose has one") from None
    if family.facts != model.family.facts:
        of_it = [one for one, other in DUALPARAL_MODELS.items() if other.family.facts == family.facts]
        names = [one for one in of_it if one.startswith(("Wan2", "FastWan2", "SkyReels"))] or of_it
        raise ValueError(
            f"--model {name} is {model.family.facts.name} and --model_path {path} holds {family.facts.name}: give --model "
            f"{' or '.join(names)}, or another folder"
        )
    settings, transformer = replace(model.settings, model_name=str(path)), read_configs(path)[1]
    defaults = replace(model.default_input_values, flow_shift=None)  # the folder's scheduler has its own
    own = dict(settings=settings, default_input_values=defaults, usual_shift=model.default_input_values.flow_shift,
               needs_last_image=transformer.get("pos_embed_seq_len") is not None)
    return type(model.__name__, (model,), own | sizes._asdict())


def _family_of(path, model):
    """The family that the folder is of; the model's own where the folder does not say."""
    try:
        return family_of_folder(path)
    except ValueError:
        return model.family  # check_folder says what is wrong


def _nearest_first(name, known):
    def likeness(other):
        return difflib.SequenceMatcher(None, str(name).lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)
