"""Wan2.2 text-and-image-to-video (TI2V-5B).

Knows: what of the model is not as Wan2.1's. Must not know: stages' processes, schedules, files, where an image comes from.
Facts are from Wan2.2's wan/configs/wan_ti2v_5B.py and diffusers 0.42.1, pipelines/wan/pipeline_wan_i2v.py (expand_timesteps).
"""

from dataclasses import replace

from .wan import WanFamily


class WanTI2VFamily(WanFamily):
    """One transformer of which each token has a timestep of its own: without an image all have the step's, as in Wan2.1; a given image
    is the video's first latent frame, clean, with timestep 0. Its VAE has 48 channels, 16 x 16 pixels a latent and shortcuts
    around its levels: the same class, whose configuration says so."""

    facts = replace(
        WanFamily.facts, name="Wan2.2 text-and-image-to-video", example="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        trained_latents=31, clean_frames=True,  # 121 frames, 1 + 30 * 4
    )
