"""Which latent frames and video frames a block owns.

Knows: the sizes of blocks (DESIGN section 2). Must not know: steps, waves, tensors.
"""

from dataclasses import dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class Layout:
    """A video cut into blocks: block 0 owns B + C latent frames, every other block B, and the last one what is left.

    ``block_latents``: B. ``context_latents``: C, 0 to B. ``latent_frames``: of the video, at least 1; None: it has no end.
    ``equal_windows``: whether the windows of block 0 and the other whole blocks have one size, B + C; else the others' have B.
    ``overlap_latents``: V, 0 to B / 2, without context only: the last V of a block's latent frames are also the first V of the next one's,
    and are given to the video with that one.
    ``continued_latents``: the first so many of block 0's, at most B, are another video's last ones, which this one continues: they are
    among ``latent_frames``, and this video has no frames of them.
    """

    block_latents: int
    context_latents: int
    latent_frames: int | None = None
    equal_windows: bool = True
    overlap_latents: int = 0
    continued_latents: int = 0

    def __post_init__(self):
        assert not (self.overlap_latents and self.context_latents), "blocks that overlap have no context"
        assert 0 <= self.continued_latents <= self.block_latents, f"{self.continued_latents} latents of another video, blocks of {self.block_latents}"
        assert 0 <= 2 * self.overlap_latents <= self.block_latents, f"{self.block_latents} latents overlap in {self.overlap_latents}"

    @property
    def window_latents(self):
        """Latent frames in the largest windows, B + C."""
        return self.block_latents + self.context_latents

    @cached_property
    def num_blocks(self):
        """How many blocks hold the video; None where it has no end."""
        if self.latent_frames is None:
            return None
        beyond_first = max(0, self.latent_frames - self.window_latents)
        return 1 + -(-beyond_first // (self.block_latents - self.overlap_latents))

    def own_latents(self, block):
        """Latent frames that ``block`` owns, and denoises."""
        is_last = block + 1 == self.num_blocks
        return self.given_latents(block) + (0 if is_last else self.overlap_latents)

    def given_latents(self, block):
        """Latent frames that the video has more when ``block`` is finished: all that it owns, but those that the next one has, too."""
        return self.first_latent(block + 1) - self.first_latent(block)

    def first_latent(self, block):
        """The video's latent frame with which ``block`` begins; of the block behind the last one, the video's end."""
        if self.num_blocks is not None and block >= self.num_blocks:
            return self.latent_frames
        return 0 if block == 0 else self.context_latents + block * (self.block_latents - self.overlap_latents)

    @property
    def seen_latents(self):
        """The most latent frames that one pass attends to: its window, B + C, and up to C of the next block."""
        beyond = self.context_latents if self.num_blocks is None else self.latent_frames - self.own_latents(0)
        return self.own_latents(0) + min(self.context_latents, beyond)

    def shortest_alike(self):
        """The Layout of the shortest video whose windows have the same sizes: what a warm-up should make."""
        if self.num_blocks == 1:
            return self
        last = self.block_latents if self.num_blocks is None else self.own_latents(self.num_blocks - 1)
        whole = last == self.block_latents or self.equal_windows or self.num_blocks == 2
        before = 1 if whole else 2
        return replace(self, latent_frames=self.first_latent(before) + last)

    def of_blocks(self, count):
        """The Layout of the first ``count`` blocks as a video of their own: whole ones, up to this video's end."""
        return replace(self, latent_frames=self.first_latent(count - 1) + self.own_latents(count - 1))

    def frames_of(self, blocks, num_frames, frames_per_latent):
        """Video frames in the first ``blocks`` blocks of a video of ``num_frames`` (0: endless). A latent frame is
        ``frames_per_latent`` video frames, the first one of a video that continues no other is 1."""
        latents = self.first_latent(blocks)
        if self.continued_latents:
            frames = max(0, latents - self.continued_latents) * frames_per_latent
        else:
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
