"""What happens, in which order, as data.

Knows: blocks, steps, waves, stages, and what each action needs. Must not know: tensors, time, processes.

A *pass* takes one block through one step. It is one FORWARD on every stage and then one STEP (guidance and
the scheduler's update) on the last stage. Where guidance is split, a pass is two half passes, one a branch. A finished
block is then DECODEd. An action prints as ``<stage><kind><block>.<step>`` and, for a half pass, ``c`` (the prompt's
branch) or ``u`` (the negative prompt's), for example ``0F2.5`` or ``0F2.5c``, and parses back.
"""

import re
from dataclasses import dataclass, fields

FORWARD = "F"
STEP = "S"
DECODE = "D"
BOTH, CONDITIONAL, UNCONDITIONAL = "", "c", "u"
NO_DECODE, INLINE, THREAD, AT_END = "none", "inline", "thread", "end"
DECODE_PLACES = (NO_DECODE, INLINE, THREAD, AT_END)
_ACTION = re.compile(r"(\d+)([FSD])(\d+)\.(\d+)([cu]?)")
_HEADER = re.compile(
    r"blocks (\d+), steps (\d+), stages (\d+)(?:, stagger (\d+))?(, split guidance)?(?:, decode (\w+))?"
)


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One thing that one stage does; decoding in its own thread is done by one more, behind the last stage."""

    stage: int
    kind: str
    block: int
    step: int
    branch: str = BOTH

    def __str__(self):
        return f"{self.stage}{self.kind}{self.block}.{self.step}{self.branch}"


def parse_action(text):
    """The Action that prints as ``text``. Raises ValueError when none does."""
    match = _ACTION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an action: write <stage>F<block>.<step>[c|u] or <stage>S|D<block>.<step>")
    stage, kind, block, step, branch = match.groups()
    return Action(int(stage), kind, int(block), int(step), branch)


@dataclass(frozen=True)
class Plan:
    """The rules: which passes a wave has, what each stage does in it, and what each action needs.

    ``num_blocks``: None for an endless video. ``stagger`` (D): a block starts D waves after the one before it.
    ``split_guidance``: whether the two branches may run as two half passes, see branches_of. ``decode``: where blocks
    are decoded: by the last stage as soon as they are finished (INLINE), behind it in a thread of its own (THREAD), by
    the last stage when all are finished (AT_END), or not at all.

    Raises ValueError for numbers and places that cannot be.
    """

    num_blocks: int | None
    num_steps: int
    num_stages: int
    stagger: int = 1
    split_guidance: bool = False
    decode: str = NO_DECODE

    def __post_init__(self):
        for name in ("num_blocks", "num_steps", "num_stages"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not 1 <= self.stagger <= self.num_steps:
            raise ValueError(
                f"stagger is {self.stagger} and there are {self.num_steps} steps: give 1 to {self.num_steps}"
            )
        if self.decode not in DECODE_PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(DECODE_PLACES)}")

    @property
    def num_waves(self):
        """How many waves there are; None where they go on without end."""
        return None if self.num_blocks is None else (self.num_blocks - 1) * self.stagger + self.num_steps

    @property
    def decode_lane(self):
        """The place of DECODEs among the stages: the last stage, or one behind it."""
        return self.num_stages if self.decode == THREAD else self.num_stages - 1

    @property
    def most_passes(self):
        """The most passes that a wave has: blocks in flight."""
        most = -(-self.num_steps // self.stagger)
        return most if self.num_blocks is None else min(most, self.num_blocks)

    @property
    def messages_ahead(self):
        """How many blocks' latents the first stage lets in before it needs them: a wave's, and two that are under way.

        It works up to a wave ahead of the last stage, and reads latents a wave after they were made. If it let in fewer,
        each could wait for the other to take what it sends.
        """
        return self.most_passes + 2

    def wave_of(self, block, step):
        """The wave of the pass (block, step)."""
        return block * self.stagger + step

    def passes(self, wave):
        """The (block, step) of the passes of ``wave``, newest block first (DESIGN section 2)."""
        newest = wave // self.stagger
        newest = newest if self.num_blocks is None else min(newest, self.num_blocks - 1)
        oldest = max(0, -(-(wave - self.num_steps + 1) // self.stagger))
        return [(block, wave - block * self.stagger) for block in range(newest, oldest - 1, -1)]

    def standing(self, wave):
        """(block, last step done) of what the passes from ``wave`` on need of earlier ones, oldest block first.

        The blocks in flight, and the one before them, which gives the oldest its previous context.
        """
        in_flight = [(block, step - 1) for block, step in reversed(self.passes(wave)) if step > 0]
        oldest = self.passes(wave)[-1][0] if self.passes(wave) else 0
        return ([(oldest - 1, self.num_steps - 1)] if oldest else []) + in_flight

    def finished(self, wave):
        """The blocks that are finished before ``wave`` starts: their number."""
        done = max(0, (wave - self.num_steps) // self.stagger + 1)
        return done if self.num_blocks is None else min(done, self.num_blocks)

    def needs(self, action):
        """The actions that must be done before ``action`` can start. Everything that asks about order asks this.

        DESIGN section 2: a pass reads its own latents after the step before, the previous block's as they stand
        at the start of the wave, and the next block's K/V of the same wave.
        """
        return {STEP: self._needs_of_step, DECODE: self._needs_of_decode}.get(action.kind, self._needs_of_forward)(action)

    def _needs_of_step(self, action):
        branches = self.branches_of(action.block, action.step)
        return [Action(self.num_stages - 1, FORWARD, action.block, action.step, branch) for branch in branches]

    def _needs_of_decode(self, action):
        before = [Action(action.stage, DECODE, action.block - 1, action.step)] if action.block else []
        return [Action(self.num_stages - 1, STEP, action.block, action.step)] + before

    def _needs_of_forward(self, action):
        stage, block, step = action.stage, action.block, action.step
        if stage:
            needs = [Action(stage - 1, FORWARD, block, step, action.branch)]
        else:
            needs = self._latents_of_window(block, step)
        context = self.next_context(action)
        return needs if context is None else needs + [context]

    def _latents_of_window(self, block, step):
        last = self.num_stages - 1
        own = [Action(last, STEP, block, step - 1)] if step else []
        previous = [Action(last, STEP, block - 1, self.previous_step(step))] if block else []
        return own + previous

    def previous_step(self, step):
        """The last step that the block before has done at the start of a wave in which a block does ``step``."""
        return min(step + self.stagger, self.num_steps) - 1

    def next_context(self, action):
        """The FORWARD on the same stage whose K/V is the next context of the FORWARD ``action``, or None."""
        if action.step < self.stagger or action.block + 1 == self.num_blocks:
            return None
        return Action(action.stage, FORWARD, action.block + 1, action.step - self.stagger, action.branch)

    def branches_of(self, block, step):
        """The branches of the FORWARDs that make the pass (block, step): both in one, or one after the other.

        Half passes are for waves with fewer blocks in flight than stages, where whole ones leave stages waiting. A
        wave is split or not as a whole, so that each half pass finds the next context of its own branch.
        """
        if self.split_guidance and len(self.passes(self.wave_of(block, step))) < self.num_stages:
            return (CONDITIONAL, UNCONDITIONAL)
        return (BOTH,)

    def gives_context(self, action):
        """Whether the K/V of the FORWARD ``action`` is the next context of a later one."""
        return action.block > 0 and action.step + self.stagger < self.num_steps

    def started(self, wave):
        """How many blocks have begun before ``wave`` starts."""
        begun = -(-wave // self.stagger)
        return begun if self.num_blocks is None else min(begun, self.num_blocks)

    def is_last_step(self, action):
        """Whether the STEP ``action`` finishes its block."""
        return action.step == self.num_steps - 1

    def goes_round(self, step_action):
        """Whether the first stage needs the result of the STEP ``step_action``: it does in the next wave, or never."""
        return not self.is_last_step(step_action) or step_action.block + 1 != self.num_blocks

    def wave_actions(self, stage, wave):
        """What ``stage``, or the decode lane, does in ``wave``, in order."""
        actions = []
        for block, step in self.passes(wave):
            if stage < self.num_stages:
                actions += [Action(stage, FORWARD, block, step, branch) for branch in self.branches_of(block, step)]
            if stage == self.num_stages - 1:
                actions.append(Action(stage, STEP, block, step))
            if stage == self.decode_lane and step == self.num_steps - 1 and self.decode in (INLINE, THREAD):
                actions.append(self.decode_action(block))
        return actions

    def decode_action(self, block):
        """The DECODE of ``block``."""
        return Action(self.decode_lane, DECODE, block, self.num_steps - 1)

    def actions_at_end(self, stage):
        """What ``stage`` does after the last wave."""
        if self.decode != AT_END or stage != self.decode_lane:
            return []
        return list(map(self.decode_action, range(self.num_blocks)))


@dataclass(frozen=True)
class Schedule(Plan):
    """A plan and the actions of every stage, each list in the order in which that stage does them.

    ``lane``: what the decode lane does, where it is one of its own.
    """

    stages: tuple[tuple[Action, ...], ...] = ()
    lane: tuple[Action, ...] = ()

    @property
    def rows(self):
        """The lists of the stages and, where there is one, of the decode lane."""
        return (*self.stages, self.lane) if self.lane else self.stages

    def __str__(self):
        head = f"blocks {self.num_blocks}, steps {self.num_steps}, stages {self.num_stages}"
        head += f", stagger {self.stagger}" if self.stagger > 1 else ""
        head += ", split guidance" if self.split_guidance else ""
        head += f", decode {self.decode}" if self.decode != NO_DECODE else ""
        rows = (f"{row_name(self, n)}: " + " ".join(map(str, row)) for n, row in enumerate(self.rows))
        return "\n".join([head, *rows]) + "\n"


def row_name(schedule, row):
    """What the list ``row`` of ``schedule.rows`` is called."""
    return f"stage {row}" if row < schedule.num_stages else "decode "


def build_schedule(num_blocks, num_steps, num_stages, split_guidance=False, stagger=1, decode=NO_DECODE):
    """The Schedule of ``num_blocks`` blocks over ``num_steps`` denoising steps on ``num_stages`` stages.

    The other arguments, and what is refused with ValueError: see Plan.
    """
    return whole_schedule(Plan(num_blocks, num_steps, num_stages, stagger, split_guidance, decode))


def whole_schedule(plan):
    """The Schedule with all actions of ``plan``, which must not be endless."""
    rows = [
        tuple(a for wave in range(plan.num_waves) for a in plan.wave_actions(row, wave)) + (*plan.actions_at_end(row),)
        for row in range(plan.decode_lane + 1)
    ]
    values = {field.name: getattr(plan, field.name) for field in fields(Plan)}
    lane = rows[plan.num_stages] if plan.decode == THREAD else ()
    return Schedule(**values, stages=tuple(rows[:plan.num_stages]), lane=lane)


def parse_schedule(text):
    """The Schedule that prints as ``text``. Raises ValueError when none does."""
    head, *rows = text.strip().splitlines()
    match = _HEADER.fullmatch(head.strip())
    if not match:
        raise ValueError(f"{head!r} is not a schedule's first line: write 'blocks K, steps T, stages N'")
    *sizes, stagger, split, decode = match.groups()
    rows = [tuple(map(parse_action, row.partition(":")[2].split())) for row in rows]
    num_stages = int(sizes[2])
    if len(rows) != num_stages + (decode == THREAD):
        raise ValueError(f"{len(rows)} stages are listed, the first line says {num_stages}")
    return Schedule(
        *map(int, sizes), int(stagger or 1), split is not None, decode or NO_DECODE, tuple(rows[:num_stages]),
        rows[num_stages] if decode == THREAD else (),
    )


def in_order(schedule):
    """The actions in an order in which they can be done, each stage keeping its own order.

    Ends early where no stage can go on: then the schedule has a deadlock or an unmet need.
    """
    done, next_index = set(), [0] * len(schedule.rows)
    moved = True
    while moved:
        moved = False
        for row, actions in enumerate(schedule.rows):
            while next_index[row] < len(actions):
                action = actions[next_index[row]]
                if not all(need in done for need in schedule.needs(action)):
                    break
                yield action
                done.add(action)
                next_index[row] += 1
                moved = True
