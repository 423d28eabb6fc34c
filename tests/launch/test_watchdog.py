"""What a worker's watchdog reports, and when it ends the worker."""

import threading
from types import SimpleNamespace

import pytest
from torch.distributed import DistNetworkError

from xdualparal.engine.meter import DECODER, MAIN, Doing
from xdualparal.launch import watchdog as module
from xdualparal.launch.heartbeats import StandstillTimer
from xdualparal.launch import mailbox as mailboxes
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

    def remove(self):
        """Notes it."""
        self.is_removed = True


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


def test_a_long_start_is_logged(watchdog, monkeypatch, caplog):
    watchdog._check_start()
    assert not caplog.text
    monkeypatch.setattr(module, "_NOTICE_S", 0.0)
    watchdog._check_start()
    watchdog.begin_phase("loads the weights")
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


class Clock:
    """Seconds that a test lets pass, as the watchdog's thread lives through them."""

    def __init__(self, watchdog):
        self.now_s, self._watchdog = 0.0, watchdog
        watchdog._timer = StandstillTimer(lambda: self.now_s)

    def passes(self, seconds):
        """Raises Ended when the watchdog ends the worker meanwhile."""
        for _ in range(seconds):
            self.now_s += 1
            self._watchdog._timer.look()
            self._watchdog._check_silence()


@pytest.mark.parametrize("main", [dict(is_pass=True, waits=True), dict(is_pass=False)])
def test_the_thread_that_hangs_is_reported(watchdog, mailbox, main):
    """Decoding hangs; the main thread waits for other ranks, which wait for it, or is between two actions."""
    clock, waits, decodes = Clock(watchdog), Doing("waits", 0.0, **main), Doing("action 1D0", 1.0, True, thread=DECODER)
    watchdog.observe(pipeline(activities=lambda: [waits, decodes], doing=waits))
    clock.passes(100)  # 50 of the longest action
    with pytest.raises(Ended, match="1"):
        clock.passes(2)
    assert [failure["cause"].partition(" for 101 s, more than 100 s")[0] for failure in mailbox.failures] == ["action 1D0"]


def test_a_pause_of_the_machine_is_not_counted(watchdog, mailbox):
    clock, works = Clock(watchdog), Doing("action 1F0.0", 0.0, True)
    watchdog.observe(pipeline(activities=lambda: [works], doing=works))
    clock.passes(10)
    clock.now_s += 5000
    clock.passes(80)
    assert mailbox.failures == []


def test_other_nodes_are_not_waited_for_for_ever(watchdog, mailbox, monkeypatch):
    monkeypatch.setattr(module, "_CONNECT_S", -1.0)
    with pytest.raises(Ended, match="1"):
        watchdog._check_start()
    assert "start the same command on all nodes" in mailbox.failures[0]["cause"]
    watchdog.begin_phase("loads the weights")
    watchdog._check_start()


def test_what_is_done_is_told_with_its_limit(watchdog, mailbox):
    told = []
    mailbox.set_activity = lambda *activity: told.append(activity)
    observed = pipeline()
    watchdog.observe(observed)
    observed.tell(Doing("action 1F0.0", 0.0, True))
    observed.tell(Doing("waits for rank 0", 0.0, True, waits=True))
    observed.tell(Doing("after action 1F0.0", 0.0, False))
    observed.tell(Doing("closes", 0.0, False, limit_s=7.0))
    observed.tell(Doing("", 0.0, False, thread=DECODER))
    assert told == [
        (MAIN, "stage 1, action 1F0.0", 100.0, False), (MAIN, "stage 1, waits for rank 0", 100.0, True),
        (MAIN, "stage 1, after action 1F0.0", 0.0, False), (MAIN, "stage 1, closes", 7.0, False), (DECODER, "", 0.0, False),
    ]


def test_a_worker_that_is_ended_at_once_closes_its_file_and_then_lets_others_have_it(watchdog):
    done = []
    watchdog._release = lambda: done.append("released")
    watchdog.on_abort(lambda: done.append("closed"))
    watchdog._signals = 2
    with pytest.raises(Ended, match="130"):
        watchdog._check_stop()
    assert done == ["closed", "released"]


@pytest.mark.parametrize("on_this_node, address", [("2", ""), ("1", " at far:1234")])
def test_on_several_nodes_the_address_is_named(monkeypatch, on_this_node, address):
    for name, value in dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE=on_this_node, MASTER_ADDR="far", MASTER_PORT="1234").items():
        monkeypatch.setenv(name, value)
    assert module._connects() == f"connects to the other processes{address}"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_without_a_launcher_other_ranks_wait_until_the_first_has_said_why(monkeypatch, capsys, rank):
    """torchrun ends all processes when the first one has ended."""
    waited = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(mailboxes.time, "sleep", waited.append)
    NoMailbox().refuse("no")
    assert ("no" in capsys.readouterr().err) == (rank == "0") and len(waited) == (rank != "0")


def test_a_stop_ends_a_worker_only_before_there_is_a_pipeline(watchdog, mailbox, monkeypatch):
    """With one, and before its first video, too, the worker ends in order: another replica may be making one."""
    stops = []
    monkeypatch.setattr(mailbox, "stop_request", lambda: mailboxes.FINISH)
    with pytest.raises(Ended, match="130"):
        watchdog._check_stop()
    assert not watchdog.stop_is_asked
    watchdog.observe(SimpleNamespace(meter=None, stop=lambda: stops.append(1)))
    watchdog._check_stop()
    assert watchdog.stop_is_asked and stops == [1]
