"""A schedule and the cost of its actions give a trace: what would run when.

Knows: the schedule, a cost per action, and when a message arrives. Must not know: tensors, processes, or how a trace is drawn.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

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
    for span in _timed(whole_order(schedule), cost, transfer):
        rows[span.action.lane].append(span)
    return make_trace(rows, schedule.num_stages)


def replay(schedule, cost=unit_cost, transfer=no_transfer):
    """Yields the Spans in an order in which the actions can be done, each lane keeping its own order.

    Ends early where no lane can go on: then there is a deadlock or an unmet need, at any cost, because nothing that a lane
    does depends on time.
    """
    return _timed(in_order(schedule), cost, transfer)


class Turn(NamedTuple):
    """An action and what must be there before it starts, by places in the order. ``ends``: of actions, whose end. ``messages``: of (SEND, RECV), whose
    message."""

    action: Action
    ends: tuple[int, ...]
    messages: tuple[tuple[int, int], ...]


def in_order(schedule):
    """Yields the Turns of ``schedule``, as ``replay`` has its Spans: no duration decides this order, so it serves any."""
    waits, next_index, moved = _Waits(schedule), [0] * len(schedule.rows), True
    while moved:
        moved = False
        for lane, actions in enumerate(schedule.rows):
            while next_index[lane] < len(actions):
                turn = waits.turn(actions[next_index[lane]])
                if turn is None:
                    break
                yield turn
                next_index[lane] += 1
                moved = True


def whole_order(schedule):
    """The Turns of ``schedule``, a list. Raises ValueError when it cannot end."""
    turns = list(in_order(schedule))
    if len(turns) < sum(map(len, schedule.rows)):
        raise ValueError("this schedule cannot end: plan.check.check_schedule shows where it stops")
    return turns


def _timed(turns, cost, transfer):
    ends, transfers = [], {}
    for action, after, messages in turns:
        start = start_of(after, messages, ends, transfers)
        if action.kind == SEND:
            transfers[len(ends)] = transfer(action)
        ends.append(start + cost(action))
        yield Span(action, start, ends[-1])


def start_of(after, messages, ends, transfers):
    """When a Turn starts. ``ends``: of those before. ``transfers``: {place of a SEND: what its message takes}, or a list.

    A message is there when its send has started and its receive is posted: no buffer is assumed but those two.
    """
    start = 0.0
    for place in after:
        if ends[place] > start:
            start = ends[place]
    for send, receive in messages:
        arrival = max(ends[send], ends[receive]) + transfers[send]
        if arrival > start:
            start = arrival
    return start


class _Waits:
    """What each action of a schedule waits for, asked in an order in which they can be done.

    A send starts when fewer than MAX_PENDING_SENDS of its edge are still on their way.
    """

    def __init__(self, schedule):
        self._schedule = schedule
        self._places, self._last = {}, {}  # of actions; of each lane's last one
        self._sent, self._posted = defaultdict(list), defaultdict(list)  # by edge, in order: (place, message)
        self._number = {}  # of a message on its edge

    def turn(self, action):
        """The Turn of ``action``, which is then done; None while something that it waits for is not."""
        waits = list(self._conditions(action))
        if None in waits:
            return None
        place = len(self._places)
        before = [self._last[action.lane]] if action.lane in self._last else []
        self._last[action.lane] = self._places[action] = place
        if action.is_message:
            self._add_message(action, place)
        ends = (*before, *(one for one in waits if isinstance(one, int)))
        return Turn(action, ends, tuple(one for one in waits if isinstance(one, tuple)))

    def _add_message(self, action, place):
        edge, message = action.edge, _message(action)
        messages = self._sent[edge] if action.kind == SEND else self._posted[edge]
        if action.kind == RECV:
            self._number[edge, message] = len(messages)
        messages.append((place, message))

    def _conditions(self, action):
        """Yields places of actions and of (SEND, RECV); None for what is not done."""
        if action.kind == SEND:
            oldest = len(self._sent[action.edge]) - MAX_PENDING_SENDS
            yield self._places.get(_source(action, self._schedule))
            if oldest >= 0:
                yield self._arrival(action.edge, oldest)
        for need in self._schedule.needs(action):
            if self._schedule.has_messages and need.lane != action.lane:
                edge = need.lane, action.lane
                yield self._arrival(edge, self._number.get((edge, (need.one, need.branch))))
            else:
                yield self._places.get(need)

    def _arrival(self, edge, number):
        """Of the message ``number`` of an edge. What was posted must be what is sent, in the same order."""
        sent, posted = self._sent[edge], self._posted[edge]
        if number is None or number >= len(sent) or number >= len(posted):
            return None
        if sent[number][1] != posted[number][1]:
            sends, waits = ("".join(map(str, messages[number][1])) for messages in (sent, posted))
            raise ValueError(f"lane {edge[0]} sends {sends} where lane {edge[1]} waits for {waits}")
        return sent[number][0], posted[number][0]


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
