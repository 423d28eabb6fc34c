"""The simulation against the table of DESIGN section 2."""

import pytest

from xdualparal import build_schedule
from xdualparal.schedule import Action, Schedule
from xdualparal.simulate import Span, Trace, simulate

TABLE = [  # stages, blocks, steps, end, bubble in percent, first block finished: DESIGN section 2, stagger 1
    (8, 32, 50, 1663, 3.8, 1139), (8, 10, 50, 563, 11.2, 490), (8, 5, 50, 481, 48.0, 449), (4, 5, 50, 265, 5.7, 249),
    (8, 32, 4, 283, 54.8, 35), (2, 10, 20, 203, 1.5, 157),
]


@pytest.mark.parametrize("stages, blocks, steps, end, bubble, first", TABLE)
def test_table(stages, blocks, steps, end, bubble, first):
    trace = simulate(build_schedule(blocks, steps, stages))
    assert (trace.end, round(100 * trace.bubble(), 1), trace.finished(0)) == (end, bubble, first)


@pytest.mark.parametrize("stages, blocks, steps, whole, bubble", [
    (8, 5, 50, 48.0, 14.4), (8, 32, 4, 54.8, 20.2),  # DESIGN section 2: every wave has fewer blocks than stages
    (8, 32, 50, 3.8, 1.4), (8, 10, 50, 11.2, 4.4), (4, 5, 50, 5.7, 2.7), (2, 10, 20, 1.5, 1.0),  # it splits all waves
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
    schedule = Schedule(1, 1, 1, ((Action(0, "S", 0, 0), Action(0, "F", 0, 0)),))
    with pytest.raises(ValueError, match="cannot end"):
        simulate(schedule)


def test_overlap():
    a, b = Action(0, "F", 0, 0), Action(1, "F", 0, 0)
    assert Trace(((Span(a, 0, 4),), (Span(b, 2, 6),))).overlap() == pytest.approx(2 / 6)
    assert Trace(((Span(a, 0, 4),), (Span(b, 5, 6),))).overlap() == 0
    assert Trace(((Span(a, 0, 4), Span(a, 6, 8)), (Span(b, 0, 4), Span(b, 6, 8)))).overlap() == 1
