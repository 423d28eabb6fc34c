"""What is measured."""

import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from xdualparal.engine.meter import DECODER, MAIN, WRITER, Meter
from xdualparal.plan.actions import parse_action
from xdualparal.plan.simulate import Span


def test_actions_and_waits_are_told_and_counted():
    told, waits_for_device = [], []
    meter = Meter(lambda: waits_for_device.append(1), tell=told.append)
    assert meter.does(parse_action("0F1.2"), lambda a: a + 1, 2) == 3
    assert meter.waits("for rank 1", time.sleep, 0.02) is None
    meter.does(parse_action("0S1.2"), time.sleep, 0.01)
    assert [doing.what for doing in told] == [
        "action 0F1.2", "after action 0F1.2", "waits for rank 1", "after waits for rank 1", "action 0S1.2", "after action 0S1.2",
    ]
    assert [doing.waits for doing in told[::2]] == [False, True, False] and {doing.is_pass for doing in told[1::2]} == {False}
    assert len(waits_for_device) == 3
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


class LateDevice:
    """Work is queued on it and done when somebody waits for it; the clock is moved by that only, in seconds."""

    def __init__(self):
        self.now, self._queue, self.log = 100.0, [], []

    def queue(self, name, takes_s):
        """Returns at once, as a kernel's launch and NCCL's Work.wait() do."""
        self.log.append(f"queue {name}")
        self._queue.append((name, takes_s))

    def synchronize(self):
        """Does what is queued."""
        for name, takes_s in self._queue:
            self.now += takes_s
            self.log.append(f"done {name}")
        self._queue.clear()


def test_durations_are_those_of_the_device(monkeypatch):
    """Waits and actions that only queue work are charged to themselves, not to what comes after."""
    device = LateDevice()
    monkeypatch.setattr("xdualparal.engine.meter.time.monotonic", lambda: device.now)
    meter = Meter(device.synchronize, keeps_spans=True)
    meter.waits("for rank 0", device.queue, "message", 5.0)
    meter.does(parse_action("1F1.2"), device.queue, "pass", 2.0)
    meter.waits("for rank 2", device.queue, "send", 0.5)
    meter.decodes(parse_action("2D1.2"), device.queue, "decode", 3.0)
    names = ["message", "pass", "send", "decode"]
    assert device.log == [f"{event} {name}" for name in names for event in ("queue", "done")]
    assert (meter.waited_s, meter.busy_s, meter.longest_s) == (5.5, {"F": 2.0, "D": 3.0}, 3.0)
    assert [(span.start, span.end) for span in meter.spans] == [(105.0, 107.0), (107.5, 110.5)]


def test_what_hangs_on_the_device_is_known_by_its_name():
    """The watchdog's thread looks while the device is waited for."""
    seen = []
    meter = Meter(lambda: seen.append(meter.doing))
    meter.waits("for rank 0 to send", lambda: None)
    meter.does(parse_action("1F1.2"), lambda: None)
    assert [(doing.what, doing.is_pass) for doing in seen] == [("waits for rank 0 to send", True), ("action 1F1.2", True)]


def test_profilers_show_actions_and_waits():
    meter = Meter(lambda: None)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        meter.does(parse_action("0F1.2"), torch.ones, 2)
        meter.waits("for rank 1", torch.ones, 2)
        meter.decodes(parse_action("2D1.2"), torch.ones, 2)
    names = [event.name for event in profiler.events()]
    assert {"0F1.2", "waits for rank 1", "2D1.2"} <= set(names)


def test_decoding_beside_the_passes_is_told_as_such():
    told = []
    meter = Meter(lambda: None, tell=told.append)
    meter.decodes(parse_action("2D1.2"), lambda: None)
    meter.passes_wait(lambda: None)
    assert [(doing.what, doing.is_pass, doing.waits, doing.thread) for doing in told] == [
        ("action 2D1.2", True, False, DECODER), ("", False, False, DECODER), ("waits for decoding", False, True, MAIN),
        ("after waits for decoding", False, False, MAIN),
    ]


def test_writing_is_told_and_closing_has_a_limit_of_its_own():
    told, written = [], []
    meter = Meter(lambda: None, tell=told.append)
    meter.writes(written.append, "segment")
    meter.closes(lambda: written.append("closed"))
    assert written == ["segment", "closed"]
    assert [(doing.what, doing.is_pass, doing.thread) for doing in told] == [
        ("writes frames", True, WRITER), ("", False, WRITER), ("closes the video", False, MAIN), ("after closes the video", False, MAIN),
    ]
    assert [doing.limit_s is not None for doing in told] == [False, False, True, False]


def test_decoding_between_the_passes_is_an_action():
    told = []
    meter = Meter(lambda: None, tell=told.append)
    meter.passes_wait(meter.does, parse_action("2D1.2"), lambda: None)
    assert [doing.what for doing in told] == ["waits for decoding", "action 2D1.2", *["after action 2D1.2"] * 2]


def test_writing_beside_the_passes_is_known_meanwhile():
    meter, seen = Meter(lambda: None), []
    meter.writes(lambda frames: seen.extend([frames, *meter.activities()]), "frames")
    assert seen[0] == "frames" and [(one.what, one.is_pass) for one in seen[1:]] == [("starts", False), ("writes frames", True)]
    with pytest.raises(OSError):
        meter.writes(lambda frames: open("/nowhere"), "frames")
    assert meter.activities() == [meter.doing] and meter.busy_s == {}
