"""Where a video's blocks meet.

Knows: how blocks and latent frames become video frames, and that an mp4 or the report beside it says their sizes. Must not know: metrics.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..output.owners import spec_in_json, spec_in_video
from ..output.tags import frames_before


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video besides its frames; None: not known.

    ``block_latents``: B, at least 1, ``context_latents``: C, 0 to B, latent frames: block 0 owns B + C, the others B.
    ``frames_per_latent``: video frames of a latent frame (the first one is 1; Wan's VAE: 4). ``rate_factor``: H.264's, 0 is without loss.
    ``continues_at``: the frame with which a run began that continued another video, whose frames are before it; seams are those from there on,
    this one among them. None: it continued none.
    ``clips``: of Video-Infinity, which cuts a video into so many that differ by one latent frame at most; then there are no sizes of blocks.
    Raises ValueError for other sizes.
    """

    block_latents: int | None = None
    context_latents: int | None = None
    frames_per_latent: int = 4
    prompt: str | None = None
    rate_factor: int | None = None
    continues_at: int | None = None
    clips: int | None = None

    def __post_init__(self):
        block, context = self.block_latents, self.context_latents
        if (block is None) != (context is None):
            raise ValueError("one of block_latents and context_latents is given: seams follow from both, give the other one too")
        if self.frames_per_latent < 1:
            raise ValueError(f"frames_per_latent is {self.frames_per_latent}: give 1 or more")
        if block is not None and not (block >= 1 and 0 <= context <= block):
            raise ValueError(f"block_latents is {block} and context_latents {context}: give 1 or more, and 0 to block_latents")

    def boundaries(self, num_frames):
        """(latent frames, the video frames with which they begin) behind the first C latent frames: where a step from one latent frame
        to the next can be compared with a seam's. Two int arrays; without the sizes of blocks, from latent frame 1."""
        if self.continues_at is not None and self.block_latents is not None:
            return self._boundaries_behind_a_join(num_frames)
        first = 1 + (self.context_latents or 0)
        latents = np.arange(first, max(first, 1 - (1 - num_frames) // self.frames_per_latent))
        return latents, 1 + (latents - 1) * self.frames_per_latent

    def _boundaries_behind_a_join(self, num_frames):
        """Also those of a block's length before the join. The numbers are such that the join is a seam by ``seam_phase``."""
        before = min(self.block_latents - 1, (self.continues_at - 1) // self.frames_per_latent)
        own = np.arange(-before, -((self.continues_at - num_frames) // self.frames_per_latent))
        return own + self.block_latents + self.context_latents, self.continues_at + own * self.frames_per_latent

    def by_latent(self, values):
        """``values``, one a video frame, in rows: (boundaries, frames_per_latent), a row for each of ``boundaries``; NaN behind the end."""
        _, starts = self.boundaries(len(values))
        padded = np.append(values, np.full(self.frames_per_latent, np.nan))
        return padded[starts[:, None] + np.arange(self.frames_per_latent)]

    def is_seam(self, num_frames):
        """Whether each of ``boundaries`` is one between blocks, a bool array."""
        latents, _ = self.boundaries(num_frames)
        if self.clips is not None:
            return np.isin(latents, np.arange(1, self.clips) * (1 + len(latents)) // self.clips)  # strategies/clips.ClipLayout
        return np.zeros(len(latents), bool) if self.block_latents is None else latents % self.block_latents == self.seam_phase

    def seams(self, num_frames):
        """The video frames with which blocks begin, but the first; an int array, empty where the sizes are not known."""
        return self.boundaries(num_frames)[1][self.is_seam(num_frames)]

    @property
    def seam_phase(self):
        """The latent frame of a seam modulo B: the n-th block begins with latent frame C + n B."""
        return self.context_latents % self.block_latents


_READ = {"prompt": "prompt", "rate_factor": "quality"}  # names here and in a RunSpec


def facts_of(path, **given):
    """The VideoFacts of an mp4: what is ``given`` and not None, else what its tags say, else the JSON report beside it. The sizes of
    blocks are given or read together. Raises as VideoFacts."""
    path = Path(path)
    specs = [spec for spec in (spec_in_video(path), spec_in_json(path.with_suffix(".json"))) if spec is not None]
    known = {name: next((getattr(spec, of) for spec in specs if getattr(spec, of) is not None), None) for name, of in _READ.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if not {"block_latents", "context_latents"} & set(given):
        known |= next(filter(None, map(_sizes, specs)), {})
    if specs and specs[0].continued:
        known["continues_at"] = frames_before(path)
    return VideoFacts(**known | given)


def _sizes(spec):
    """The sizes of a run's blocks, or clips, as VideoFacts has them, or {}: full attention has none. A chunk begins where it begins to be blended into the
    one before."""
    if spec.strategy == "video_infinity":
        return dict(clips=spec.clips)
    chunks = spec.strategy == "chunks"
    block, context = (spec.chunk_latents - (spec.chunk_overlap_latents or 0), 0) if chunks else (spec.block_latents, spec.context_latents)
    return dict(block_latents=block, context_latents=context) if isinstance(block, int) and isinstance(context, int) else {}
