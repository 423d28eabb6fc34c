"""The simulation against the table of DESIGN section 2."""

import pytest

from xdualparal import build_schedule
from xdualparal.plan.actions import Action, Pass
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.schedule import Schedule, whole_schedule
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.plan.simulate import Span, Trace, simulate

TABLE = [  # stages, blocks, steps, end, bubble in percent, first block finished: DESIGN section 2, stagger 1
    (8, 32, 50, 1663, 3.8, 1139), (8, 10, 50, 563, 11.2, 490), (8, 5, 50, 481, 48.0, 449), (4, 5, 50, 265, 5.7, 249),
    (8, 32, 4, 283, 54.8, 35), (2, 10, 20, 203, 1.5, 157),
]


@pytest.mark.parametrize("stages, blocks, steps, end, bubble, first", TABLE)
def test_table(stages, blocks, steps, end, bubble, first):
    trace = simulate(build_schedule(blocks, steps, stages))
    assert (trace.end, round(100 * trace.bubble(), 1), trace.finished(0)) == (end, bubble, first)


@pytest.mark.parametrize("stages, blocks, steps, stagger, bubble, first", [  # DESIGN section 2, staggers 2 and 5
    (8, 32, 50, 2, 7.7, 720), (8, 10, 50, 2, 21.0, 480), (8, 5, 50, 2, 51.5, 448), (4, 5, 50, 2, 11.7, 248),
    (2, 10, 20, 2, 3.4, 114), (8, 32, 50, 5, 17.7, 450), (8, 10, 50, 5, 40.7, 450), (8, 5, 50, 5, 59.5, 445),
    (4, 5, 50, 5, 25.8, 245), (2, 10, 20, 5, 8.7, 60),
])
def test_table_with_a_stagger(stages, blocks, steps, stagger, bubble, first):
    trace = simulate(build_schedule(blocks, steps, stages, stagger=stagger))
    assert (round(100 * trace.bubble(), 1), trace.finished(0)) == (bubble, first)


@pytest.mark.parametrize("steps, stages, bubbles", [  # DESIGN section 2, few steps: 1, 2 and 4 videos side by side
    (4, 2, (2.3, 0.4, 0.2)), (4, 4, (10.5, 2.7, 0.6)), (4, 8, (54.8, 10.8, 2.8)), (8, 4, (5.5, 1.3, 0.3)), (8, 8, (19.7, 5.7, 1.4)),
])
def test_table_of_few_steps(steps, stages, bubbles):
    plans = [DualParalPlan(32, steps, stages).side_by_side([0] * videos) for videos in (1, 2, 4)]
    assert tuple(round(100 * simulate(whole_schedule(plan)).bubble(), 1) for plan in plans) == bubbles


def test_two_videos_wait_less_than_half_as_much():
    """4 steps on 4 stages, with messages and a transfer of a fifth of a pass: 25 % and 4 %."""
    plan = DualParalPlan(32, 4, 4)
    one, two = (
        simulate(schedule_with_messages(plan.side_by_side([0] * videos)), transfer=lambda message: 0.2).bubble() for videos in (1, 2)
    )
    assert two < one / 2 and (round(100 * one), round(100 * two, 1)) == (25, 4.0)


def test_decoding_in_a_lane_of_its_own_delays_no_stage():
    """A decode as long as three passes: inline the ring waits for it, in its own lane only the end does."""
    def end(place, lane_counts=True):
        trace = simulate(build_schedule(4, 6, 2, decode=place), cost=lambda a: {"F": 1, "S": 0, "D": 3}[a.kind])
        return trace.end if lane_counts else max(span.end for row in trace.stages for span in row)

    without = simulate(build_schedule(4, 6, 2)).end
    assert end("thread", lane_counts=False) == without < end("thread") < end("inline") < end("end") == without + 12


@pytest.mark.parametrize("stages, blocks, steps, whole, bubble", [
    (8, 5, 50, 48.0, 14.4), (8, 32, 4, 54.8, 20.2),  # DESIGN section 2: every wave has fewer blocks than stages
    (8, 32, 50, 3.8, 1.4), (8, 10, 50, 11.2, 4.4), (4, 5, 50, 5.7, 2.7), (2, 10, 20, 1.5, 1.0),  # it splits all waves
    (4, 4, 40, 24.2, 3.3), (8, 8, 50, 20.8, 4.6), (2, 2, 40, 33.9, 20.4),  # as many blocks as stages
])
def test_split_guidance_shrinks_bubbles(stages, blocks, steps, whole, bubble):
    assert round(100 * simulate(build_schedule(blocks, steps, stages)).bubble(), 1) == whole
    assert round(100 * simulate(build_schedule(blocks, steps, stages, True)).bubble(), 1) == bubble


def test_costs():
    schedule = build_schedule(1, 2, 2)
    trace = simulate(schedule, cost=lambda action: {"F": 3, "S": 2}[action.kind])
    assert [(str(s.action), s.start, s.end) for s in trace.stages[1]] == [
        ("1F0.0", 3, 6), ("1S0.0", 6, 8), ("1F0.1", 11, 14), ("1S0.1", 14, 16),
    ]
    assert (trace.busy(0), trace.busy(1), trace.end) == (6, 10, 16)


def test_refuses_what_cannot_end():
    schedule = Schedule(DualParalPlan(1, 1, 1), ((Action(0, "S", Pass(0, 0, 0)), Action(0, "F", Pass(0, 0, 0))),))
    with pytest.raises(ValueError, match="cannot end"):
        simulate(schedule)


def test_overlap():
    a, b = (Action(lane, "F", Pass(0, 0, 0)) for lane in (0, 1))
    assert Trace(((Span(a, 0, 4),), (Span(b, 2, 6),))).overlap() == pytest.approx(2 / 6)
    assert Trace(((Span(a, 0, 4),), (Span(b, 5, 6),))).overlap() == 0
    assert Trace(((Span(a, 0, 4), Span(a, 6, 8)), (Span(b, 0, 4), Span(b, 6, 8)))).overlap() == 1
