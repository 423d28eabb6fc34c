"""A price is the simulation's, of long videos too."""

from dataclasses import replace

import pytest

from xdualparal.plan import pricing
from xdualparal.plan.actions import FORWARD, SEND
from xdualparal.plan.device import DeviceProfile
from xdualparal.plan.durations import Durations
from xdualparal.plan.layout import Layout
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.pricing import price_of, trace_of
from xdualparal.plan.schedule import STAGES
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.clips import ClipLayout, ClipsPlan
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.strategies.fifo import FifoPlan


DEVICE = DeviceProfile("one", 10**10, 2e12, 1e12, 4e12, 8e12, 1e11, 1e9, 2e10, link_s=1e-3, layer_s=1e-4)
MODEL = ModelNumbers(12, 12, 128, 8960, 16, 16, 8, 4, 2, 2, 10**8, 10**7, 10**6, 10**6, 10**7, 10**9, 10**8, 1.0, 1.0, 1.0, 480, 4)  # of 12 layers


class Made:
    """Durations that are made up: the first block's passes are longer, the last stage is slower."""

    def seconds(self, action):
        if action.kind == "D":
            return 2.5
        return (1.5 if action.block == 0 else 1.0) * (1.2 if action.lane == 1 else 1.0) * (0.5 if action.branch else 1) if action.kind == FORWARD else 0.0

    def message_seconds(self, send):
        return 0.1

    def message_bytes(self, send):
        return 10 if send.peer else 3

    def exchanged_bytes(self, action):
        return 7 * (action.kind == FORWARD)

    def gathered_bytes(self, action):
        return 11 * (action.kind == "S" and action.lane == 0)

    def waiting_seconds(self, action):
        return 0.0

    def host_bytes(self, action):
        return 5 * (action.kind == FORWARD) * (1 + action.lane)

    def network_bytes(self, action):
        return {0: 13, 1: 2} if action.kind == FORWARD and action.lane == 1 else {}

    def crosses(self, edge):
        return edge == (1, 2)


def plan_of(blocks, decode="inline", **more):
    layout = Layout(4, 2, 6 + 4 * (blocks - 1))
    return DualParalPlan(blocks, 5, 3, layout=layout, decode=decode, **more)


@pytest.mark.parametrize("more", [dict(), dict(split_guidance=True), dict(stagger=2), dict(context="cached"), dict(videos=2)])
def test_a_long_video_is_as_if_it_were_simulated(monkeypatch, more):
    plan = plan_of(40, **more)
    whole = price_of(plan, Made())
    monkeypatch.setattr(pricing, "MOST_PASSES", 10)
    short = price_of(plan, Made())
    assert short.seconds == pytest.approx(whole.seconds, rel=1e-9) and short.bubble == pytest.approx(whole.bubble, abs=1e-9)
    assert replace(short, seconds=0, bubble=0) == replace(whole, seconds=0, bubble=0)


@pytest.mark.parametrize("steps, lookahead", [(5, 0), (8, 2), (11, 2)])
def test_a_long_queue_is_as_if_it_were_simulated(monkeypatch, steps, lookahead):
    plan = FifoPlan(Layout(4, 0, 4 * 40), steps, 2, lookahead, decode="inline")
    whole = price_of(plan, Made())
    monkeypatch.setattr(pricing, "MOST_PASSES", 10)
    monkeypatch.setattr(FifoPlan, "passes", _counted(FifoPlan.passes, waves := set()))
    short = price_of(plan, Made())
    assert max(one for _, one in waves) < plan.num_waves / 2
    assert short.seconds == pytest.approx(whole.seconds, rel=1e-9) and short.bubble == pytest.approx(whole.bubble, abs=1e-9)
    assert replace(short, seconds=0, bubble=0) == replace(whole, seconds=0, bubble=0)


def _counted(passes, waves):
    def counting(plan, wave):
        waves.add((plan.num_waves, wave))
        return passes(plan, wave)

    return counting


def test_the_sums_by_hand():
    """2 blocks, 5 steps, 3 stages: each pass on each of the first two edges, and all but the last step's latents back."""
    price = price_of(plan_of(2), Made())
    trace = simulate(schedule_with_messages(plan_of(2)), Made().seconds, lambda send: 0.1)
    assert price.seconds == trace.end and price.exchanged_bytes == 7 * 10 and price.host_bytes == 5 * 3 * 10
    assert price.link_bytes == {(0, 1): 100, (1, 2): 100, (2, 0): 3 * 9}  # block 0's finished latents are block 1's context
    assert price.network_bytes == 13 * 10 and price.network_links == ((1, 2),)
    assert price.first_frames_s < price.seconds and price.bubble == pytest.approx(trace.bubble())


@pytest.mark.parametrize("plan", [
    plan_of(3, split_guidance=True, decode="thread"), plan_of(4, context="cached", stagger=2), plan_of(3, videos=2, decode="end"), FifoPlan(Layout(4, 0, 22), 8, 3, 2, "thread"),
    ClipsPlan(ClipLayout(5, 0, 15, clips=3, halo=1, sampled=2), 3, decode="inline"), plan_of(3, expert_starts=(0, 2), swaps_experts=True),
], ids=str)
def test_what_is_alike_takes_equally_long(plan):
    """A price, which asks for the durations of one of those that are alike, is that of a simulation that asks for each."""
    layers = (4,) * 3 if plan.lanes_are == STAGES else (12,) * 3
    own = Durations(MODEL, RunNumbers(480, 832, 2, plan.layout, plan.num_steps, layers, ulysses=2, guidance_ranks=2), plan, DEVICE, 1000.0)
    price, trace = price_of(plan, own), trace_of(plan, own)
    spans = [span for row in trace.stages for span in row]
    assert price.seconds == trace.end
    assert price.exchanged_bytes == max(sum(own.exchanged_bytes(span.action) for span in row) for row in trace.stages)
    assert sum(price.link_bytes.values()) == sum(
        own.message_bytes(span.action) if span.action.kind == SEND else own.gathered_bytes(span.action)
        for span in spans if span.action.kind != SEND or span.action.peer < 3
    )
    busy = sum(span.end - span.start - own.waiting_seconds(span.action) for span in spans if not span.action.is_message)
    assert price.bubble == pytest.approx(1 - busy / (3 * trace.end), abs=1e-9)


def test_waiting_for_predictions_is_no_work(monkeypatch):
    """Of a queue on 3 lanes: a second of each STEP."""
    plan = FifoPlan(Layout(4, 0, 12), 8, 3, 2)
    monkeypatch.setattr(Made, "waiting_seconds", lambda self, action: float(action.kind == "S"))
    monkeypatch.setattr(Made, "seconds", lambda self, action: 2.0 * (action.kind == FORWARD) + self.waiting_seconds(action))
    price, trace = price_of(plan, Made()), simulate(schedule_with_messages(plan), Made().seconds, lambda send: 0.0)
    passes, end = sum(len(plan.passes(wave)) for wave in range(plan.num_waves)), price.seconds
    assert price.bubble == pytest.approx(1 - 2 * passes / (3 * end)) and price.bubble > trace.bubble()
    assert price.link_bytes == {(0, 1): 11 * plan.num_waves}


def test_first_frames_without_decoding():
    assert 0 < price_of(plan_of(2, decode="none"), Made()).first_frames_s < price_of(plan_of(2), Made()).first_frames_s
