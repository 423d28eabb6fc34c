"""What a worker's watchdog reports, and when it ends the worker."""

import threading
import time
from types import SimpleNamespace

import pytest
from torch.distributed import DistNetworkError

from xdualparal.engine.meter import Doing
from xdualparal.launch import watchdog as module
from xdualparal.launch.mailbox import NoMailbox


class Ended(Exception):
    """Instead of os._exit; its argument is the exit code."""


class Mailbox(NoMailbox):
    """Keeps what is reported."""

    def __init__(self):
        self.failures, self.has_ended = [], False

    def report(self, failure):
        """Keeps it."""
        self.failures.append(failure)

    def launcher_has_ended(self):
        """What the test says."""
        return self.has_ended


@pytest.fixture
def mailbox():
    """A mailbox of the test's own."""
    return Mailbox()


@pytest.fixture
def watchdog(monkeypatch, mailbox):
    """A Watchdog that takes no signals and has no thread of its own."""
    def end(code):
        raise Ended(code)

    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(module.signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(module.signal, "alarm", lambda seconds: None)
    monkeypatch.setattr(module.os, "_exit", end)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    return module.Watchdog(mailbox=mailbox)


def pipeline(**meter):
    """A DualParalPipeline as far as a watchdog knows it."""
    return SimpleNamespace(meter=SimpleNamespace(longest_s=2.0, **meter), stage=SimpleNamespace(index=1), mesh=SimpleNamespace(stage=(1, 2)))


def since(seconds, what, is_pass=True):
    """What a thread has done for so long."""
    return Doing(what, time.monotonic() - seconds, is_pass)


def test_a_long_start_is_logged(watchdog, monkeypatch, caplog):
    watchdog._check_start()
    assert not caplog.text
    monkeypatch.setattr(module, "_NOTICE_S", 0.0)
    watchdog._check_start()
    watchdog.begins("loads the weights")
    watchdog._check_start()
    assert [record.message for record in caplog.records] == [
        "rank 0 of 2 still connects to the other processes", "rank 0 of 2 still loads the weights",
    ]


def test_without_a_launcher_a_failure_is_logged(watchdog, caplog):
    watchdog._mailbox = NoMailbox()
    watchdog.failed(OSError("no disk"))
    assert "rank 0, connects to the other processes: OSError: no disk" in caplog.text


@pytest.mark.parametrize("error, kind", [
    (OSError("no disk"), "raised"), (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "lost"),
    (DistNetworkError("failed to recv, got 0 bytes"), "lost"),
])
def test_a_lost_rank_or_store_is_told_from_an_error_of_its_own(watchdog, mailbox, error, kind):
    watchdog.failed(error)
    assert [failure["kind"] for failure in mailbox.failures] == [kind]


def test_the_thread_that_hangs_is_reported(watchdog, mailbox):
    """Decoding hangs; the main thread is at work, then waits for it."""
    activities = [since(1, "action 1F0.0"), since(90, "action 1D0")]
    watchdog.over(pipeline(activities=lambda: activities, doing=activities[0]))
    watchdog._check_silence()  # 100 s: 50 of the longest action
    activities[1] = since(101, "action 1D0")
    with pytest.raises(Ended, match="1"):
        watchdog._check_silence()
    activities[0] = since(150, "action 1F0.0", is_pass=False)
    with pytest.raises(Ended):
        watchdog._check_silence()
    assert [failure["cause"].partition(" for 101 s, more than 100 s")[0] for failure in mailbox.failures] == ["action 1D0"] * 2
