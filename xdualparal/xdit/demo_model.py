"""The demo models in xDiT's terms.

Knows: their folders and their defaults. Must not know: how a video is made.
"""

from dataclasses import replace
from pathlib import Path

import torch
from xfuser.model_executor.models.runner_models.base_model import DefaultInputValues, ModelSettings

from ..models.wan_i2v import WanI2VFamily
from .models import DualParalWanModel

_DEMO = Path(__file__).parent.parent / "demo"
TINY_WAN_FOLDER, TINY_WAN_2_FOLDER, TINY_WAN_I2V_FOLDER = _DEMO / "tiny-wan", _DEMO / "tiny-wan-2", _DEMO / "tiny-wan-i2v"


class TinyWanModel(DualParalWanModel):
    """The demo model in this package: 32 x 32 pixels, for a CPU. See examples/train_tiny_wan.py."""

    num_layers, num_heads, pixels_per_token = 8, 4, 8
    dtype = torch.float32
    settings = ModelSettings(
        model_name=str(TINY_WAN_FOLDER), output_name="tiny_wan", model_output_type="video", fps=16, mod_value=16
    )
    default_input_values = DefaultInputValues(
        height=32, width=32, num_frames=81, num_inference_steps=50, guidance_scale=1.5, negative_prompt=""
    )


class TinyWan2Model(TinyWanModel):
    """The second demo model in this package: 64 x 64 pixels, the world of demo/world.py. See examples/train_tiny_wan_2.py."""

    pixels_per_token = 16
    settings = replace(TinyWanModel.settings, model_name=str(TINY_WAN_2_FOLDER), output_name="tiny_wan_2")
    default_input_values = replace(TinyWanModel.default_input_values, height=64, width=64)


class TinyWanI2VModel(TinyWanModel):
    """The image-to-video demo model in this package: tiny-wan's world, the object of a picture moves on. See examples/train_tiny_wan_i2v.py."""

    family = WanI2VFamily()
    settings = replace(TinyWanModel.settings, model_name=str(TINY_WAN_I2V_FOLDER), output_name="tiny_wan_i2v")
