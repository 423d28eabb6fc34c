"""What a worker says of itself."""

import threading

import pytest

from xdualparal.launch import watchdog as watch


@pytest.fixture
def quiet_watch(monkeypatch):
    """A Watch that takes no signals and has no thread of its own."""
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(watch.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    return watch.Watch()


def test_a_start_that_takes_long_is_said(quiet_watch, monkeypatch, caplog):
    quiet_watch._notice()
    assert not caplog.text
    monkeypatch.setattr(watch, "_NOTICE_S", 0.0)
    quiet_watch._notice()
    quiet_watch.begins("loads the weights")
    quiet_watch._notice()
    assert [record.message for record in caplog.records] == [
        "rank 0 of 2 still connects to the other processes", "rank 0 of 2 still loads the weights",
    ]


def test_a_failure_says_what_was_done(quiet_watch, caplog):
    quiet_watch.failed(OSError("no disk"))
    assert "rank 0, connects to the other processes: OSError: no disk" in caplog.text
