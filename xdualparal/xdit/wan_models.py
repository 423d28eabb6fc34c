"""The Wan models that DualParal runs, each with its sizes and its defaults.

Knows: what a model's own card says of it. Must not know: how a model is loaded or run (models.py).
"""

from dataclasses import replace

from xfuser.model_executor.models.runner_models.wan import xFuserWan21T2VModel

from ..models.folder import check_folder
from ..models.weights import read_configs
from .models import DualParalWanModel


def at_path(model, path):
    """``model``, a class, for the weights in the folder ``path``: their sizes are what the folder says.

    Raises ValueError when it holds no Wan model in diffusers' layout, or one that is not supported.
    """
    try:
        check_folder(model.family, path)
        sizes = model.family.sizes(*read_configs(path)[1:])
    except ValueError as error:
        raise ValueError(f"--model_path {error}") from None
    except KeyError as name:
        raise ValueError(f"--model_path {path}: transformer/config.json has no {name}: give a folder whose has one") from None
    settings = replace(model.settings, model_name=str(path))
    defaults = replace(model.default_input_values, flow_shift=None)  # the folder's scheduler has its own
    return type(model.__name__, (model,), dict(settings=settings, default_input_values=defaults, **sizes._asdict()))


class Wan21T2VSmallModel(DualParalWanModel):
    """Wan2.1-T2V-1.3B, which xDiT does not register; its defaults are those of the model's own card."""

    num_layers, num_heads = 30, 12
    settings = replace(
        xFuserWan21T2VModel.settings, model_name="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", output_name="wan2.1_t2v_1.3b"
    )
    default_input_values = replace(
        xFuserWan21T2VModel.default_input_values, height=480, width=832, num_inference_steps=50, guidance_scale=5.0,
        flow_shift=3,
    )
