"""The command xdit-dualparal in processes that are forked instead of started: importing xfuser takes seconds.

The launcher is a fork of the server of processes.py and does what xdit/cli.py does; only its workers are forks of it, not
programs. A command on a terminal ("cold") is for the tests of the start itself.
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .processes import forkserver_context

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAUNCHER = [sys.executable, "-m", "xdualparal.xdit.cli"]
LIMIT_S = 240
DTYPE = "DUALPARAL_TESTING_DTYPE"


class Run:
    """A command under way, its output in the file ``log``. At the end of the context nothing of it is left."""

    def __init__(self, arguments, log, cold=False, environment={}):
        self._log = Path(log)
        self._log.write_text("")
        self.launcher = (_start_cold if cold else _WarmLauncher)(list(map(str, arguments)), str(log), environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in [*self.workers(), self.launcher.pid]:
            kill(pid, signal.SIGKILL)
        self.launcher.wait()

    def workers(self):
        """The workers' process ids, in rank order."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def output(self):
        """What it has printed."""
        return self._log.read_text()

    def wait_until(self, condition, limit_s=LIMIT_S):
        """Waits until ``condition()`` holds, or the run has ended."""
        end = time.monotonic() + limit_s
        while not condition() and self.launcher.poll() is None:
            assert time.monotonic() < end, self.output()
            time.sleep(0.02)

    def ended(self, limit_s=LIMIT_S):
        """The exit code; nothing is running any more."""
        workers = self.workers()
        code = self.launcher.wait(limit_s)
        assert not any(map(is_running, workers))
        return code


def run(arguments, log, dtype=None):
    """(exit code, output) of a command, warm. ``dtype``: a name, "float32", to compute in instead of the model's own."""
    with Run(arguments, log, environment={} if dtype is None else {DTYPE: dtype}) as command:
        return command.ended(), command.output()


def kill(pid, number):
    """Sends a signal, if there is still someone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def is_running(pid):
    """Whether the process is there and not dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _start_cold(arguments, log, environment):
    with open(log, "a") as file:
        return subprocess.Popen(
            [*LAUNCHER, *arguments], stdout=file, stderr=file, start_new_session=True, env=dict(os.environ, OMP_NUM_THREADS="1", **environment),
            preexec_fn=_end_with_parent,
        )


def _end_with_parent():
    """In a process that starts: when its parent is killed, it is, too."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _WarmLauncher:
    """The launcher as a fork, with the methods of subprocess.Popen."""

    def __init__(self, arguments, log, environment):
        self._process = forkserver_context().Process(target=_launch, args=(arguments, log, environment))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """The exit code, or None."""
        return self._process.exitcode

    def wait(self, limit_s=None):
        """The exit code. Raises TimeoutExpired."""
        self._process.join(limit_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("xdit-dualparal", limit_s)
        return self._process.exitcode

    def kill(self):
        """Sends SIGKILL."""
        self._process.kill()


class _WarmWorker:
    """A worker as a fork of the launcher, with the methods of subprocess.Popen."""

    def __init__(self, arguments, environment):
        self._process = multiprocessing.get_context("fork").Process(target=_work, args=(arguments, environment))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """The exit code, or None."""
        return self._process.exitcode

    def wait(self):
        """The exit code."""
        self._process.join()
        return self._process.exitcode

    def kill(self):
        """Sends SIGKILL."""
        self._process.kill()


def _launch(arguments, log, environment):
    from xdualparal.xdit import cli

    _end_with_parent()
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    os.environ.update(environment, OMP_NUM_THREADS="1")
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)  # xfuser's runner sets them when it is imported
    cli.main(arguments, start=_WarmWorker)


def _work(arguments, environment):
    import torch

    from xdualparal.xdit import runner
    from xdualparal.xdit.models import DualParalWanModel

    _end_with_parent()
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    if DTYPE in environment:
        DualParalWanModel.dtype = getattr(torch, environment[DTYPE])
    sys.argv = ["xdit-dualparal", *arguments]
    runner.main()
