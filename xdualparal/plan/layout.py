"""Which latent frames and video frames a block owns.

Knows: the sizes of blocks (DESIGN section 2). Must not know: steps, waves, tensors.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """A video cut into blocks: block 0 owns B + C latent frames, every other block B.

    ``block_latents``: B. ``context_latents``: C, 0 to B.
    """

    block_latents: int
    context_latents: int

    @property
    def window_latents(self):
        """Latent frames in every window, B + C."""
        return self.block_latents + self.context_latents

    def own_latents(self, block):
        """Latent frames that ``block`` owns."""
        return self.window_latents if block == 0 else self.block_latents

    def first_latent(self, block):
        """The video's latent frame with which ``block`` begins."""
        return 0 if block == 0 else self.context_latents + block * self.block_latents

    def num_blocks(self, latent_frames):
        """Whole blocks that hold ``latent_frames`` (at least 1) latent frames."""
        beyond_first = max(0, latent_frames - self.window_latents)
        return 1 + -(-beyond_first // self.block_latents)

    def frames_of(self, blocks, num_frames, frames_per_latent):
        """Video frames in the first ``blocks`` blocks of a video of ``num_frames`` (0: endless). A latent frame is
        ``frames_per_latent`` video frames, the video's first one is 1."""
        latents = self.first_latent(blocks)
        frames = 1 + (latents - 1) * frames_per_latent if latents else 0
        return min(frames, num_frames) if num_frames else frames

    def whole_blocks(self, frames, num_frames, frames_per_latent):
        """How many blocks of a video of ``num_frames`` (0: endless) are whole in its first ``frames``."""
        blocks = 0
        while blocks * frames_per_latent < frames and self.frames_of(blocks + 1, num_frames, frames_per_latent) <= frames:
            blocks += 1
            if self.frames_of(blocks, num_frames, frames_per_latent) == num_frames:
                break
        return blocks
