"""FIFO-Diffusion's passes (arXiv 2405.11473): diagonal denoising with latent partitioning and lookahead.

Knows: which latent frames an iteration has, in which windows, and at which step each stands. Must not know: tensors, processes, how a pass is
computed.

A queue holds the latent frames that are being denoised, the cleanest in front. In each iteration every one of them does one step: so
latent frame i does step s in iteration i + s. The one in front is then finished and leaves, and one of noise comes in at the back
(the paper's section 3: diagonal denoising). The queue is cut into windows, as many latent frames as a pass has (latent partitioning); the processes of the
pipeline share an iteration's windows, each with the whole model, and then tell each other their predictions. A window also sees latent frames in front of
those that it predicts, which are cleaner (lookahead denoising; there it is half of the window).

Where this differs from the paper:

- its queue begins with latent frames that the model has made alone, noised, and copies of the first of them, which the video does not have; here it begins
  empty and fills, and drains at the end: nothing is made that the video does not have, and the first and last windows are shorter;
- the authors' code gives finished frames in a window the lowest noise level; here they have a timestep of 0, where they stand;
- its number of steps is a multiple of the window; here the last window has what is left;
- positions are those in the video: to RoPE only distances count.
"""

from dataclasses import dataclass, replace

from ..limits import POSITIONS, Whole
from ..plan.actions import DECODE, FORWARD, STEP, Action, Pass
from ..plan.layout import Layout
from ..plan.passes import Frames, PassSpec
from ..plan.schedule import DECODE_PLACES, INLINE, NO_DECODE, THREAD, WINDOWS, PipelinePlan
from ..plan.settings import Settings, setting
from .base import OnWholeModels

_WINDOW = Whole(1, POSITIONS, "where the model's table of positions ends")


@dataclass(frozen=True)
class FifoSettings(Settings):
    """What a user chooses about the queue."""

    fifo_window_latents: int = setting(8, "fifo: latent frames that a pass has; the video is given in blocks of as many")
    fifo_lookahead_latents: int = setting(
        4, "fifo: of those the ones, cleaner than the others, that a pass sees and does not predict: less than fifo_window_latents; with more there are more passes"
    )

    def check(self):
        """Raises ValueError for a window that has nothing to predict."""
        _WINDOW.of("fifo_window_latents", self.fifo_window_latents)
        Whole(0, self.fifo_window_latents - 1, f"fewer than fifo_window_latents, which is {self.fifo_window_latents}").of(
            "fifo_lookahead_latents", self.fifo_lookahead_latents
        )


@dataclass(frozen=True)
class FifoPlan(PipelinePlan):
    """A video of ``layout`` (blocks without context, in which it is given) in ``num_steps`` steps on ``num_stages`` lanes, each with the whole model.

    A wave is an iteration, and a pass is a window: Pass(0, window, iteration), windows counted from the front. In a spec, Frames name latent frames of
    the video as blocks of one: Frames(Pass(0, frame, step), 0, 1). Raises ValueError for places and numbers that cannot be.
    """

    layout: Layout
    num_steps: int
    num_stages: int
    lookahead: int = 0
    decode: str = NO_DECODE

    videos, split_guidance, lanes_are = 1, False, WINDOWS

    def __post_init__(self):
        if self.decode not in DECODE_PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(DECODE_PLACES)}")

    @property
    def num_blocks(self):
        """In which the video is given."""
        return self.layout.num_blocks

    @property
    def num_waves(self):
        """Iterations until the last latent frame is finished."""
        return None if self.layout.latent_frames is None else self.layout.latent_frames + self.num_steps - 1

    def first_blocks(self, count):
        """The plan of a video of the first ``count`` blocks."""
        return replace(self, layout=self.layout.of_blocks(count))

    def side_by_side(self, first_waves):
        """Itself, for one video that is not resumed."""
        assert not any(first_waves) and len(first_waves) == 1, first_waves
        return self

    # The queue.

    def in_queue(self, wave):
        """The latent frames that do a step in the iteration ``wave``, a range: the first one does the cleanest step."""
        newest = wave if self.layout.latent_frames is None else min(wave, self.layout.latent_frames - 1)
        return range(max(0, wave - self.num_steps + 1), newest + 1)

    def predicted(self, one):
        """The latent frames that the window ``one`` predicts, a range."""
        stride, queue = self.layout.block_latents - self.lookahead, self.in_queue(one.step)
        front = one.step - self.num_steps + 1 + one.block * stride  # the cleanest step's place is the queue's front, empty or not
        return range(max(front, queue.start), min(front + stride, queue.stop))

    @property
    def most_windows(self):
        """Of an iteration: more lanes than that have nothing to do."""
        return -(-self.num_steps // (self.layout.block_latents - self.lookahead))

    def passes(self, wave):
        """The windows that predict something, the cleanest first."""
        passes = [Pass(0, window, wave) for window in range(self.most_windows)] if wave >= 0 else []
        return [one for one in passes if self.predicted(one)]

    def passes_of_lane(self, lane, wave):
        """Those of ``lane``: as many as of each other, or one more or less."""
        passes = self.passes(wave)
        return passes[lane * len(passes) // self.num_stages:(lane + 1) * len(passes) // self.num_stages]

    def passes_of_rank(self, wave):
        """One of them: an iteration counts as one."""
        return self.passes(wave)[-1:]

    def wave_of(self, one):
        """A pass's iteration."""
        return one.step

    def started(self, wave):
        """How many blocks have begun before ``wave`` starts."""
        frames = self.in_queue(wave - 1).stop if wave > 0 else 0
        return -(-frames // self.layout.block_latents)

    def finished(self, wave):
        """How many blocks are finished before ``wave`` starts."""
        frames = max(0, wave - self.num_steps + 1)
        if self.layout.latent_frames is not None and frames >= self.layout.latent_frames:
            return self.num_blocks
        return frames // self.layout.block_latents

    def given(self, wave):
        """The blocks that ``wave`` finishes, a range: one or none."""
        return range(self.finished(wave), self.finished(wave + 1))

    def spec(self, one):
        """The window is what is predicted and, in front of it, up to ``lookahead`` latent frames as they stand."""
        own = self.predicted(one)
        seen = range(max(0, own.start - self.lookahead), own.stop)
        steps = [min(one.step - frame, self.num_steps) for frame in seen]  # that each one does now; finished: as many as there are
        window = tuple(Frames(Pass(0, frame, step - 1), 0, 1) for frame, step in zip(seen, steps))
        first = own.start - seen.start
        return PassSpec(
            window=window, predicted=range(first, first + len(own)), position=seen.start, steps=tuple(steps), texts=(0,),
        )

    # Each lane does its windows, then all do all steps.

    def actions(self, lane, wave):
        """The lane's windows, if it has any, and one STEP, of all latent frames; behind it the decoding of what is finished."""
        own = self.passes_of_lane(lane, wave) if lane < self.num_stages else []
        actions = [Action(lane, FORWARD, one) for one in own]
        if lane < self.num_stages and self.passes(wave):
            actions.append(self.step_action(lane, wave))
        if lane == self.decode_lane and self.decode in (INLINE, THREAD):
            actions += [self.decode_action(block) for block in self.given(wave)]
        return actions

    def step_action(self, lane, wave):
        """The STEP of all latent frames in the queue, on ``lane``."""
        return Action(lane, STEP, self.passes(wave)[-1])

    def decode_action(self, block, video=0):
        """The DECODE of ``block``: named by the iteration that finishes it."""
        last = self.layout.first_latent(block + 1) - 1
        return Action(self.decode_lane, DECODE, Pass(video, block, last + self.num_steps - 1))

    def is_last_step(self, one):
        """Whether the iteration finishes a block."""
        return bool(self.given(one.step))

    def needs(self, action):
        """A window needs all lanes' steps of the iteration before, steps all windows of theirs, decoding the steps and the block before."""
        wave = action.step
        if action.kind == FORWARD:
            return [self.step_action(lane, wave - 1) for lane in range(self.num_stages)] if wave else []
        if action.kind == STEP:
            return [Action(lane, FORWARD, one) for lane in range(self.num_stages) for one in self.passes_of_lane(lane, wave)]
        before = [self.decode_action(action.block - 1)] if action.block else []
        return [self.step_action(self.num_stages - 1, wave), *before]

    def __str__(self):
        head = f"queue of {self.num_steps}, windows {self.layout.block_latents}, lookahead {self.lookahead}, {self.layout.latent_frames} latent frames, lanes {self.num_stages}"
        return head + (f", decode {self.decode}" if self.decode != NO_DECODE else "")


class Fifo(OnWholeModels):
    """The strategy; see base.Strategy."""

    name = "fifo"
    Settings = FifoSettings
    window_settings = ("fifo_window_latents", "fifo_lookahead_latents")
    merges_attention = False
    refuses = OnWholeModels.refuses | {
        "checkpoint": "the queue's state is not saved: leave it out, or choose dualparal",
        "videos_in_flight": "every process is busy with the windows of one video: leave it out, or choose dualparal",
        "use_torch_compile": "windows have many sizes while the queue fills and drains, and each would be compiled: leave it out",
    }

    def settled(self, settings, lanes, facts=None):
        """As they are."""
        return settings

    def plan(self, settings, latent_frames, num_steps, lanes, expert_starts=(0,)):
        """The queue on the lanes. Raises ValueError for a model with two experts."""
        if len(expert_starts) > 1:
            raise ValueError("strategy is fifo, whose windows have latent frames at all noise levels, and the model has an expert for some: choose another strategy")
        return FifoPlan(self.layout(settings, latent_frames), num_steps, lanes.stages, settings.fifo_lookahead_latents, lanes.decode)

    def layout(self, settings, latent_frames):
        """The blocks in which the video is given."""
        return Layout(settings.fifo_window_latents, 0, latent_frames)
