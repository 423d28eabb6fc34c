"""A schedule and the cost of its actions give a trace: what would run when.

Knows: the schedule, a cost per action, and when a message arrives. Must not know: tensors, processes, or how a trace is drawn.
"""

from collections import defaultdict
from dataclasses import dataclass

from .actions import BOTH, FORWARD, RECV, SEND, STEP, Action
from .messages import MAX_PENDING_SENDS


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

    @property
    def start(self):
        """When the first action starts."""
        return min(span.start for row in self.rows for span in row)

    def busy(self, stage):
        """The time that ``stage`` spends in its actions."""
        return sum(span.end - span.start for span in self.stages[stage] if not span.action.is_message)

    def bubble(self):
        """The share of all stages' time, 0 to 1, in which nothing runs."""
        return 1 - sum(map(self.busy, range(len(self.stages)))) / (len(self.stages) * (self.end - self.start))

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


def no_transfer(send):
    """Messages take no time."""
    return 0


def simulate(schedule, cost=unit_cost, transfer=no_transfer):
    """The Trace of ``schedule`` where an action starts as soon as its lane is free and what it needs is there.

    ``cost``: an Action's duration; ``transfer``: that of a SEND's message. Raises ValueError when the schedule cannot end.
    """
    rows = [[] for _ in schedule.rows]
    for span in replay(schedule, cost, transfer):
        rows[span.action.lane].append(span)
    if sum(map(len, rows)) < sum(map(len, schedule.rows)):
        raise ValueError("this schedule cannot end: plan.check.check_schedule shows where it stops")
    return make_trace(rows, schedule.num_stages)


def replay(schedule, cost=unit_cost, transfer=no_transfer):
    """Yields the Spans in an order in which the actions can be done, each lane keeping its own order.

    Ends early where no lane can go on: then there is a deadlock or an unmet need, at any cost, because nothing that a lane
    does depends on time.
    """
    clock = _Clock(schedule, transfer)
    next_index, moved = [0] * len(schedule.rows), True
    while moved:
        moved = False
        for lane, actions in enumerate(schedule.rows):
            while next_index[lane] < len(actions):
                action = actions[next_index[lane]]
                start = clock.start(action)
                if start is None:
                    break
                yield clock.done(action, start, start + cost(action))
                next_index[lane] += 1
                moved = True


class _Clock:
    """When an action of a schedule can start.

    A message is there when its send has started and its receive is posted: no buffer is assumed but those two. A send starts
    when fewer than MAX_PENDING_SENDS of its edge are still on their way.
    """

    def __init__(self, schedule, transfer):
        self._schedule, self._transfer = schedule, transfer
        self._ends, self._free = {}, defaultdict(float)
        self._sent, self._posted = defaultdict(list), defaultdict(list)  # by edge, in order: (action, its end)
        self._number = {}  # of a message on its edge

    def start(self, action):
        """The time at which ``action`` can start, None while that is not known."""
        times = [self._free[action.lane], *self._conditions(action)]
        return None if None in times else max(times)

    def done(self, action, start, end):
        """``action`` runs from ``start`` to ``end``. Returns its Span."""
        self._free[action.lane] = self._ends[action] = end
        if action.is_message:
            messages = self._sent if action.kind == SEND else self._posted
            messages[action.edge].append((action, end))
            if action.kind == RECV:
                self._number[action.edge, _message(action)] = len(messages[action.edge]) - 1
        return Span(action, start, end)

    def _conditions(self, action):
        if action.kind == SEND:
            oldest = len(self._sent[action.edge]) - MAX_PENDING_SENDS
            yield self._ends.get(_source(action, self._schedule))
            yield self._arrival(action.edge, oldest) if oldest >= 0 else 0
        for need in self._schedule.needs(action):
            if self._schedule.has_messages and need.lane != action.lane:
                edge = need.lane, action.lane
                yield self._arrival(edge, self._number.get((edge, (need.one, need.branch))))
            else:
                yield self._ends.get(need)

    def _arrival(self, edge, number):
        """When the message ``number`` of an edge is there. What was posted must be what is sent, in the same order."""
        sent, posted = self._sent[edge], self._posted[edge]
        if number is None or number >= len(sent) or number >= len(posted):
            return None
        if _message(sent[number][0]) != _message(posted[number][0]):
            sends, waits = ("".join(map(str, _message(messages[number][0]))) for messages in (sent, posted))
            raise ValueError(f"lane {edge[0]} sends {sends} where lane {edge[1]} waits for {waits}")
        return max(sent[number][1], posted[number][1]) + self._transfer(sent[number][0])


def _message(action):
    return action.one, action.branch


def _source(send, schedule):
    """The action whose result ``send`` sends: a FORWARD's to the next stage, else a STEP's."""
    goes_on = send.peer == send.lane + 1 and send.peer < schedule.num_stages
    return Action(send.lane, FORWARD if goes_on else STEP, send.one, send.branch)


def make_trace(rows, num_stages):
    """The Trace of the lists of Spans ``rows``: the stages' and maybe the decode lane's."""
    rows = tuple(map(tuple, rows))
    return Trace(rows[:num_stages], *rows[num_stages:])
