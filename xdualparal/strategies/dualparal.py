"""DualParal's passes (arXiv 2505.21070; DESIGN section 2).

Knows: which passes a wave has, and what each sees and leaves. Must not know: tensors, processes, how a pass is computed.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from ..plan.actions import Pass
from ..plan.layout import Layout
from ..plan.passes import Frames, Kept, KVKey, PassSpec
from ..plan.schedule import DECODE_PLACES, NO_DECODE, PipelinePlan, parse_rows, whole_schedule
from ..plan.waiting import MODEL, most_kept
from .base import OnStages
from .dualparal_settings import CACHED, OWN, RECOMPUTED, TRUE, DualParalSettings, known_context, known_timestep

HEAD = "head"  # a block's own first C latent frames: the next context of the block before it
TAIL = "tail"  # its last C, kept for the previous context of the block behind it at the same step
ANCHOR = "anchor"  # the video's first ones, kept for all blocks at the same step
DEFAULT_LAYOUT = Layout(block_latents=8, context_latents=4)
_HEADER = re.compile(
    r"blocks (\d+), steps (\d+), stages (\d+)(?:, stagger (\d+))?(?:, videos (\d+))?(?:, first waves ([\d ]+\d))?(, split guidance)?(?:, decode (\w+))?"
    r"(?:, experts from step ([\d ]+\d))?(, swapped)?(, cached context)?(?:, anchors (\d+))?"
)


@dataclass(frozen=True)
class DualParalPlan(PipelinePlan):
    """Blocks that start ``stagger`` (D) waves after each other and then take one step a wave.

    ``videos``: how many run side by side, all of ``num_blocks`` blocks. ``first_waves``: the wave with which each of them
    begins, where some are resumed; (): 0 for all. ``layout``: B, C and the length of the videos, which where it is not given
    is that of ``num_blocks`` whole blocks. ``expert_starts``: for each expert (transformer) the first of the steps that it
    does. ``context_timestep``: OWN or TRUE, ``context``: RECOMPUTED or CACHED, see DualParalSettings.
    ``fresh_noise``: decides nothing here. ``anchor_latents``: see DualParalSettings. ``image_latents``: the first so many latent frames of the videos are an image, clean and with
    a finished frame's timestep in every pass. The other fields: see PipelinePlan. Raises ValueError for numbers and places that cannot be.
    """

    num_blocks: int | None
    num_steps: int
    num_stages: int
    stagger: int = 1
    split_guidance: bool = False
    decode: str = NO_DECODE
    videos: int = 1
    layout: Layout = DEFAULT_LAYOUT
    first_waves: tuple[int, ...] = ()
    expert_starts: tuple[int, ...] = (0,)
    swaps_experts: bool = False
    fresh_noise: float = 0.0
    context_timestep: str = OWN
    context: str = RECOMPUTED
    image_latents: int = 0
    anchor_latents: int = 0

    def __post_init__(self):
        for name in ("num_blocks", "num_steps", "num_stages", "videos"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not 1 <= self.stagger <= self.num_steps:
            raise ValueError(
                f"stagger is {self.stagger} and there are {self.num_steps} steps: give 1 to {self.num_steps}"
            )
        assert len(self.first_waves) in (0, self.videos), f"{self.videos} videos and first waves {self.first_waves}"
        if not self.expert_starts or self.expert_starts[0] != 0 or list(self.expert_starts) != sorted(self.expert_starts):
            raise ValueError(f"expert_starts is {self.expert_starts}: give steps that do not fall, the first one 0")
        if self.decode not in DECODE_PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(DECODE_PLACES)}")
        if self.layout.latent_frames is not None and self.layout.num_blocks != self.num_blocks:
            raise ValueError(
                f"num_blocks is {self.num_blocks} and {self.layout.latent_frames} latent frames make "
                f"{self.layout.num_blocks} blocks: give this number"
            )

    @property
    def clean_latents(self):
        """The first so many latent frames of the videos are given and clean in every pass, with their true timestep: an image, or another video's last ones,
        unless a window's timestep is that of its context too (then they have the share ``given_noise`` of the step's noise)."""
        return self.image_latents or (self.layout.continued_latents if self.context_timestep == TRUE else 0)

    @property
    def most_kept(self):
        """Passes of a video whose cached context waits, at most at a time: those of D waves."""
        if self.context != CACHED or not self.layout.context_latents:
            return 0
        return most_kept(self.num_steps, self.num_blocks, self.stagger)

    def continuing(self, latents):
        """The plan of a video whose first ``latents`` are another one's last."""
        return replace(self, layout=replace(self.layout, continued_latents=latents))

    def with_image(self):
        """The plan of a video whose first latent frame is an image."""
        return replace(self, image_latents=1)

    def first_blocks(self, count):
        """The plan of the first ``count`` blocks alone."""
        return replace(self, num_blocks=count, layout=self.layout.of_blocks(count), first_waves=())

    def side_by_side(self, first_waves):
        """The plan of as many such videos as ``first_waves`` has, each from that wave on."""
        return replace(self, videos=len(first_waves), first_waves=tuple(first_waves) if any(first_waves) else ())

    def first_wave(self, video):
        """The wave with which ``video`` begins."""
        return self.first_waves[video] if self.first_waves else 0

    def wave_of(self, one):
        """The wave of the pass ``one``: block i's step s is in wave i * D + s."""
        return one.block * self.stagger + one.step

    def passes(self, wave):
        """The passes of ``wave``, newest block first, and of equal blocks the first video first."""
        newest = wave // self.stagger
        newest = newest if self.num_blocks is None else min(newest, self.num_blocks - 1)
        oldest = max(0, -(-(wave - self.num_steps + 1) // self.stagger))
        return [
            Pass(video, block, wave - block * self.stagger)
            for block in range(newest, oldest - 1, -1) for video in range(self.videos) if wave >= self.first_wave(video)
        ]

    def started(self, wave):
        """How many blocks of each video have begun before ``wave`` starts."""
        begun = -(-wave // self.stagger)
        return begun if self.num_blocks is None else min(begun, self.num_blocks)

    def num_passes(self, wave):
        """How many passes ``wave`` has."""
        newest = wave // self.stagger
        newest = newest if self.num_blocks is None else min(newest, self.num_blocks - 1)
        blocks = newest + 1 - max(0, -(-(wave - self.num_steps + 1) // self.stagger))
        return max(0, blocks) * sum(wave >= self.first_wave(video) for video in range(self.videos))

    def spec(self, one):
        """The window is the own latent frames, and before them, where they are recomputed, the previous block's last C. The other
        context is read as K/V."""
        return _spec(self, one)

    def _make_spec(self, one):
        anchor, once = self._anchor(one), self._cached_context(one) + self._next_context(one)
        window = self._previous_context(one) + (Frames(one._replace(step=one.step - 1), 0, self.layout.own_latents(one.block)),)
        own_first = sum(frames.count for frames in window[:-1])
        return PassSpec(
            window=window, predicted=range(own_first, own_first + window[-1].count),
            position=self.layout.first_latent(one.block) - own_first, steps=self._steps(one, own_first, window[-1].count),
            texts=(one.video,), expert=self.expert_of(one.step),
            reads=anchor + once, keeps=self._keeps(one, own_first), drops=once if one.block + 1 != self.num_blocks else anchor + once,
            frees=self._frees(one, window), reads_before=len(anchor + self._cached_context(one)),
            moves=(self.layout.block_latents * one.block - self.anchor_latents,) if anchor else (),
            given=0 if one.block else self.layout.continued_latents or self.image_latents,
        )

    def _steps(self, one, previous, own):
        """One for all, or the previous context's own: as many as there are steps for a finished block's, and what is given and clean."""
        if self.clean_latents and not one.block:
            return (self.num_steps,) * self.clean_latents + (one.step,) * (own - self.clean_latents)
        if self.context_timestep != TRUE or not previous:
            return (one.step,)
        return (min(one.step + self.stagger, self.num_steps),) * previous + (one.step,) * own

    def _previous_context(self, one):
        """As the block before stands at the start of the wave: it is D steps ahead, or finished."""
        count = self.layout.context_latents
        if not one.block or not count or self.context == CACHED:
            return ()
        before = Pass(one.video, one.block - 1, min(one.step + self.stagger, self.num_steps) - 1)
        return (Frames(before, self.layout.own_latents(before.block) - count, count),)

    def _cached_context(self, one):
        """Of the block before at the same step, D waves ago: never of another expert."""
        if not one.block or not self.layout.context_latents or self.context != CACHED:
            return ()
        return (KVKey(one._replace(block=one.block - 1), TAIL),)

    def _anchor(self, one):
        """Of the first block at the same step: never of another expert."""
        return (KVKey(one._replace(block=0), ANCHOR),) if self.anchor_latents and one.block else ()

    def _next_context(self, one):
        """The next block's pass in the same wave, just before. The newest block has none, and none that is on another expert, whose
        K/V mean something else: putting the next block's frames into the window there brought nothing with 4 and 25 steps, and
        with 8 a tenth of what a next context is worth (examples/measure_expert_boundary.py)."""
        if not self.layout.context_latents or one.step < self.stagger or one.block + 1 == self.num_blocks:
            return ()
        if self.expert_of(one.step - self.stagger) != self.expert_of(one.step):
            return ()
        return (KVKey(Pass(one.video, one.block + 1, one.step - self.stagger), HEAD),)

    def _keeps(self, one, own_first):
        return (*self._keeps_head(one, own_first), *self._keeps_tail(one), *self._keeps_anchor(one))

    def _keeps_anchor(self, one):
        if not self.anchor_latents or one.block or self.num_blocks == 1:
            return ()
        return (Kept(KVKey(one, ANCHOR), 0, self.anchor_latents, lasts=True),)

    def _keeps_tail(self, one):
        count = self.layout.context_latents
        if not count or self.context != CACHED or one.block + 1 == self.num_blocks:
            return ()
        return (Kept(KVKey(one, TAIL), self.layout.own_latents(one.block) - count, count, lasts=True),)

    def _keeps_head(self, one, own_first):
        count = min(self.layout.context_latents, self.layout.own_latents(one.block))
        if not count or not one.block or one.step + self.stagger >= self.num_steps:
            return ()
        if self.expert_of(one.step + self.stagger) != self.expert_of(one.step):
            return ()
        return (Kept(KVKey(one, HEAD), own_first, count),)

    def _frees(self, one, window):
        """The own latents before this pass (noise, at first), and at the last step those of the finished block before."""
        *previous, own = (frames.one for frames in window)
        return (*(previous if self.is_last_step(one) else ()), own)

    def __str__(self):
        head = f"blocks {self.num_blocks}, steps {self.num_steps}, stages {self.num_stages}"
        head += f", stagger {self.stagger}" if self.stagger > 1 else ""
        head += f", videos {self.videos}" if self.videos > 1 else ""
        head += f", first waves {' '.join(map(str, self.first_waves))}" if self.first_waves else ""
        head += ", split guidance" if self.split_guidance else ""
        head += f", decode {self.decode}" if self.decode != NO_DECODE else ""
        head += f", experts from step {' '.join(map(str, self.expert_starts))}" if len(self.expert_starts) > 1 else ""
        head += ", swapped" if self.swaps_experts else ""
        head += ", cached context" if self.context == CACHED else ""
        return head + (f", anchors {self.anchor_latents}" if self.anchor_latents else "")


@lru_cache(maxsize=4096)  # several ask for the spec of a pass, when it is planned and when it is done
def _spec(plan, one):
    return plan._make_spec(one)


class DualParal(OnStages):
    """The strategy; see base.Strategy."""

    name = "dualparal"
    Settings = DualParalSettings
    window_settings = ("block_latents", "context_latents")
    takes_images = True
    between_blocks = ("anchor_latents", "stagger", "fresh_noise", "context", "context_timestep", "context_noise", "context_dtype", "context_store")

    def settled(self, settings, lanes, facts=None):
        """With the context, and its timestep, that the model was trained for, unless others are given. Raises ValueError for noise in a
        context that gets another timestep than its own."""
        if facts is None:
            return settings
        settings = self._with_context(settings, facts)
        if settings.context_timestep != MODEL:
            return settings
        is_true = facts.frame_timesteps and settings.context_latents and settings.context == RECOMPUTED
        if settings.given_noise and is_true:
            raise ValueError(
                f"given_noise is {settings.given_noise:g} and {facts.name} sees given frames with their true timestep: leave it out, or give context_timestep {OWN}"
            )
        if settings.context_noise and not is_true:
            raise ValueError(
                f"context_noise is {settings.context_noise} and {facts.name} was not trained on frames with timesteps of their own: leave it "
                f"out, or give context_timestep {TRUE}"
            )
        return replace(settings, context_timestep=TRUE if is_true else OWN)

    @staticmethod
    def _with_context(settings, facts):
        if settings.context != MODEL:
            return settings
        is_cached = facts.few_steps and settings.context_latents and settings.context_timestep != TRUE
        return replace(settings, context=CACHED if is_cached else RECOMPUTED)

    def identity(self, settings):
        """As every strategy's, with the context and its timestep that are used, and nothing of noise and anchors where there are none."""
        known = dict(context=known_context(settings), context_timestep=known_timestep(settings), context_noise=settings.context_noise or None,
                     given_noise=settings.given_noise or None, anchor_latents=settings.anchor_latents or None)
        return super().identity(settings) | known

    def plan(self, settings, latent_frames, num_steps, lanes, expert_starts=(0,)):
        """The blocks that hold the latent frames, on the stages of ``lanes``."""
        layout = self.layout(settings, latent_frames)
        return DualParalPlan(
            layout.num_blocks, num_steps, lanes.stages, settings.stagger, lanes.split_guidance, lanes.decode, layout=layout,
            expert_starts=expert_starts, swaps_experts=lanes.swaps_experts, fresh_noise=settings.fresh_noise,
            context_timestep=known_timestep(settings), context=known_context(settings), anchor_latents=settings.anchor_latents,
        )

    def layout(self, settings, latent_frames):
        """Which latent frames a block owns."""
        return Layout(settings.block_latents, settings.context_latents, latent_frames, equal_windows=known_context(settings) == RECOMPUTED)

    def continued_latents(self, settings, available):
        """As many as a block's context: what the first new block sees of the video before it."""
        if not settings.context_latents:
            raise ValueError("context_latents is 0, and a video is continued by what its last latent frames show: give 1 or more")
        return min(available, settings.context_latents)


def build_schedule(num_blocks, num_steps, num_stages, split_guidance=False, stagger=1, decode=NO_DECODE):
    """The Schedule of ``num_blocks`` blocks over ``num_steps`` denoising steps on ``num_stages`` stages, without messages.

    The other arguments, and what is refused with ValueError: see DualParalPlan.
    """
    return whole_schedule(DualParalPlan(num_blocks, num_steps, num_stages, stagger, split_guidance, decode))


def parse_schedule(text):
    """The Schedule that prints as ``text``. Raises ValueError when none does."""
    head, *rows = text.strip().splitlines()
    match = _HEADER.fullmatch(head.strip())
    if not match:
        raise ValueError(f"{head!r} is not a schedule's first line: write 'blocks K, steps T, stages N'")
    *sizes, stagger, videos, first_waves, split, decode, expert_starts, swapped, cached, anchors = match.groups()
    plan = DualParalPlan(
        *map(int, sizes), int(stagger or 1), split is not None, decode or NO_DECODE, int(videos or 1),
        first_waves=tuple(map(int, (first_waves or "").split())), expert_starts=tuple(map(int, (expert_starts or "0").split())),
        swaps_experts=swapped is not None, context=CACHED if cached else RECOMPUTED, anchor_latents=int(anchors or 0),
    )
    return parse_rows(plan, rows)
