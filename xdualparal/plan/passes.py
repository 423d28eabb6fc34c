"""What a pass sees and what it leaves, as a value that the strategy makes and all others read.

Knows: latent frames and K/V by name. Must not know: tensors, lanes, or how a strategy chooses.
"""

from dataclasses import dataclass
from typing import NamedTuple

from .actions import Pass


class Frames(NamedTuple):
    """Latent frames ``first`` to ``first + count`` of a block's own ones, as they stand after the pass ``one``."""

    one: Pass
    first: int
    count: int


class KVKey(NamedTuple):
    """The self-attention K/V of a part of a pass's window, on every layer. ``part``: "head", the block's own first frames, "tail",
    its last ones, or "anchor", the video's first ones.
    A store keeps one entry for each guidance branch."""

    one: Pass
    part: str


class Kept(NamedTuple):
    """Under ``key`` a pass keeps the K/V of its window's frames ``first`` to ``first + count``. ``lasts``: a later wave's pass reads
    them, so that many wait at a time."""

    key: KVKey
    first: int
    count: int
    lasts: bool = False


class Scope(NamedTuple):
    """Latent frames, by their numbers in the video, whose K/V every self-attention sees besides, of the same layer of the same step,
    the own ones or those of passes that run at the same time. ``bias``: what is added to their attention logits."""

    frames: tuple[int, ...]
    bias: float


@dataclass(frozen=True, slots=True)
class PassSpec:
    """What one pass sees and leaves. Frames are latent frames.

    ``window``: what is embedded, in order. ``predicted``: the window frames whose prediction is kept. ``position``: the
    absolute latent position of the window's first frame. ``given``: the first so many frames of the window are given, not made: they enter each
    pass with the noise of the step that ``steps`` says. ``steps``: the step whose timestep the window's frames get, one for
    all or one a frame; as many as there are steps stands for a finished frame. ``texts``: the number of the window's text in the run's table of texts, one for all: the video's. ``expert``: the number
    of the transformer that computes the pass. ``reads``: the K/V, of the same expert, that every self-attention sees beside
    the window's own: the first ``reads_before`` of them before those, the others behind, in the order of time. ``moves``: by how many latent frames the keys
    of the first of ``reads``, one each, are moved to a later place in time. ``scopes``: what it
    sees of passes that run at the same time. ``keeps``: the K/V that stay when the pass is done. ``drops``, of ``reads``, and ``frees``, of the
    window's passes: what no later pass reads.
    """

    window: tuple[Frames, ...]
    predicted: range
    position: int
    steps: tuple[int, ...]
    texts: tuple[int, ...]
    reads: tuple[KVKey, ...] = ()
    keeps: tuple[Kept, ...] = ()
    drops: tuple[KVKey, ...] = ()
    frees: tuple[Pass, ...] = ()
    expert: int = 0
    reads_before: int = 0
    moves: tuple[int, ...] = ()
    scopes: tuple[Scope, ...] = ()
    given: int = 0

    @property
    def window_latents(self):
        """Latent frames in the window."""
        return sum(frames.count for frames in self.window)


class Live(NamedTuple):
    """What the passes from a wave on need of earlier waves. ``latents``: whole blocks' latents after these passes, oldest
    block first. ``keys``: K/V."""

    latents: tuple[Pass, ...]
    keys: tuple[KVKey, ...]
