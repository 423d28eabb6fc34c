"""What is measured."""

import time

import pytest

from xdualparal.engine.meter import Meter
from xdualparal.plan.actions import parse_action
from xdualparal.plan.simulate import Span


def test_actions_and_waits_are_told_and_counted():
    told, waits_for_device = [], []
    meter = Meter(lambda: waits_for_device.append(1), tell=told.append)
    assert meter.does(parse_action("0F1.2"), lambda a: a + 1, 2) == 3
    assert meter.waits("for rank 1", time.sleep, 0.02) is None
    meter.does(parse_action("0S1.2"), time.sleep, 0.01)
    assert told == ["action 0F1.2", "waits for rank 1", "action 0S1.2"] and len(waits_for_device) == 2
    assert meter.count == {"F": 1, "S": 1} and meter.busy_s["S"] >= 0.01 and meter.waited_s >= 0.02
    assert meter.longest_s == max(meter.busy_s.values())
    assert meter.spans == []  # nobody asked for them


def test_what_is_being_done_is_known_meanwhile():
    meter, seen = Meter(lambda: None), []
    meter.does(parse_action("0F1.2"), lambda: seen.append(meter.doing))
    assert (seen[0].what, seen[0].is_pass) == ("action 0F1.2", True)
    assert not meter.doing.is_pass


def test_a_decode_beside_the_passes_is_known_meanwhile():
    meter, seen = Meter(lambda: None, keeps_spans=True), []
    assert meter.decodes(parse_action("2D1.2"), lambda a: seen.extend(meter.activities()) or a, 5) == 5
    assert [(one.what, one.is_pass) for one in seen] == [("starts", False), ("action 2D1.2", True)]
    assert meter.activities() == [meter.doing] and meter.count == {"D": 1} and len(meter.spans) == 1
    with pytest.raises(OSError):
        meter.decodes(parse_action("2D1.2"), lambda: open("/nowhere"))
    assert meter.activities() == [meter.doing]


def test_what_another_thread_measured_counts():
    meter = Meter(lambda: None, keeps_spans=True)
    meter.add(Span(parse_action("1D0.1"), 1.0, 3.5))
    assert meter.busy_s == {"D": 2.5} and len(meter.spans) == 1
