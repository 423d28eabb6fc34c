"""SkyReels-V2 image-to-video (SkyReels-V2-I2V): Wan2.1's way of it with SkyReels' transformer.

Knows: that it is these two. Must not know: stages' processes, schedules, files, where an image comes from.
Facts are from diffusers 0.42.1, pipelines/skyreels_v2/pipeline_skyreels_v2_i2v.py, which is its pipelines/wan/pipeline_wan_i2v.py without Wan2.2's cases.

The image is in channels beside the latents, with a mask, and in cross-attention, as CLIP describes it (wan_i2v.py); a last image too, where the model has an
embedding of their places (pos_embed_seq_len): diffusers' pipeline fails on one where it has none, and here it is refused. The frames of a window have one
timestep, and these models have no embedding of the frames a second; the DF models (skyreels.py) make a video of an image in another way.
"""

from dataclasses import replace

from .skyreels import SkyReelsTransformer
from .wan_i2v import Wan21I2VFamily


class SkyReelsI2VFamily(SkyReelsTransformer, Wan21I2VFamily):
    """SkyReels-V2-I2V: see ``base.Family`` for what each function answers."""

    facts = replace(
        Wan21I2VFamily.facts, name="SkyReels-V2 image-to-video", pipeline="SkyReelsV2ImageToVideoPipeline",
        example="Skywork/SkyReels-V2-I2V-14B-540P-Diffusers", trained_latents=25,  # 97 frames, at 540P
    )
