"""What happens, in which order, as data.

Knows: blocks, steps, waves, stages, and what each action needs. Must not know: tensors, time, processes.

A *pass* takes one block through one step. It is one FORWARD on every stage and then one STEP (guidance and
the scheduler's update) on the last stage. An action prints as ``<stage><kind><block>.<step>``, for example
``0F2.5``, and parses back.
"""

import re
from dataclasses import dataclass

FORWARD = "F"
STEP = "S"
_ACTION = re.compile(r"(\d+)([FS])(\d+)\.(\d+)")
_HEADER = re.compile(r"blocks (\d+), steps (\d+), stages (\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One thing that one stage does."""

    stage: int
    kind: str
    block: int
    step: int

    def __str__(self):
        return f"{self.stage}{self.kind}{self.block}.{self.step}"


def parse_action(text):
    """The Action that prints as ``text``. Raises ValueError when none does."""
    match = _ACTION.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an action: write <stage>F<block>.<step> or <stage>S<block>.<step>")
    stage, kind, block, step = match.groups()
    return Action(int(stage), kind, int(block), int(step))


@dataclass(frozen=True)
class Schedule:
    """The actions of every stage, each list in the order in which that stage does them."""

    num_blocks: int
    num_steps: int
    num_stages: int
    stages: tuple[tuple[Action, ...], ...]

    def __str__(self):
        head = f"blocks {self.num_blocks}, steps {self.num_steps}, stages {self.num_stages}"
        rows = (f"stage {n}: " + " ".join(map(str, row)) for n, row in enumerate(self.stages))
        return "\n".join([head, *rows]) + "\n"

    def needs(self, action):
        """The actions that must be done before ``action`` can start. Everything that asks about order asks this.

        DESIGN section 2: a pass reads its own latents after the step before, the previous block's as they stand
        at the start of the wave (they have done this same step), and the next block's K/V of the same wave.
        """
        return self._needs_of_step(action) if action.kind == STEP else self._needs_of_forward(action)

    def _needs_of_step(self, action):
        return [Action(self.num_stages - 1, FORWARD, action.block, action.step)]

    def _needs_of_forward(self, action):
        stage, block, step = action.stage, action.block, action.step
        needs = [Action(stage - 1, FORWARD, block, step)] if stage else self._latents_of_window(block, step)
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
        return Action(action.stage, FORWARD, action.block + 1, action.step - 1)

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


def build_schedule(num_blocks, num_steps, num_stages):
    """The schedule of ``num_blocks`` blocks over ``num_steps`` denoising steps on ``num_stages`` stages.

    Raises ValueError when one of them is less than 1.
    """
    for name, value in (("num_blocks", num_blocks), ("num_steps", num_steps), ("num_stages", num_stages)):
        if value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more")
    passes = [one for wave in waves(num_blocks, num_steps) for one in wave]
    stages = tuple(_stage_actions(stage, stage == num_stages - 1, passes) for stage in range(num_stages))
    return Schedule(num_blocks, num_steps, num_stages, stages)


def _stage_actions(stage, is_last, passes):
    kinds = (FORWARD, STEP) if is_last else (FORWARD,)
    return tuple(Action(stage, kind, block, step) for block, step in passes for kind in kinds)


def parse_schedule(text):
    """The Schedule that prints as ``text``. Raises ValueError when none does."""
    head, *rows = text.strip().splitlines()
    match = _HEADER.fullmatch(head.strip())
    if not match:
        raise ValueError(f"{head!r} is not a schedule's first line: write 'blocks K, steps T, stages N'")
    stages = tuple(tuple(map(parse_action, row.partition(":")[2].split())) for row in rows)
    schedule = Schedule(*map(int, match.groups()), stages)
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
