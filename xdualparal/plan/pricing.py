"""What a plan takes in all: time, waiting, and bytes on links.

Knows: a plan, and the durations of its actions. Must not know: flags, memory, which plans there are.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from .actions import SEND, STEP
from .messages import schedule_with_messages
from .schedule import CLIPS, STAGES
from .simulate import simulate

MOST_PASSES = 2_000  # that are simulated one by one: on 8 stages a second


@dataclass(frozen=True)
class Price:
    """``seconds``: until the last frame is there. ``first_frames_s``: until the first ones are. ``bubble``: the share of the stages' time, 0
    to 1, in which they wait. ``link_bytes``: {(stage, the one that it sends to): bytes, from each rank}. ``exchanged_bytes``: what the
    busiest rank sends to others of its stage. ``host_bytes``: what comes to the busiest one from its host's memory and goes there."""

    seconds: float
    first_frames_s: float
    bubble: float
    link_bytes: dict
    exchanged_bytes: int
    host_bytes: int = 0


def price_of(plan, durations):
    """The Price of ``plan``, which must have an end, with ``durations`` (durations.Durations).

    A long plan is simulated up to the block with which the pipeline, or FIFO-Diffusion's queue, is full, and with one more: each further block
    takes as long as that one, the last one too, which may be shorter. Video-Infinity makes all at once.
    """
    if plan.num_blocks * plan.num_steps * plan.videos <= MOST_PASSES or plan.lanes_are == CLIPS:
        return _sums(plan, durations).price(plan.num_stages)
    full = -(-plan.num_steps // (plan.stagger if plan.lanes_are == STAGES else plan.layout.block_latents)) + 2
    if plan.num_blocks <= full + 1:
        return _sums(plan, durations).price(plan.num_stages)
    before, after = (_sums(plan.first_blocks(count), durations) for count in (full, full + 1))
    return after.with_more(before, plan.num_blocks - full - 1).price(plan.num_stages)


def trace_of(plan, durations):
    """The simulated Trace of all of ``plan``."""
    return simulate(_schedule(plan), durations.seconds, durations.message_seconds)


@lru_cache(maxsize=64)  # degrees that are not stages change only durations
def _schedule(plan):
    return schedule_with_messages(plan)


@dataclass(frozen=True)
class _Sums:
    """``busy``: seconds of all stages together, without those in which they wait for each other's predictions. ``sent``: bytes by edge. ``exchanged``, ``copied``: by stage, to others of it, and from and to the host."""

    end: float
    first: float
    busy: float
    sent: Counter
    exchanged: Counter
    copied: Counter

    def with_more(self, before, times):
        """As if what is more than ``before``, _Sums of one block less, came ``times`` more."""
        def more(own, theirs):
            return own + times * (own - theirs)

        def all_more(own, theirs):
            return Counter({key: more(number, theirs[key]) for key, number in own.items()})

        return _Sums(
            more(self.end, before.end), self.first, more(self.busy, before.busy), all_more(self.sent, before.sent),
            all_more(self.exchanged, before.exchanged), all_more(self.copied, before.copied),
        )

    def price(self, stages):
        """The Price on as many stages."""
        bubble = 1 - self.busy / (stages * self.end)
        most = [max(by_stage.values(), default=0) for by_stage in (self.exchanged, self.copied)]
        return Price(self.end, self.first, bubble, dict(sorted(self.sent.items())), *most)


def _sums(plan, durations):
    trace, sent, exchanged, copied = trace_of(plan, durations), Counter(), Counter(), Counter()
    busy = sum(map(trace.busy, range(plan.num_stages)))
    for action in (span.action for row in trace.stages for span in row):
        if action.kind == SEND and action.peer < plan.num_stages:
            sent[action.edge] += durations.message_bytes(action)
        elif gathered := durations.gathered_bytes(action):
            sent[action.lane, (action.lane + 1) % plan.num_stages] += gathered
        exchanged[action.lane] += durations.exchanged_bytes(action)
        copied[action.lane] += durations.host_bytes(action)
        busy -= durations.waiting_seconds(action)
    return _Sums(trace.end, _first_frames(plan, trace), busy, sent, exchanged, copied)


def _first_frames(plan, trace):
    """When the first block's frames are there; its latents where nothing decodes."""
    decodes = [span.end for row in trace.rows for span in row if span.action == plan.decode_action(0)]
    return decodes[0] if decodes else max(s.end for row in trace.stages for s in row if s.action.kind == STEP and plan.is_last_step(s.action.one) and not s.action.block)
