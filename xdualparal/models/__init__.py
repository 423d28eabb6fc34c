"""Model families that DualParal can run."""

from pathlib import Path

from .tensors import read_json
from .wan import WanFamily
from .wan22 import Wan22Family
from .wan_configs import has_clean_frames, has_two_experts, index_of
from .wan_ti2v import WanTI2VFamily

FAMILIES = (WanFamily, Wan22Family, WanTI2VFamily)


def family_of(pipeline):
    """Returns the family that runs ``pipeline``, a diffusers pipeline.

    Raises ValueError when there is none, or when the family would compute this pipeline wrongly.
    """
    if not isinstance(pipeline, WanFamily.classes().pipeline):
        known = ", ".join(sorted({family.classes().pipeline.__name__ for family in FAMILIES}))
        raise ValueError(f"{type(pipeline).__name__} has no DualParal support: give one of {known}")
    family = _family_of_index(index_of(pipeline))
    family.check_pipeline(pipeline)
    return family()


def family_of_folder(folder):
    """Returns the family that runs the checkpoint in ``folder``, by its model_index.json; the folder is checked by
    ``folder.check_folder``. Raises ValueError, one line, where that file cannot be read."""
    return _family_of_index(read_json(Path(folder, "model_index.json")))()


def _family_of_index(index):
    if has_clean_frames(index):
        return WanTI2VFamily
    return Wan22Family if has_two_experts(index) else WanFamily
