"""What happens, in which order, as data.

Knows: blocks, steps, waves, stages, and what each action needs. Must not know: tensors, time, processes.

A *pass* takes one block through one step. It is one FORWARD on every stage and then one STEP (guidance and
the scheduler's update) on the last stage. Where guidance is split, a pass is two half passes, one a branch. An action
prints as ``<stage><kind><block>.<step>`` and, for a half pass, ``c`` (the prompt's branch) or ``u`` (the negative
prompt's), for example ``0F2.5`` or ``0F2.5c``, and parses back.
"""

import re
from dataclasses import dataclass, replace

FORWARD = "F"
STEP = "S"
BOTH, CONDITIONAL, UNCONDITIONAL = "", "c", "u"
_ACTION = re.compile(r"(\d+)([FS])(\d+)\.(\d+)([cu]?)")
_HEADER = re.compile(r"blocks (\d+), steps (\d+), stages (\d+)(, split guidance)?")


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One thing that one stage does."""

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
        raise ValueError(f"{text!r} is not an action: write <stage>F<block>.<step>[c|u] or <stage>S<block>.<step>")
    stage, kind, block, step, branch = match.groups()
    return Action(int(stage), kind, int(block), int(step), branch)


@dataclass(frozen=True)
class Schedule:
    """The actions of every stage, each list in the order in which that stage does them."""

    num_blocks: int
    num_steps: int
    num_stages: int
    stages: tuple[tuple[Action, ...], ...]
    split_guidance: bool = False

    def __str__(self):
        head = f"blocks {self.num_blocks}, steps {self.num_steps}, stages {self.num_stages}"
        head += ", split guidance" if self.split_guidance else ""
        rows = (f"stage {n}: " + " ".join(map(str, row)) for n, row in enumerate(self.stages))
        return "\n".join([head, *rows]) + "\n"

    def needs(self, action):
        """The actions that must be done before ``action`` can start. Everything that asks about order asks this.

        DESIGN section 2: a pass reads its own latents after the step before, the previous block's as they stand
        at the start of the wave (they have done this same step), and the next block's K/V of the same wave.
        """
        return self._needs_of_step(action) if action.kind == STEP else self._needs_of_forward(action)

    def _needs_of_step(self, action):
        branches = self.branches_of(action.block, action.step)
        return [Action(self.num_stages - 1, FORWARD, action.block, action.step, branch) for branch in branches]

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
        previous = [Action(last, STEP, block - 1, step)] if block else []
        return own + previous

    def next_context(self, action):
        """The FORWARD on the same stage whose K/V is the next context of the FORWARD ``action``, or None."""
        if action.step == 0 or action.block == self.num_blocks - 1:
            return None
        return Action(action.stage, FORWARD, action.block + 1, action.step - 1, action.branch)

    def branches_of(self, block, step):
        """The branches of the FORWARDs that make the pass (block, step): both in one, or one after the other.

        Half passes are for waves with fewer blocks in flight than stages, where whole ones leave stages waiting. A
        wave is split or not as a whole, so that each half pass finds the next context of its own branch.
        """
        wave = block + step
        in_flight = min(wave, self.num_blocks - 1) - max(0, wave - self.num_steps + 1) + 1
        return (CONDITIONAL, UNCONDITIONAL) if self.split_guidance and in_flight < self.num_stages else (BOTH,)

    def gives_context(self, action):
        """Whether the K/V of the FORWARD ``action`` is the next context of a later one."""
        return action.block > 0 and action.step < self.num_steps - 1

    def goes_round(self, step_action):
        """Whether the first stage needs the result of the STEP ``step_action`` for another pass."""
        return step_action.step < self.num_steps - 1 or step_action.block < self.num_blocks - 1


def waves(num_blocks, num_steps):
    """Per wave, the (block, step) of its passes, newest block first (DESIGN section 2)."""
    for wave in range(num_blocks + num_steps - 1):
        newest, oldest = min(wave, num_blocks - 1), max(0, wave - num_steps + 1)
        yield [(block, wave - block) for block in range(newest, oldest - 1, -1)]


def build_schedule(num_blocks, num_steps, num_stages, split_guidance=False):
    """The schedule of ``num_blocks`` blocks over ``num_steps`` denoising steps on ``num_stages`` stages.

    ``split_guidance``: whether the two guidance branches may run as two half passes, see Schedule.branches_of.
    Raises ValueError when a number is less than 1.
    """
    for name, value in (("num_blocks", num_blocks), ("num_steps", num_steps), ("num_stages", num_stages)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more")
    plan = Schedule(num_blocks, num_steps, num_stages, (), split_guidance)
    passes = [one for wave in waves(num_blocks, num_steps) for one in wave]
    return replace(plan, stages=tuple(tuple(_stage_actions(plan, stage, passes)) for stage in range(num_stages)))


def _stage_actions(plan, stage, passes):
    for block, step in passes:
        for branch in plan.branches_of(block, step):
            yield Action(stage, FORWARD, block, step, branch)
        if stage == plan.num_stages - 1:
            yield Action(stage, STEP, block, step)


def parse_schedule(text):
    """The Schedule that prints as ``text``. Raises ValueError when none does."""
    head, *rows = text.strip().splitlines()
    match = _HEADER.fullmatch(head.strip())
    if not match:
        raise ValueError(f"{head!r} is not a schedule's first line: write 'blocks K, steps T, stages N'")
    *sizes, split = match.groups()
    stages = tuple(tuple(map(parse_action, row.partition(":")[2].split())) for row in rows)
    schedule = Schedule(*map(int, sizes), stages, split is not None)
    if len(stages) != schedule.num_stages:
        raise ValueError(f"{len(stages)} stages are listed, the first line says {schedule.num_stages}")
    return schedule


def in_order(schedule):
    """The actions in an order in which they can be done, each stage keeping its own order.

    Ends early where no stage can go on: then the schedule has a deadlock or an unmet need.
    """
    done, next_index = set(), [0] * len(schedule.stages)
    moved = True
    while moved:
        moved = False
        for stage, actions in enumerate(schedule.stages):
            while next_index[stage] < len(actions):
                action = actions[next_index[stage]]
                if not all(need in done for need in schedule.needs(action)):
                    break
                yield action
                done.add(action)
                next_index[stage] += 1
                moved = True
