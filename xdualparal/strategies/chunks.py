"""Independent chunks: what a long video is without any context, to compare with.

Knows: that blocks without context and with noise of their own are that. Must not know: tensors, processes, how a pass is computed.

Every chunk is denoised alone, as a video of its own would be; the chunks' latents, one behind the other, are decoded as one video. Where
they overlap, the finished latents of two chunks are blended: from the older to the newer one, linearly. Gen-L-Video (arXiv 2305.18264)
averages the predictions in every step instead; then chunks are no longer independent.
"""

from dataclasses import dataclass

from ..limits import POSITIONS, Whole
from ..plan.layout import Layout
from ..plan.settings import Settings, setting
from .base import OnStages
from .dualparal import DualParalPlan

# Chunks that are under way together, where there are as many steps: enough for as many stages, and few, since each has latents and a
# scheduler's memory. Not as many as there are stages: a run can be resumed with another number of them.
IN_FLIGHT = 8
_CHUNK = Whole(1, POSITIONS, "where the model's table of positions ends")


@dataclass(frozen=True)
class ChunksSettings(Settings):
    """What a user chooses about chunks."""

    chunk_latents: int = setting(21, "latent frames of an independent chunk, of strategy chunks; Wan was trained on 21")

    chunk_overlap_latents: int = setting(
        0, "latent frames that a chunk has in common with the next one, at most half of them: there the two, when finished, are blended"
    )

    def check(self):
        """Raises ValueError for another number than a window can have, and where a latent frame would be in three chunks."""
        _CHUNK.of("chunk_latents", self.chunk_latents)
        most = Whole(0, self.chunk_latents // 2, f"half of chunk_latents, which is {self.chunk_latents}")
        most.of("chunk_overlap_latents", self.chunk_overlap_latents)


class Chunks(OnStages):
    """The strategy; see base.Strategy."""

    name = "chunks"
    Settings = ChunksSettings
    window_settings = ("chunk_latents",)

    def plan(self, settings, latent_frames, num_steps, lanes, expert_starts=(0,)):
        """The chunks that hold the latent frames, on the stages of ``lanes``."""
        layout = self.layout(settings, latent_frames)
        return DualParalPlan(
            layout.num_blocks, num_steps, lanes.stages, max(1, num_steps // IN_FLIGHT), lanes.split_guidance, lanes.decode, layout=layout,
            expert_starts=expert_starts, swaps_experts=lanes.swaps_experts, fresh_noise=1.0,
        )

    def layout(self, settings, latent_frames):
        """Which latent frames a chunk owns."""
        return Layout(settings.chunk_latents, 0, latent_frames, overlap_latents=settings.chunk_overlap_latents)
