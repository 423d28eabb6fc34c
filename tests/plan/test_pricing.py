"""A price is the simulation's, of long videos too."""

from dataclasses import replace

import pytest

from xdualparal.plan import pricing
from xdualparal.plan.actions import FORWARD
from xdualparal.plan.layout import Layout
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.pricing import price_of
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.strategies.fifo import FifoPlan


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
    assert price.first_frames_s < price.seconds and 0 < price.bubble < 1


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
