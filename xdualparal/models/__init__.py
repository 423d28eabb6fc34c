"""Model families that DualParal can run."""

from pathlib import Path

from .skyreels import SkyReelsDFFamily
from .skyreels_i2v import SkyReelsI2VFamily
from .tensors import read_json
from .wan import WanFamily
from .wan22 import Wan22Family
from .wan_configs import class_among, has_clean_frames, has_two_experts, index_of, sees_images
from .wan_i2v import Wan21I2VFamily, Wan22I2VFamily, WanI2VFamily
from .wan_ti2v import WanTI2VFamily

FAMILIES = (WanFamily, Wan22Family, WanTI2VFamily, WanI2VFamily, Wan21I2VFamily, Wan22I2VFamily, SkyReelsDFFamily, SkyReelsI2VFamily)


def family_of(pipeline):
    """Returns the family that runs ``pipeline``, a diffusers pipeline.

    Raises ValueError when there is none, or when the family would compute this pipeline wrongly.
    """
    # By name: importing all of them takes time, and some warn.
    kind = class_among(pipeline, {name for family in FAMILIES for name in (family.facts.pipeline, *family.facts.same_pipelines)})
    if kind is None:
        known = sorted({family.facts.pipeline for family in FAMILIES})
        raise ValueError(f"{type(pipeline).__name__} has no DualParal support: give one of {', '.join(known)}")
    family = _family_of_index(dict(index_of(pipeline), _class_name=kind.__name__))
    family.check_pipeline(pipeline)
    return family()


def family_of_folder(folder):
    """Returns the family that runs the checkpoint in ``folder``, by its model_index.json; the folder is checked by
    ``folder.check_folder``. Raises ValueError, one line, where that file cannot be read."""
    return _family_of_index(read_json(Path(folder, "model_index.json")))()


def _family_of_index(index):
    for family in (SkyReelsDFFamily, SkyReelsI2VFamily):
        if index.get("_class_name") in (family.facts.pipeline, *family.facts.same_pipelines):
            return family
    if index.get("_class_name") == WanI2VFamily.facts.pipeline:
        return Wan21I2VFamily if sees_images(index) else Wan22I2VFamily if has_two_experts(index) else WanI2VFamily
    if has_clean_frames(index):
        return WanTI2VFamily
    return Wan22Family if has_two_experts(index) else WanFamily
