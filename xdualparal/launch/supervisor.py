"""Starts the processes of a run and ends them all when one fails or the user stops the run.

Knows: processes, signals, and the mailbox in which the workers leave messages. Must not know: what the workers do.
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from .errors import FAILED, REFUSED, STOPPED, print_error
from .heartbeats import Heartbeats
from .mailbox import FINISH, FOLDER, LOST, NOW, PARENT, REFUSAL, failure_line, read_failures, request_stop, signals_that_stop
from .run_folder import run_folder
from .status import STARTS, read_status
from .streams import survive_closed_output

_POLL_S = 0.1
# How long the others may report why, or lose their connection, after the first process has failed.
_REPORT_S = 2.0
# How long a process that is asked to end at once may close its video before it is killed.
_CLOSE_S = 5.0
# Of more processes than a node usually has devices the first one is started alone, and the others when it has checked the
# command: each imports 500 MB (measured), and with a slip of the finger, --dualparal_degree 99, they would fill the memory.
_MOST_UNCHECKED = 8
TRACEBACK = f"xdualparal-traceback-{os.getuid()}.txt"  # a user's own: the folder may be that for everybody's temporary files


def supervise(start, environments, store_socket=None):
    """Runs a process for each of ``environments``. Returns the exit code: 0 when all end well.

    ``start(environment)`` starts one and returns it, an object with the methods poll, wait and kill of
    subprocess.Popen. It should lead a session of its own: the terminal's Ctrl-C is for the launcher only. ``store_socket``:
    what the first process gets and this one closes.

    When one process fails the others are ended, and one line says which failed and why. The first SIGINT, SIGTERM or SIGHUP
    asks the workers to finish the blocks that are nearly done, a second one ends the run at once.
    """
    survive_closed_output()
    with run_folder() as folder:
        signals = _pass_signals_on(folder)
        own = [environment | {FOLDER: str(folder), PARENT: str(os.getpid())} for environment in environments]
        processes = []
        try:
            processes.append(start(own[0]))
            if store_socket is not None:
                store_socket.close()  # else whoever connects would wait for ever when the first process is gone
            if len(own) <= _MOST_UNCHECKED or _has_checked(processes[0], own[0], signals):
                for environment in own[1:]:
                    processes.append(start(environment))
            return _exit_code(processes, environments, folder, signals)
        finally:
            _end(processes, folder)


def _has_checked(process, environment, signals):
    """Waits until a worker says what it does, which it does once the command has passed its check. False where it ended
    with an error before, or hangs, or the user stopped the run."""
    heartbeats = Heartbeats(environment[FOLDER], [environment["RANK"]])
    while _doing(environment[FOLDER], environment["RANK"]) == STARTS:
        if process.poll() is not None or signals or heartbeats.hang():
            return process.poll() == 0 and not signals
        time.sleep(_POLL_S)
    return True


def _doing(folder, rank):
    return read_status(Path(folder, f"rank{rank}")).text


def _pass_signals_on(folder):
    """The list of the user's signals so far, which grows. Each becomes a request to the workers."""
    signals = []

    def on_signal(number, frame):
        signals.append(number)
        request_stop(folder, FINISH if len(signals) == 1 else NOW)

    for number in signals_that_stop():
        signal.signal(number, on_signal)
    return signals


def _exit_code(processes, environments, folder, signals):
    running = [environment["RANK"] for environment, _ in zip(environments, processes)]
    heartbeats = Heartbeats(folder, running)
    while len(signals) < 2:
        codes = [process.poll() for process in processes]
        if signals and (STOPPED in codes or _all_start(folder, running)):
            return _stopped(processes)
        if any(code not in (None, 0, STOPPED) for code in codes):
            return _failed(processes, environments, folder)
        if None not in codes:
            return max(codes)
        running[:] = [environment["RANK"] for environment, code in zip(environments, codes) if code is None]
        hang = heartbeats.hang()
        if hang is not None:
            return _end_with(hang)
        time.sleep(_POLL_S)
    return STOPPED


def _all_start(folder, ranks):
    """Whether the workers still import what they need, which can take long on a slow disk: there is nothing to finish."""
    return all(_doing(folder, rank) == STARTS for rank in ranks)


def _stopped(processes):
    """Some workers had nothing to finish, or have finished; the others get some time, too."""
    _wait(processes, _CLOSE_S)
    return STOPPED


def _failed(processes, environments, folder):
    """Prints why, in one line; a worker that ended with exit code 2 and reported nothing has printed it itself."""
    codes = [process.poll() for process in processes]
    refusals = _refusals(folder)
    if not refusals:
        time.sleep(_REPORT_S)
        codes, refusals = [process.poll() for process in processes], _refusals(folder)
    if refusals:
        print_error(refusals[0]["cause"])
        return REFUSED
    if REFUSED in codes:
        return REFUSED
    line, details, folder_of_traceback = _cause(codes, environments, folder)
    if details:
        line += f" (traceback in {keep_traceback(details, folder_of_traceback)})"
    return _end_with(line)


def _end_with(line):
    if sys.stderr.isatty():
        sys.stderr.write("\n")  # ends the line of the progress bar
    print_error(f"{line}: all processes were ended")
    return FAILED


def _refusals(folder):
    return [failure for failure in read_failures(folder) if failure["kind"] == REFUSAL]


def _cause(codes, environments, folder):
    """(one line, traceback or "", the folder for it or None): the rank that died of a signal, else the one that reported first."""
    ranks = [environment["RANK"] for environment in environments]
    for rank, code in zip(ranks, codes):
        if code is not None and code < 0:
            return f"rank {rank}, {_doing(folder, rank)}: it was killed by {signal.Signals(-code).name}", "", None
    failures = read_failures(folder)
    if failures:
        first = failures[0]
        return failure_line(first), "" if first["kind"] == LOST else first["details"], first.get("folder")
    rank, code = next((rank, code) for rank, code in zip(ranks, codes) if code)
    return f"rank {rank}, {_doing(folder, rank)}: it ended with exit code {code}", "", None


def keep_traceback(details, folder=None):
    """Writes a traceback into ``folder``, in place of the last one there; where it cannot, into the folder for temporary files.
    Returns the file's path. It is readable for its owner only."""
    for place in filter(None, (folder, tempfile.gettempdir())):
        try:
            number, unfinished = tempfile.mkstemp(prefix=".xdualparal-", suffix=".part", dir=place)
            with open(number, "w") as file:
                file.write(details)
            path = os.path.join(place, TRACEBACK)
            os.replace(unfinished, path)  # follows no link
            return path
        except OSError:
            continue
    return "no file: nothing could be written"


def _end(processes, folder):
    """Ends all of ``processes``, by force if need be."""
    request_stop(folder, NOW)
    _wait(processes, _CLOSE_S)
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def _wait(processes, limit_s):
    end = time.monotonic() + limit_s
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(_POLL_S)
