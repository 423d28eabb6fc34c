"""Model families that DualParal can run."""

from pathlib import Path

from .skyreels import SkyReelsDFFamily
from .tensors import read_json
from .wan import WanFamily
from .wan22 import Wan22Family
from .wan_configs import has_two_experts, index_of

FAMILIES = (WanFamily, Wan22Family, SkyReelsDFFamily)


def family_of(pipeline):
    """Returns the family that runs ``pipeline``, a diffusers pipeline.

    Raises ValueError when there is none, or when the family would compute this pipeline wrongly.
    """
    kinds = {family.classes().pipeline for family in FAMILIES}
    kind = next((kind for kind in kinds if isinstance(pipeline, kind)), None)
    if kind is None:
        raise ValueError(f"{type(pipeline).__name__} has no DualParal support: give one of {', '.join(sorted(one.__name__ for one in kinds))}")
    family = _family_of_index(dict(index_of(pipeline), _class_name=kind.__name__))
    family.check_pipeline(pipeline)
    return family()


def family_of_folder(folder):
    """Returns the family that runs the checkpoint in ``folder``, by its model_index.json; the folder is checked by
    ``folder.check_folder``. Raises ValueError, one line, where that file cannot be read."""
    return _family_of_index(read_json(Path(folder, "model_index.json")))()


def _family_of_index(index):
    if index.get("_class_name") == SkyReelsDFFamily.classes().pipeline.__name__:
        return SkyReelsDFFamily
    return Wan22Family if has_two_experts(index) else WanFamily
