"""Grids and Chrome traces."""

import json

from xdualparal import build_schedule
from xdualparal.plan.render import chrome_trace, list_grid, time_grid
from xdualparal.plan.actions import parse_action
from xdualparal.plan.simulate import simulate


def test_time_grid():
    assert time_grid(build_schedule(2, 2, 2)).splitlines() == [
        "stage 0 | 0.0 .   1.0 0.1 .   1.1 .",
        "stage 1 | .   0.0 .   1.0 0.1 .   1.1",
    ]


def test_list_grid_marks_the_place():
    grid = list_grid(build_schedule(1, 2, 2), [parse_action("1S0.0")])
    assert grid.splitlines() == [
        "stage 0 | 0F0.0   0F0.1",
        "stage 1 | 1F0.0   >1S0.0< 1F0.1   1S0.1",
    ]


def test_chrome_trace():
    schedule = build_schedule(2, 2, 2)
    events = json.loads(chrome_trace(simulate(schedule, cost=lambda action: 0.5)))["traceEvents"]
    assert len(events) == sum(map(len, schedule.stages))
    first = next(e for e in events if e["args"]["action"] == "1F0.0")
    assert (first["ts"], first["dur"], first["tid"], first["ph"]) == (500000.0, 500000.0, 1, "X")
