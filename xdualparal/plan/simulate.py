"""A schedule and the cost of its actions give a trace: what would run when.

Knows: the schedule and a cost per action. Must not know: tensors, processes, or how a trace is drawn.
"""

from dataclasses import dataclass

from .schedule import BOTH, FORWARD, STEP, Action, in_order


@dataclass(frozen=True, slots=True)
class Span:
    """An action and the time it took, from ``start`` to ``end`` (the cost's unit; seconds in a recording)."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Trace:
    """What every stage did and when, and the decode lane where there is one. Simulated and recorded runs have the same
    form."""

    stages: tuple[tuple[Span, ...], ...]
    lane: tuple[Span, ...] = ()

    @property
    def rows(self):
        """The stages and, where there is one, the decode lane."""
        return (*self.stages, self.lane) if self.lane else self.stages

    @property
    def end(self):
        """When the last action ends."""
        return max(span.end for row in self.rows for span in row)

    def busy(self, stage):
        """The time that ``stage`` spends in its actions."""
        return sum(span.end - span.start for span in self.stages[stage])

    def bubble(self):
        """The share of all stages' time, 0 to 1, in which nothing runs."""
        start = min(span.start for row in self.rows for span in row)
        return 1 - sum(map(self.busy, range(len(self.stages)))) / (len(self.stages) * (self.end - start))

    def finished(self, block):
        """When ``block`` is finished: the end of its last STEP."""
        return max(s.end for s in self.stages[-1] if s.action.kind == STEP and s.action.block == block)

    def overlap(self):
        """The share, 0 to 1, of the time in which any stage works that all of them work at once."""
        edges = sorted((t, d) for row in self.stages for s in row for t, d in ((s.start, 1), (s.end, -1)))
        working, before, some, all_at_once = 0, 0.0, 0.0, 0.0
        for time, change in edges:
            some += (time - before) * (working > 0)
            all_at_once += (time - before) * (working == len(self.stages))
            working, before = working + change, time
        return all_at_once / some


def unit_cost(action):
    """One unit for a pass on a stage, half of it for a half pass, nothing for the scheduler's step and for decoding (the
    unit of DESIGN's table)."""
    return 0 if action.kind != FORWARD else 1 if action.branch == BOTH else 0.5


def simulate(schedule, cost=unit_cost):
    """The Trace of ``schedule`` where an action starts as soon as its stage is free and its needs are done.

    ``cost``: an Action's duration; transfers cost nothing. Raises ValueError when the schedule cannot end.
    """
    ends, free, rows = {}, [0] * len(schedule.rows), [[] for _ in schedule.rows]
    for action in in_order(schedule):
        start = max([free[action.stage], *(ends[need] for need in schedule.needs(action))])
        ends[action] = free[action.stage] = start + cost(action)
        rows[action.stage].append(Span(action, start, ends[action]))
    if len(ends) < sum(map(len, schedule.rows)):
        raise ValueError("this schedule cannot end: validate.check_schedule shows where it stops")
    return make_trace(rows, schedule.num_stages)


def make_trace(rows, num_stages):
    """The Trace of the lists of Spans ``rows``: the stages' and maybe the decode lane's."""
    rows = tuple(map(tuple, rows))
    return Trace(rows[:num_stages], *rows[num_stages:])
