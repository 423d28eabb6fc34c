"""The image-to-video models of Wan that DualParal runs, each with its sizes and its defaults.

Knows: what a model's own card and code say of it. Must not know: how a model is loaded or run (models.py), or its names (registry.py).
"""

from dataclasses import replace

from ..models.fixed_steps import FixedStepsScheduler
from ..models.wan_i2v import Wan21I2VFamily, Wan22I2VFamily
from .models import DualParalWanModel
from .wan_models import Wan22T2VModel

_DEFAULTS = DualParalWanModel.default_input_values


class Wan21I2VModel(DualParalWanModel):
    """Wan2.1-I2V-14B-720P."""

    family = Wan21I2VFamily()
    num_layers, num_heads = 40, 40  # DESIGN section 3
    transformer_config = dict(ffn_dim=13824, in_channels=36, out_channels=16, image_dim=1280, added_kv_proj_dim=5120)
    settings = replace(DualParalWanModel.settings, model_name="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", output_name="wan2.1_i2v")
    # Steps (40 for images), shift and guidance: Wan2.1's own code, generate.py.
    default_input_values = replace(
        _DEFAULTS, height=720, width=1280, num_frames=81, num_inference_steps=40, guidance_scale=5.0, flow_shift=5,
    )


class Wan21I2V480Model(Wan21I2VModel):
    """Wan2.1-I2V-14B-480P."""

    settings = replace(Wan21I2VModel.settings, model_name="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", output_name="wan2.1_i2v_480p")
    default_input_values = replace(Wan21I2VModel.default_input_values, height=480, width=832, flow_shift=3)  # generate.py


class Wan21PairModel(Wan21I2VModel):
    """Wan2.1-FLF2V-14B-720P: of a first and a last image, which it must be given both."""

    needs_last_image = True
    transformer_config = dict(Wan21I2VModel.transformer_config, pos_embed_seq_len=514)
    settings = replace(Wan21I2VModel.settings, model_name="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", output_name="wan2.1_flf2v")
    # Wan2.1's own code, wan/configs/__init__.py and generate.py: 50 steps, shift 16.
    default_input_values = replace(Wan21I2VModel.default_input_values, num_inference_steps=50, flow_shift=16)


class Wan22I2VModel(Wan22T2VModel):
    """Wan2.2-I2V-A14B: two experts of 14B."""

    family = Wan22I2VFamily()
    transformer_config = dict(Wan22T2VModel.transformer_config, in_channels=36, out_channels=16)
    boundary_ratio = 0.9  # DESIGN section 3
    settings = replace(Wan22T2VModel.settings, model_name="Wan-AI/Wan2.2-I2V-A14B-Diffusers", output_name="wan2.2_i2v")
    # Steps, guidance of both experts, shift: Wan2.2's own code, wan/configs/wan_i2v_A14B.py.
    default_input_values = replace(
        _DEFAULTS, height=720, width=1280, num_frames=81, num_inference_steps=40, guidance_scale=3.5, guidance_scale_2=3.5, flow_shift=5,
    )


class Wan22DistilledI2VModel(Wan22I2VModel):
    """Wan2.2-I2V-A14B with LightX2V's distilled experts: 4 fixed steps, guidance is in the weights. See wan_models.Wan22DistilledT2VModel."""

    needs_distilled = has_fixed_steps = True
    capabilities = replace(Wan22I2VModel.capabilities, supports_distilled_weights=True)
    settings = replace(Wan22I2VModel.settings, output_name="wan2.2_distilled_i2v")
    # LightX2V, configs/wan22/wan_moe_i2v_distill.json, its steps and shift, as in xDiT 0.7.0: FixedStepsScheduler.
    default_input_values = replace(
        _DEFAULTS, height=480, width=832, num_frames=81, num_inference_steps=4, guidance_scale=1.0, guidance_scale_2=1.0, flow_shift=None,
        negative_prompt=None,
    )

    @classmethod
    def scheduler(cls, stored, shift=None):
        """A FixedStepsScheduler, whatever the folder has."""
        return FixedStepsScheduler()
