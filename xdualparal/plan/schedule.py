"""From passes to the actions of every lane.

Knows: what follows from a strategy's passes and specs on a pipeline of stages. Must not know: a strategy's rules, tensors,
time, processes.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from .actions import BOTH, CONDITIONAL, DECODE, FORWARD, LOAD, STEP, UNCONDITIONAL, Action, Pass, parse_action
from .passes import Live
from .progress import Progress

STAGES, CLIPS, WINDOWS = "stages", "clips", "windows"  # what the lanes of a plan are
NO_DECODE, INLINE, THREAD, AT_END = "none", "inline", "thread", "end"
DECODE_PLACES = (NO_DECODE, INLINE, THREAD, AT_END)


class PipelinePlan:
    """The actions of stages that take a strategy's passes one after the other.

    A strategy gives the passes of each wave, in order, and their specs; the actions, what each needs, and what is live
    between two waves follow. It sets ``num_blocks`` (None: endless), ``num_steps``, ``num_stages``, ``videos``,
    ``split_guidance`` (whether the two branches may run as two half passes, see ``branches_of``) and ``decode``: where
    blocks are decoded: by the last stage as soon as they are finished (INLINE), behind it in a lane of its own (THREAD), by
    the last stage when all are finished (AT_END), or not at all (NO_DECODE). ``layout``: which latent frames a block owns.
    ``lanes_are``: STAGES, which send each other messages; CLIPS, which have all layers and exchange K/V in every layer of the passes of a wave
    (strategies/clips.py); or WINDOWS, passes over latent frames at different steps, of which all lanes then take all steps (strategies/fifo.py). What
    those tell each other is part of their actions and no message. ``noise_is_whole``: whether the blocks' noise is cut from what an
    ordinary pipeline draws. ``expert_starts``: for each expert (transformer) the first of the steps that it does. ``swaps_experts``: whether a stage has the layers of one expert at a time on its device, and changes them. ``fresh_noise``: the
    share, 0 to 1, of a block's noise that no other block has (engine/noise.py). ``stagger``: waves from block to block.
    """

    lanes_are = STAGES
    swaps_experts = noise_is_whole = False
    expert_starts = (0,)
    fresh_noise = 1.0
    stagger = 1
    image_latents = clean_latents = 0  # the first so many latent frames are an image, or given and clean, see strategies/dualparal.py
    anchor_latents = 0  # of the video's first latent frames, whose K/V of each step wait until its last block
    most_kept = 0  # passes of a video whose K/V wait for a later wave, at most at a time

    def first_wave(self, video):
        """The wave with which ``video`` begins: above 0 where it is resumed, and what earlier waves gave is there."""
        return 0

    def passes(self, wave):
        """The passes of ``wave``, in order."""
        raise NotImplementedError

    def num_passes(self, wave):
        """How many passes ``wave`` has."""
        return len(self.passes(wave))

    def passes_of_rank(self, wave):
        """The passes of ``wave`` of which the last stage does the STEP."""
        return self.passes(wave)

    def wave_of(self, one):
        """The wave of the pass ``one``."""
        raise NotImplementedError

    def spec(self, one):
        """The PassSpec of the pass ``one``."""
        raise NotImplementedError

    @property
    def num_waves(self):
        """How many waves there are; None where they go on without end."""
        return None if self.num_blocks is None else self.wave_of(Pass(0, self.num_blocks - 1, self.num_steps - 1)) + 1

    @property
    def decode_lane(self):
        """The lane of DECODEs: the last stage, or the one behind it."""
        return self.num_stages if self.decode == THREAD else self.num_stages - 1

    def branches_of(self, one):
        """The branches of the FORWARDs that make the pass ``one``: both in one, or one after the other.

        Half passes are for waves where whole ones leave stages waiting: a wave's first pass waits until the one of the block
        before, ``videos`` places behind it in the wave before, has left the last stage. A wave is split or not as a whole, so
        that each half pass finds the K/V of its own branch of its wave.
        """
        if self.split_guidance and 1 < self.num_stages > self.num_passes(self.wave_of(one)) - self.videos:
            return (CONDITIONAL, UNCONDITIONAL)
        return (BOTH,)

    def is_last_step(self, one):
        """Whether the pass ``one`` finishes its block."""
        return one.step == self.num_steps - 1

    def finished(self, wave):
        """How many blocks of each video are finished before ``wave`` starts."""
        done = 0
        while done != self.num_blocks and self.wave_of(Pass(0, done, self.num_steps - 1)) < wave:
            done += 1
        return done

    def expert_of(self, step):
        """The number of the expert that does ``step``."""
        return bisect_right(self.expert_starts, step) - 1

    # Where another expert's passes begin: at most once a wave, and from a wave to the next.

    def pass_before(self, one):
        """The pass that each stage does before ``one``, in its wave or the one before; None for the first."""
        wave = self.wave_of(one)
        passes = self.passes(wave)
        before = passes[:passes.index(one)] or self.passes(wave - 1)
        return before[-1] if before else None

    def pass_after(self, one):
        """The pass that each stage does after ``one``, in its wave or the next; None where there is none."""
        wave = self.wave_of(one)
        passes = self.passes(wave)
        after = passes[passes.index(one) + 1:] or self.passes(wave + 1)
        return after[0] if after else None

    def begins_expert(self, one):
        """Whether the pass ``one`` needs another expert than the pass before."""
        before = self.pass_before(one)
        return before is None or self.spec(before).expert != self.spec(one).expert

    def expert_after(self, one, progress):
        """The expert that the next pass of the waves of ``progress`` needs, where that is another one; else None."""
        after = self.pass_after(one)
        if after is None or not progress.has(self.wave_of(after)) or not self.begins_expert(after):
            return None
        return self.spec(after).expert

    # The actions.

    def actions(self, lane, wave):
        """What ``lane`` does in ``wave``, in order, without messages."""
        actions = []
        for one in self.passes(wave):
            if self.swaps_experts and lane < self.num_stages and self.begins_expert(one):
                actions.append(Action(lane, LOAD, one))
            if lane < self.num_stages:
                actions += [Action(lane, FORWARD, one, branch) for branch in self.branches_of(one)]
            if lane == self.num_stages - 1:
                actions.append(Action(lane, STEP, one))
            if lane == self.decode_lane and self.is_last_step(one) and self.decode in (INLINE, THREAD):
                actions.append(self.decode_action(one.block, one.video))
        return actions

    def decode_action(self, block, video=0):
        """The DECODE of ``block``."""
        return Action(self.decode_lane, DECODE, Pass(video, block, self.num_steps - 1))

    def actions_at_end(self, lane, progress):
        """What ``lane`` does after the last wave: video after video, so that one decoder's memory is there at a time."""
        if self.decode != AT_END or lane != self.decode_lane:
            return []
        end = self.finished(progress.end)
        return [
            self.decode_action(block, video) for video in range(self.videos)
            for block in range(self.finished(max(progress.first, self.first_wave(video))), end)
        ]

    def needs(self, action):
        """The actions that must be done before ``action`` can start. All that asks about order asks this."""
        of_kind = {FORWARD: self._needs_of_forward, LOAD: self._needs_of_load, STEP: self._needs_of_step, DECODE: self._needs_of_decode}
        return of_kind[action.kind](action) if action.kind in of_kind else []

    def _needs_of_forward(self, action):
        spec, last = self.spec(action.one), self.num_stages - 1
        if action.lane:
            needs = [Action(action.lane - 1, FORWARD, action.one, action.branch)]
        else:
            needs = [Action(last, STEP, frames.one) for frames in reversed(spec.window) if frames.one.step >= 0]
        loads = [Action(action.lane, LOAD, action.one)] if self.swaps_experts and self.begins_expert(action.one) else []
        return needs + loads + [
            Action(action.lane, FORWARD, key.one, branch) for key in spec.reads for branch in self._branches_of_kv(key.one, action.branch)
        ]

    def _branches_of_kv(self, one, branch):
        """The branches of the FORWARDs of ``one`` that leave the K/V for ``branch``: waves are split or not, each as a whole."""
        theirs = self.branches_of(one)
        return (branch,) if branch in theirs else theirs

    def _needs_of_load(self, action):
        before = self.pass_before(action.one)  # its layers make room
        return [] if before is None else [Action(action.lane, FORWARD, before, branch) for branch in self.branches_of(before)]

    def _needs_of_step(self, action):
        return [Action(action.lane, FORWARD, action.one, branch) for branch in self.branches_of(action.one)]

    def _needs_of_decode(self, action):
        before = [self.decode_action(action.block - 1, action.video)] if action.block else []
        return [Action(self.num_stages - 1, STEP, action.one)] + before

    # What outlasts a wave.

    def first_readers(self, wave):
        """{pass whose latents the passes of ``wave`` read: the first of them that does}."""
        readers = {}
        for one in self.passes(wave):
            for frames in self.spec(one).window:
                if frames.one.step >= 0:
                    readers.setdefault(frames.one, one)
        return readers

    def live(self, wave):
        """The Live of what passes from ``wave`` on need of earlier waves.

        Whatever is live belongs to a block in flight or to the one before it, so ``num_steps`` waves tell all. Of a video that
        begins later it is what it begins with.
        """
        latents, keys = set(), set()
        begins = [max(wave, self.first_wave(video)) for video in range(self.videos)]
        for later in range(wave, max(begins) + self.num_steps):
            for one in self.passes(later):
                spec, first = self.spec(one), begins[one.video]
                latents.update(frames.one for frames in spec.window if frames.one.step >= 0 and self.wave_of(frames.one) < first)
                keys.update(key for key in spec.reads if self.wave_of(key.one) < first)
        return Live(tuple(sorted(latents)), tuple(sorted(keys)))


@dataclass(frozen=True)
class Schedule:
    """A plan and the actions of every lane, each list in the order in which that lane does them.

    ``rows``: a list for each stage and, where there is one, the decode lane. ``first_wave``: what earlier waves gave is there.
    """

    plan: PipelinePlan
    rows: tuple[tuple[Action, ...], ...]
    first_wave: int = 0

    @property
    def num_stages(self):
        """How many stages there are."""
        return self.plan.num_stages

    @property
    def stages(self):
        """The lists of the stages."""
        return self.rows[:self.num_stages]

    @property
    def lane(self):
        """What the decode lane does, where it is one of its own."""
        return self.rows[self.num_stages] if len(self.rows) > self.num_stages else ()

    @cached_property
    def has_messages(self):
        """Whether lanes hear of each other by SEND and RECV; else what one has done, all know."""
        return any(action.is_message for row in self.rows for action in row)

    def needs(self, action):
        """What must be done before ``action``, of this schedule's waves."""
        first = max(self.first_wave, self.plan.first_wave(action.video))
        return [need for need in self.plan.needs(action) if self.plan.wave_of(need.one) >= first]

    def __str__(self):
        rows = (f"{row_name(self, n)}: " + " ".join(map(str, row)) for n, row in enumerate(self.rows))
        return "\n".join([str(self.plan), *rows]) + "\n"


def row_name(schedule, row):
    """What the list ``row`` of ``schedule.rows`` is called."""
    return f"stage {row}" if row < schedule.num_stages else "decode "


def whole_schedule(plan, progress=None, actions=None):
    """The Schedule with all actions of ``plan``, of the waves of ``progress`` where that is given; it must have an end.

    ``actions(lane, wave)``: by default the plan's own, without messages.
    """

    progress, actions = progress or Progress(plan), actions or plan.actions
    rows = tuple(
        tuple(a for wave in progress.waves() for a in actions(lane, wave)) + (*plan.actions_at_end(lane, progress),)
        for lane in range(plan.decode_lane + 1)
    )
    return Schedule(plan, rows, progress.first)


def parse_rows(plan, rows):
    """The Schedule of ``plan`` with the lists in ``rows``, lines of text. Raises ValueError for another number of lists."""
    lists = tuple(tuple(map(parse_action, row.partition(":")[2].split())) for row in rows)
    if len(lists) != plan.decode_lane + 1:
        raise ValueError(f"{len(lists)} lists of actions follow, and the first line says {plan.num_stages} stages")
    return Schedule(plan, lists)
