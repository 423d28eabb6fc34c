"""A small SkyReels-V2-DF pipeline with random weights, the same in every process, and its cases."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2Transformer3DModel,
)
from PIL import Image

from xdualparal.models.wan_vae import encode

from .runs import SIZE, Case
from .small_wan import SCHEDULERS, TEXT_DIM, small_vae

SETTINGS = dict(
    num_attention_heads=4, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=TEXT_DIM, freq_dim=32, ffn_dim=64, num_layers=4,
)


def small_df_transformer(seed=0, **other):
    """4 layers, 4 heads, as small_wan's, with the embedding of the frames a second. ``other``: settings."""
    torch.manual_seed(seed)
    transformer = SkyReelsV2Transformer3DModel(**SETTINGS | dict(inject_sample_info=True) | other)
    for block in transformer.blocks:
        block.attn1.norm_q.weight.data.fill_(2.0)
        block.scale_shift_table.data.normal_(std=0.5)
    return transformer.eval()


def small_df_pipeline(scheduler="unipc", cls=SkyReelsV2DiffusionForcingPipeline, **settings):
    """A SkyReelsV2DiffusionForcingPipeline without text encoder: give it prompt_embeds. ``settings``: of the transformer."""
    return cls(
        tokenizer=None, text_encoder=None, vae=small_vae(), scheduler=SCHEDULERS[scheduler](), transformer=small_df_transformer(**settings)
    )


def picture(seed=1):
    """A PIL image of random colours, of 32 x 32 pixels."""
    colours = torch.randint(0, 256, (5, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(colours.numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


class DiffusionForcing:
    """A SkyReelsV2Transformer3DModel that is called as the sequential program calls Wan's: with one timestep, or one a token."""

    def __init__(self, transformer):
        vars(self)["_transformer"] = transformer

    def __getattr__(self, name):
        return getattr(self._transformer, name)

    def __setattr__(self, name, value):
        setattr(self._transformer, name, value)

    def __call__(self, window, timestep, text, return_dict):
        frames = window.shape[2]
        timestep = timestep.long().reshape(1, -1)
        of_frames = timestep.expand(1, frames) if timestep.shape[1] == 1 else timestep[:, ::timestep.shape[1] // frames]
        return self._transformer(
            window, of_frames, text, enable_diffusion_forcing=True, fps=[1] * len(window), return_dict=return_dict  # 24 frames a second
        )


@dataclass(frozen=True)
class DFCase(Case):
    """A video for the executor and for the sequential program. ``has_rate``: see inject_sample_info. ``has_picture``: whether
    the call, of ours or of diffusers, has an image instead of the sequential program's latents of one. ``has_video``: whether it goes
    on from a video, as diffusers' video-to-video does: from its last frames, encoded as if they were a video of their own."""

    context_timestep: str = "model"
    has_rate: bool = True
    has_picture: bool = False
    has_video: bool = False

    def pipeline(self):
        """A small pipeline for it."""
        of_text, of_image = SkyReelsV2DiffusionForcingPipeline, SkyReelsV2DiffusionForcingImageToVideoPipeline
        kind = SkyReelsV2DiffusionForcingVideoToVideoPipeline if self.has_video else of_image if self.has_picture else of_text
        pipeline = small_df_pipeline(self.scheduler, kind, inject_sample_info=self.has_rate)
        pipeline.transformer.to(self.dtype)
        return pipeline

    def transformer(self):
        """See DiffusionForcing."""
        return DiffusionForcing(small_df_transformer(inject_sample_info=self.has_rate))

    @property
    def has_true_timesteps(self):
        """As the model was trained, unless it is asked for otherwise."""
        return self.context_timestep != "own" and not self.cached

    def arguments(self):
        """The arguments of a pipeline call."""
        of_video = dict(continue_latents=encode(small_vae(), np.stack(self.video()[-1 - 4 * (self.context - 1):]))) if self.has_video else {}
        return super().arguments() | (dict(image=picture()) if self.has_picture else {}) | of_video

    def video(self):
        """PIL images of a video that is continued."""
        return [picture(seed) for seed in range(11)]

    def ordinary_arguments(self):
        """``arguments`` as diffusers' pipeline takes them."""
        arguments = {name: value for name, value in self.arguments().items() if name not in ("guidance_scale_2", "continue_latents")}
        return arguments | dict(prompt=None) | (dict(video=self.video()) if self.has_video else {})
