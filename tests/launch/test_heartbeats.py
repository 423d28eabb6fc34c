"""Which worker is said to hang."""

import os
import re
import subprocess
import sys

import pytest

from xdualparal.engine.meter import DECODER, WRITER
from xdualparal.launch.heartbeats import START_PULSE_S, Heartbeats, StandstillTimer
from xdualparal.launch.status import MAIN, STARTS, THREADS, StatusFile, read_status

LIMIT_S = 10.0


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class Node:
    """The workers of a node, on paper."""

    def __init__(self, folder, ranks=3):
        self.clock, self.workers = Clock(), [StatusFile(folder / f"rank{rank}") for rank in range(ranks)]
        self.stopped = set()
        self._heartbeats = Heartbeats(folder, [str(rank) for rank in range(ranks)], self.clock)

    def waits(self, *ranks):
        """They wait for another rank."""
        for rank in ranks:
            self.workers[rank].set_activity(MAIN, f"stage {rank}, waits", LIMIT_S, waits=True)

    def after(self, seconds, limit_s=LIMIT_S):
        """What the launcher finds in the next ``seconds``; None: that no one hangs."""
        for _ in range(int(seconds * 2)):
            self.clock.now_s += 0.5
            for rank, worker in enumerate(self.workers):
                if rank not in self.stopped:
                    worker.beat(limit_s)
            hang = self._heartbeats.hang()
            if hang is not None:
                return hang
        return None


@pytest.fixture
def node(tmp_path):
    """Three workers."""
    return Node(tmp_path)


def works(node):
    node.workers[1].set_activity(MAIN, "stage 1, action 1F2.3", LIMIT_S)


def is_between(node):
    node.workers[1].set_activity(MAIN, "stage 1, after action 1F2.3")


def is_stopped_while_it_works(node):
    works(node)
    node.stopped.add(1)


def is_stopped_while_it_waits(node):
    node.waits(1)
    node.stopped.add(1)


def decodes(node):
    node.workers[1].set_activity(MAIN, "stage 1, waits for decoding", waits=True)
    node.workers[1].set_activity(DECODER, "stage 1, action 3D0", LIMIT_S)


def decodes_while_it_waits_for_a_rank(node):
    node.waits(1)
    node.workers[1].set_activity(DECODER, "stage 1, action 3D0", LIMIT_S)


def writes(node):
    is_between(node)
    node.workers[1].set_activity(WRITER, "stage 1, writes frames", LIMIT_S)


def closes(node):
    node.workers[1].set_activity(MAIN, "stage 1, closes the video", LIMIT_S)


@pytest.mark.parametrize("culprit, line", [
    (works, "rank 1, stage 1, action 1F2.3 for .* it hangs"), (is_between, "rank 1, stage 1, after action 1F2.3 for .* it hangs"),
    (is_stopped_while_it_works, "rank 1, stage 1, action 1F2.3 for .* the process does not run"),
    (is_stopped_while_it_waits, "rank 1, stage 1, waits for .* the process does not run"),
    (decodes, "rank 1, stage 1, action 3D0 for .* it hangs"), (closes, "rank 1, stage 1, closes the video for .* it hangs"),
    (writes, "rank 1, stage 1, writes frames for .* it hangs"),
    (decodes_while_it_waits_for_a_rank, "rank 1, stage 1, action 3D0 for .* it hangs"),
])
def test_the_rank_that_does_not_wait_is_named(node, culprit, line):
    """The others wait for it, and began a little before."""
    node.waits(0, 2)
    assert node.after(1) is None
    culprit(node)
    assert node.after(LIMIT_S - 2) is None
    found = node.after(3)
    assert found is not None and re.fullmatch(line + ".*", found), found


def test_where_all_wait_it_may_be_another_node(node):
    node.waits(0, 1, 2)
    assert node.after(LIMIT_S + 1) == "rank 0, stage 0, waits for 10 s, more than 10 s: it, or what it waits for, hangs"


def test_all_are_stopped(node):
    node.waits(0, 1)
    node.stopped |= {0, 1, 2}
    assert "the process does not run" in node.after(LIMIT_S + 1)


def test_what_goes_on_does_not_hang(node):
    for _ in range(20):
        node.waits(0, 2)
        works(node)
        assert node.after(LIMIT_S / 2) is None


def test_loading_may_take_long_but_the_process_runs(node):
    for worker in node.workers:
        worker.set_activity(MAIN, "loads the weights")
    assert node.after(5 * START_PULSE_S, limit_s=0) is None
    node.stopped.add(2)
    assert node.after(START_PULSE_S + 1, limit_s=0).startswith("rank 2, loads the weights for 600 s")


def test_one_that_never_began_is_found(tmp_path):
    clock = Clock()
    heartbeats, found = Heartbeats(tmp_path, ["0"], clock), None
    while found is None and clock.now_s < 2 * START_PULSE_S:
        clock.now_s += 0.5
        found = heartbeats.hang()
    assert found.startswith(f"rank 0, {STARTS} for 600 s")


def test_a_paused_machine_does_not_hang(node):
    """All clocks jump; the launcher did not run either."""
    works(node), node.waits(0, 2)
    for _ in range(5):
        assert node.after(1) is None
        node.clock.now_s += 3600
    assert node.after(LIMIT_S) is not None  # what was hanging before still does


def test_the_time_of_a_value_that_changes_begins_anew():
    clock = Clock()
    timer = StandstillTimer(clock)
    for value, ages in (("a", [0, 1, 2]), ("b", [0, 1]), ("a", [0])):
        for age in ages:
            assert timer.standing_s("name", value) == age
            clock.now_s += 1
            timer.look()


def test_a_status_comes_back_as_it_was_written(tmp_path):
    file = StatusFile(tmp_path / "rank0")
    assert read_status(tmp_path / "rank0").text == STARTS == read_status(tmp_path / "none").text
    file.set_activity(MAIN, "ä" * 200, 2.5, waits=True)
    file.set_activity(DECODER, "decodes")
    file.beat(7.0)
    main, beside, writer = read_status(tmp_path / "rank0").activities
    assert WRITER == THREADS - 1 and not writer.is_active
    assert set(main.what) <= {"ä", "\ufffd"} and main[1:] == (1, 2.5, True, True)
    assert beside == ("decodes", 1, 0.0, True, False) and read_status(tmp_path / "rank0").pulse == (1, 7.0)
    file.set_activity(DECODER, "")
    assert not read_status(tmp_path / "rank0").activities[DECODER].is_active


REAL = """
import os, subprocess, sys
from xdualparal.launch import supervisor
supervisor._CLOSE_S = 0.3
ranks = [{"RANK": rank, "PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]} for rank in "01"]
start = lambda env: subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=env, start_new_session=True)
sys.exit(supervisor.supervise(start, ranks))
"""
WORKER = """
import ctypes, os, signal, threading, time
from xdualparal.launch.mailbox import Mailbox
mailbox = Mailbox(int(os.environ["RANK"]))
def beats():
    while True:
        mailbox.beat(3.0)
        time.sleep(0.1)
threading.Thread(target=beats, daemon=True).start()
mailbox.set_activity(0, "stage " + os.environ["RANK"] + ", waits", 3.0, True)
time.sleep(1)
if os.environ["RANK"] == "1":
    {hangs}
time.sleep(100)
"""


@pytest.mark.parametrize("hangs", [
    "os.kill(os.getpid(), signal.SIGSTOP)", "ctypes.PyDLL(None).sleep(100)",  # PyDLL keeps Python's lock
])
def test_a_process_that_does_not_run_is_found(hangs):
    done = subprocess.run(
        [sys.executable, "-c", REAL, WORKER.format(hangs=hangs)], capture_output=True, text=True, timeout=60,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith("xdit-dualparal: error: rank 1, stage 1, waits for "), done.stderr
    assert "the process does not run" in done.stderr and done.stderr.strip().count("\n") == 0
