"""Starts the processes of a run, and ends them all when one fails or the user wishes.

Knows: processes, signals, and the folder in which the workers leave word (see word). Must not know: what they do.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .watchdog import FINISH, LOST, NOW, STOPPED, failure_line
from .mailbox import FOLDER, PARENT, read_failures, read_status, write_wish

_POLL_S = 0.1
# After the first process has failed: so long the others may still say why, or lose their connection to it.
_WORD_S = 2.0
# Asked to end at once, a process closes its video; then it is killed.
_CLOSE_S = 5.0


def supervise(command, environments):
    """Runs ``command`` once with each of ``environments``. Returns the exit code: 0 when all end well.

    When one fails the others are ended and one line says which and why. The first SIGINT or SIGTERM lets the run finish
    what is nearly done, a second one ends it at once.
    """
    folder = Path(tempfile.mkdtemp(prefix="xdualparal"))
    wishes = _listen(folder)
    processes = []
    try:
        for environment in environments:
            own = dict(environment, **{FOLDER: str(folder), PARENT: str(os.getpid())})
            # A session of its own: the terminal's Ctrl-C comes here only.
            processes.append(subprocess.Popen(command, env=own, start_new_session=True))
        return _outcome(processes, environments, folder, wishes)
    finally:
        _end(processes, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _listen(folder):
    """The list of the user's signals so far, which grows. Each is passed on to the workers as a wish."""
    wishes = []

    def on_signal(number, frame):
        wishes.append(number)
        write_wish(folder, FINISH if len(wishes) == 1 else NOW)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return wishes


def _outcome(processes, environments, folder, wishes):
    while len(wishes) < 2:
        codes = [process.poll() for process in processes]
        if wishes and STOPPED in codes:
            return _stopped(processes)
        if any(code not in (None, 0, STOPPED) for code in codes):
            return _failure(processes, environments, folder)
        if None not in codes:
            return max(codes)
        time.sleep(_POLL_S)
    return STOPPED


def _stopped(processes):
    """Some had nothing to finish, or have finished; the others get some time, too."""
    end = time.monotonic() + _CLOSE_S
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(_POLL_S)
    return STOPPED


def _failure(processes, environments, folder):
    """Says why, in one line, unless the process has said it itself: then its exit code is 2."""
    time.sleep(_WORD_S)
    codes = [process.poll() for process in processes]
    if 2 in codes:
        return 2
    line, details = _why(codes, environments, folder)
    if details:
        line += f" (traceback in {_keep(details)})"
    sys.stderr.write(f"\nxdit-dualparal: error: {line}: all processes were ended\n")
    return 1


def _why(codes, environments, folder):
    """(one line, traceback or nothing): who died of a signal, else who reported first."""
    ranks = [environment["RANK"] for environment in environments]
    for rank, code in zip(ranks, codes):
        if code is not None and code < 0:
            stage = f"rank {rank}, {read_status(folder, rank)}"
            return f"{stage}: it was killed by {signal.Signals(-code).name}", ""
    failures = read_failures(folder)
    if failures:
        first = failures[0]
        return failure_line(first), "" if first["kind"] == LOST else first["details"]
    rank, code = next((rank, code) for rank, code in zip(ranks, codes) if code)
    return f"rank {rank}, {read_status(folder, rank)}: it ended with exit code {code}", ""


def _keep(details):
    with tempfile.NamedTemporaryFile("w", prefix="xdualparal-traceback-", suffix=".txt", delete=False) as file:
        file.write(details)
    return file.name


def _end(processes, folder):
    """None of ``processes`` is left."""
    write_wish(folder, NOW)
    end = time.monotonic() + _CLOSE_S
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(_POLL_S)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
