"""What a plan takes in all: time, waiting, and bytes on links.

Knows: a plan, and the durations of its actions. Must not know: flags, memory, which plans there are.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from .actions import SEND, STEP
from .cost import shape_of
from .messages import schedule_with_messages
from .schedule import CLIPS, STAGES
from .simulate import simulate, start_of, whole_order
from .traffic import alike

MOST_PASSES = 2_000  # that are simulated one by one: on 8 stages a second


@dataclass(frozen=True)
class Price:
    """``seconds``: until the last frame is there. ``first_frames_s``: until the first ones are. ``bubble``: the share of the stages' time, 0
    to 1, in which they wait. ``link_bytes``: {(stage, the one that it sends to): bytes, from each rank}. ``exchanged_bytes``: what the
    busiest rank sends to others of its stage. ``host_bytes``: what comes to the busiest one from its host's memory and goes there.
    ``network_links``: those of ``link_bytes`` that lead to another node; ``network_bytes``: what leaves the node that most leaves, over links and in exchanges."""

    seconds: float
    first_frames_s: float
    bubble: float
    link_bytes: dict
    exchanged_bytes: int
    host_bytes: int = 0
    network_bytes: int = 0
    network_links: tuple = ()


def price_of(plan, durations):
    """The Price of ``plan``, which must have an end, with ``durations`` (durations.Durations), which must not tell apart what is traffic.alike.

    A long plan is simulated up to the block with which the pipeline, or FIFO-Diffusion's queue, is full, and with one more: each further block
    takes as long as that one, the last one too, which may be shorter. Video-Infinity makes all at once.
    """
    price = _long_sums(plan, durations).price(plan.num_stages)
    return replace(price, network_links=tuple(edge for edge in price.link_bytes if durations.crosses(edge)))


def _long_sums(plan, durations):
    if plan.num_blocks * plan.num_steps * plan.videos <= MOST_PASSES or plan.lanes_are == CLIPS:
        return _sums(plan, durations)
    full = -(-plan.num_steps // (plan.stagger if plan.lanes_are == STAGES else plan.layout.block_latents)) + 2
    if plan.num_blocks <= full + 1:
        return _sums(plan, durations)
    before, after = (_sums(plan.first_blocks(count), durations) for count in (full, full + 1))
    return after.with_more(before, plan.num_blocks - full - 1)


def trace_of(plan, durations):
    """The simulated Trace of all of ``plan``."""
    return simulate(schedule_with_messages(plan), durations.seconds, durations.message_seconds)


@dataclass(frozen=True)
class _Sums:
    """``busy``: seconds of all stages together, without those in which they wait for each other's predictions. ``sent``: bytes by edge. ``exchanged``, ``copied``: by stage, to others of it, and from and to the host. ``left``: by node, what leaves it."""

    end: float
    first: float
    busy: float
    sent: Counter
    exchanged: Counter
    copied: Counter
    left: Counter

    def with_more(self, before, times):
        """As if what is more than ``before``, _Sums of one block less, came ``times`` more."""
        def more(own, theirs):
            return own + times * (own - theirs)

        def all_more(own, theirs):
            return Counter({key: more(number, theirs[key]) for key, number in own.items()})

        return _Sums(
            more(self.end, before.end), self.first, more(self.busy, before.busy), all_more(self.sent, before.sent),
            *(all_more(getattr(self, name), getattr(before, name)) for name in ("exchanged", "copied", "left")),
        )

    def price(self, stages):
        """The Price on as many stages."""
        bubble = max(0.0, 1 - self.busy / (stages * self.end))  # of a single stage that never waits, rounding may leave less
        most = [round(max(amounts.values(), default=0)) for amounts in (self.exchanged, self.copied, self.left)]
        return Price(self.end, self.first, bubble, dict(sorted(self.sent.items())), *most)


def _sums(plan, durations):
    timetable = _timetable(plan)
    seconds = list(map(durations.seconds, timetable.samples))
    messages = [durations.message_seconds(action) if action.kind == SEND else 0.0 for action in timetable.samples]
    ends = timetable.ends(seconds, messages)
    busy, sent, exchanged, copied, left = 0.0, Counter(), Counter(), Counter(), Counter()
    for action, number, took in zip(timetable.samples, timetable.numbers, seconds):
        if action.lane >= plan.num_stages:
            continue
        if action.kind == SEND and action.peer < plan.num_stages:
            sent[action.edge] += number * durations.message_bytes(action)
        elif gathered := durations.gathered_bytes(action):
            sent[action.lane, (action.lane + 1) % plan.num_stages] += number * gathered
        exchanged[action.lane] += number * durations.exchanged_bytes(action)
        copied[action.lane] += number * durations.host_bytes(action)
        left.update({node: number * size for node, size in durations.network_bytes(action).items()})
        busy += 0.0 if action.is_message else number * (took - durations.waiting_seconds(action))
    return _Sums(max(ends), timetable.first_frames(ends), busy, sent, exchanged, copied, left)


class _Timetable:
    """A plan's actions in an order in which they can be done, to be timed with many durations: degrees that are no stages change only those.

    ``samples``: an action of each kind of those that are alike; ``numbers``: how many there are.
    """

    def __init__(self, plan):
        turns, kinds = whole_order(schedule_with_messages(plan)), {}
        self._kinds, self.samples = [], []
        shape = lru_cache(maxsize=None)(partial(shape_of, plan))
        for turn in turns:
            kind = kinds.setdefault(alike(plan, turn.action, shape), len(kinds))
            self._kinds.append(kind)
            self.samples += [turn.action] * (kind == len(self.samples))
        self.numbers = [number for _, number in sorted(Counter(self._kinds).items())]
        self._waits = [(turn.ends, turn.messages) for turn in turns]
        self._first = _first_finished(plan, [turn.action for turn in turns])

    def ends(self, seconds, messages):
        """When each action ends. ``seconds``, ``messages``: of each kind; what an action takes, and what a SEND's message takes."""
        ends, transfers = [], [messages[kind] for kind in self._kinds]
        for kind, (after, arrivals) in zip(self._kinds, self._waits):
            ends.append(start_of(after, arrivals, ends, transfers) + seconds[kind])
        return ends

    def first_frames(self, ends):
        """When the first block's frames are there; its latents where nothing decodes."""
        return max(ends[place] for place in self._first)


_timetable = lru_cache(maxsize=4)(_Timetable)  # of 40 stages some 100 MB each


def _first_finished(plan, actions):
    """Places of the actions with which the first block's frames are there."""
    decode = plan.decode_action(0)
    decodes = [place for place, action in enumerate(actions) if action == decode]
    return decodes[:1] or [
        place for place, action in enumerate(actions)
        if action.kind == STEP and plan.is_last_step(action.one) and not action.block
    ]
