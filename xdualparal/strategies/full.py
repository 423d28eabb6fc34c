"""The whole video as one block: what the ordinary pipeline does, on stages and with xDiT's sequence parallelism.

Knows: that a plan with one block is that. Must not know: tensors, processes, how a pass is computed.

A block's self-attention sees all of the video, so that its work grows with the square of the length, and its memory with the length.
"""

from dataclasses import dataclass

from ..plan.layout import Layout
from ..plan.settings import Settings
from .base import OnStages
from .dualparal import DualParalPlan


@dataclass(frozen=True)
class FullSettings(Settings):
    """There is nothing to choose."""


class Full(OnStages):
    """The strategy; see base.Strategy."""

    name = "full"
    Settings = FullSettings
    window_settings = ()
    takes_images = True

    def plan(self, settings, latent_frames, num_steps, lanes, expert_starts=(0,)):
        """One block of all latent frames. Raises ValueError for a video without end."""
        if latent_frames is None:
            raise ValueError("num_frames is 0, for a video without end, and strategy is full, one block of all frames: give a number of frames")
        return DualParalPlan(
            1, num_steps, lanes.stages, 1, lanes.split_guidance, lanes.decode, layout=self.layout(settings, latent_frames),
            expert_starts=expert_starts, swaps_experts=lanes.swaps_experts,
        )

    def layout(self, settings, latent_frames):
        """One block."""
        return Layout(latent_frames, 0, latent_frames)
