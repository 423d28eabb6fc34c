"""The demo model in xDiT's terms.

Knows: its folder and its defaults. Must not know: how a video is made.
"""

from pathlib import Path

import torch
from xfuser.model_executor.models.runner_models.base_model import DefaultInputValues, ModelSettings

from .models import DualParalWanModel

TINY_WAN_FOLDER = Path(__file__).parent.parent / "demo" / "tiny-wan"


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
