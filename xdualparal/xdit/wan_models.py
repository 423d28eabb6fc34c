"""The Wan models that DualParal runs, each with its sizes and its defaults.

Knows: what a model's own card and code say of it. Must not know: how a model is loaded or run (models.py), or its names (registry.py).
Where xDiT 0.7.0 has other defaults (its Wan2.1-T2V has Wan2.2's shift), the model's authors' count.
"""

from dataclasses import replace

from xfuser.model_executor.models.runner_models.wan import xFuserWan21T2VModel

from ..models.fixed_steps import FixedStepsScheduler, RenoisedStepsScheduler
from ..models.wan22 import Wan22Family
from ..models.wan_ti2v import WanTI2VFamily
from .models import DualParalWanModel

_DEFAULTS = xFuserWan21T2VModel.default_input_values  # xDiT's negative prompt is the authors', in English


class Wan21T2VModel(DualParalWanModel):
    """Wan2.1-T2V-14B."""

    num_layers, num_heads, transformer_config = 40, 40, dict(ffn_dim=13824)  # DESIGN section 3
    # Size, frames, guidance, shift ("5.0 for 720P, 3.0 for 480P"): the card of Wan-AI/Wan2.1-T2V-14B-Diffusers, and diffusers
    # 0.42.1, pipelines/wan/pipeline_wan.py, which also has the steps.
    default_input_values = replace(
        _DEFAULTS, height=720, width=1280, num_frames=81, num_inference_steps=50, guidance_scale=5.0, flow_shift=5,
    )


class Wan21T2VSmallModel(DualParalWanModel):
    """Wan2.1-T2V-1.3B, which xDiT does not register."""

    num_layers, num_heads, transformer_config = 30, 12, dict(ffn_dim=8960)  # DESIGN section 3
    settings = replace(
        DualParalWanModel.settings, model_name="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", output_name="wan2.1_t2v_1.3b"
    )
    # As the 14B's, with the card's size and shift for 480P.
    default_input_values = replace(
        _DEFAULTS, height=480, width=832, num_frames=81, num_inference_steps=50, guidance_scale=5.0, flow_shift=3,
    )


class Wan22T2VModel(DualParalWanModel):
    """Wan2.2-T2V-A14B: two experts of 14B."""

    family = Wan22Family()
    num_layers, num_heads, transformer_config = 40, 40, dict(ffn_dim=13824)  # DESIGN section 3, each expert
    boundary_ratio = 0.875  # of the hub's model, as DESIGN section 3: the noise level from which the first expert works
    settings = replace(
        DualParalWanModel.settings, model_name="Wan-AI/Wan2.2-T2V-A14B-Diffusers", output_name="wan2.2_t2v",
        fp8_gemm_module_list=["transformer.blocks", "transformer_2.blocks"],
        transformer_attr_names=["transformer", "transformer_2"], fp8_precision_overrides=None,
    )
    # Size, frames, steps, the experts' guidance, 16 frames a second: the card of Wan-AI/Wan2.2-T2V-A14B-Diffusers. Shift, and the
    # same steps and guidance: Wan2.2's own code, wan/configs/wan_t2v_A14B.py.
    default_input_values = replace(
        _DEFAULTS, height=720, width=1280, num_frames=81, num_inference_steps=40, guidance_scale=4.0, guidance_scale_2=3.0,
        flow_shift=12,
    )


class Wan22DistilledT2VModel(Wan22T2VModel):
    """Wan2.2-T2V-A14B with LightX2V's distilled experts: 4 fixed steps, guidance is in the weights.

    Its own weights are those of ``--distilled_transformer_path`` (noisy steps) and ``--distilled_transformer_2_path``; all else is
    the base model's, as in xDiT's Wan2.2-Distilled-I2V.
    """

    needs_distilled = has_fixed_steps = True
    capabilities = replace(Wan22T2VModel.capabilities, supports_distilled_weights=True)
    settings = replace(Wan22T2VModel.settings, output_name="wan2.2_distilled_t2v")
    # LightX2V, configs/wan22/wan_moe_t2v_distill.json, its steps and shift: FixedStepsScheduler.
    default_input_values = replace(
        _DEFAULTS, height=480, width=832, num_frames=81, num_inference_steps=4, guidance_scale=1.0, guidance_scale_2=1.0,
        flow_shift=None, negative_prompt=None,
    )

    @classmethod
    def scheduler(cls, stored, shift=None):
        """A FixedStepsScheduler, whatever the folder has."""
        return FixedStepsScheduler()


class Wan22TI2VModel(DualParalWanModel):
    """Wan2.2-TI2V-5B: one transformer, of text alone or of text and an image."""

    family = WanTI2VFamily()
    num_layers, num_heads, pixels_per_token = 30, 24, 32  # DESIGN section 3: VAE factor 16, patch 2
    transformer_config = dict(in_channels=48, out_channels=48, ffn_dim=14336)
    # vae/config.json of Wan-AI/Wan2.2-TI2V-5B-Diffusers
    vae_config = dict(
        base_dim=160, decoder_base_dim=256, z_dim=48, in_channels=12, out_channels=12, patch_size=2, is_residual=True, scale_factor_spatial=16,
        temperal_downsample=[False, True, True],
    )
    settings = replace(DualParalWanModel.settings, model_name="Wan-AI/Wan2.2-TI2V-5B-Diffusers", output_name="wan2.2_ti2v", fps=24, mod_value=32)
    # Size, steps, guidance, shift, frames a second: Wan2.2's own code, wan/configs/wan_ti2v_5B.py, 704 x 1280 there, and 121 frames.
    default_input_values = replace(
        _DEFAULTS, height=704, width=1280, num_frames=121, num_inference_steps=50, guidance_scale=5.0, flow_shift=5,
    )


class FastWan22TI2VModel(Wan22TI2VModel):
    """FastWan2.2-TI2V-5B with full attention: Wan2.2-TI2V-5B, distilled for 3 fixed steps; guidance is in the weights."""

    has_fixed_steps = True
    settings = replace(Wan22TI2VModel.settings, model_name="FastVideo/FastWan2.2-TI2V-5B-FullAttn-Diffusers", output_name="fastwan2.2_ti2v")
    # FastVideo, fastvideo/configs/pipelines/wan.py, its steps: RenoisedStepsScheduler.
    default_input_values = replace(
        Wan22TI2VModel.default_input_values, num_inference_steps=3, guidance_scale=1.0, flow_shift=None, negative_prompt=None,
    )

    @classmethod
    def scheduler(cls, stored, shift=None):
        """A RenoisedStepsScheduler, whatever the folder has."""
        return RenoisedStepsScheduler()
