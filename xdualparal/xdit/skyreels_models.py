"""The SkyReels-V2 models that DualParal runs, each with its sizes and its defaults.

Knows: what a model's own card and code say of it. Must not know: how a model is loaded or run (models.py), or its names (registry.py).
"""

from dataclasses import replace

from ..models.skyreels import SkyReelsDFFamily
from ..models.skyreels_i2v import SkyReelsI2VFamily
from .models import DualParalWanModel


class SkyReelsDFModel(DualParalWanModel):
    """SkyReels-V2-DF-1.3B-540P."""

    family = SkyReelsDFFamily()
    num_layers, num_heads = 30, 12  # diffusers' scripts/convert_skyreelsv2_to_diffusers.py, also what follows
    transformer_config = dict(ffn_dim=8960, inject_sample_info=True)
    settings = replace(
        DualParalWanModel.settings, model_name="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers", output_name="skyreels_v2_df_1.3b", fps=24
    )
    # Size, frames, steps, guidance, shift (8, as for text-to-video), frames a second: SkyworkAI/SkyReels-V2, generate_video_df.py.
    # Its negative prompt is Wan's.
    default_input_values = replace(
        DualParalWanModel.default_input_values, height=544, width=960, num_frames=97, num_inference_steps=30, guidance_scale=6.0, flow_shift=8,
    )


class SkyReelsDFLargeModel(SkyReelsDFModel):
    """SkyReels-V2-DF-14B-540P."""

    num_layers, num_heads, transformer_config = 40, 40, dict(ffn_dim=13824)
    settings = replace(SkyReelsDFModel.settings, model_name="Skywork/SkyReels-V2-DF-14B-540P-Diffusers", output_name="skyreels_v2_df_14b")


class SkyReelsDFLarge720Model(SkyReelsDFLargeModel):
    """SkyReels-V2-DF-14B-720P: clips of 121 frames at 720 x 1280 (the README of SkyworkAI/SkyReels-V2)."""

    trained_latents = 31  # 121 frames, 1 + 30 * 4
    settings = replace(
        SkyReelsDFModel.settings, model_name="Skywork/SkyReels-V2-DF-14B-720P-Diffusers", output_name="skyreels_v2_df_14b_720p"
    )
    default_input_values = replace(SkyReelsDFModel.default_input_values, height=720, width=1280, num_frames=121)


class SkyReelsI2VModel(SkyReelsDFModel):
    """SkyReels-V2-I2V-1.3B-540P."""

    family = SkyReelsI2VFamily()
    transformer_config = dict(ffn_dim=8960, in_channels=36, out_channels=16, image_dim=1280, added_kv_proj_dim=1536)
    settings = replace(SkyReelsDFModel.settings, model_name="Skywork/SkyReels-V2-I2V-1.3B-540P-Diffusers", output_name="skyreels_v2_i2v_1.3b")
    # Steps: SkyworkAI/SkyReels-V2, generate_video.py. Guidance and shift for images: the table of its README, and diffusers' page on SkyReels-V2.
    default_input_values = replace(SkyReelsDFModel.default_input_values, guidance_scale=5.0, flow_shift=5)


class SkyReelsI2VLargeModel(SkyReelsI2VModel):
    """SkyReels-V2-I2V-14B-540P."""

    num_layers, num_heads = 40, 40
    transformer_config = dict(SkyReelsI2VModel.transformer_config, ffn_dim=13824, added_kv_proj_dim=5120)
    settings = replace(SkyReelsI2VModel.settings, model_name="Skywork/SkyReels-V2-I2V-14B-540P-Diffusers", output_name="skyreels_v2_i2v_14b")


class SkyReelsI2VLarge720Model(SkyReelsI2VLargeModel):
    """SkyReels-V2-I2V-14B-720P: clips of 121 frames, as SkyReels-V2-DF-14B-720P."""

    trained_latents = SkyReelsDFLarge720Model.trained_latents
    settings = replace(SkyReelsI2VModel.settings, model_name="Skywork/SkyReels-V2-I2V-14B-720P-Diffusers", output_name="skyreels_v2_i2v_14b_720p")
    default_input_values = replace(SkyReelsI2VModel.default_input_values, height=720, width=1280, num_frames=121)
