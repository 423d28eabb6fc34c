"""Messages between a launcher and its workers: small files in a folder that both know.

Knows: the folder (``FOLDER`` in a worker's environment; without it there is no launcher) and the form of the files. Must
not know: when a message is left, or what is done about it.
"""

import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .errors import REFUSED, STOPPED, print_error
from .status import MAIN, StatusFile

FOLDER, PARENT = "XDUALPARAL_FOLDER", "XDUALPARAL_PARENT"  # PARENT: the launcher's process id
FINISH, NOW = "finish", "now"  # how a run is asked to stop: finish the blocks that are nearly done, or end at once
RAISED, HANG, LOST = "raised", "hang", "lost"  # kinds of failures; LOST: a connection to another rank broke
REFUSAL = "refused"
CLAIMED = "claimed"  # a note: the files of the run are this run's
_PERIOD_S = 0.02
_REFUSAL_S = 20.0  # rank 0 does the same work at the same time; on a loaded machine it may be seconds behind

# What torch's C++ errors have after their message.
_CPP_STACK = re.compile(r"\n?Exception raised from |\nC\+\+ CapturedTraceback|\nframe #0")

logger = logging.getLogger(__name__)


class Mailbox:
    """The side of the worker ``rank``."""

    has_launcher = True

    def __init__(self, rank):
        self._folder, self._rank = Path(os.environ[FOLDER]), rank
        status = StatusFile(self._folder / f"rank{rank}")
        self.set_activity, self.beat = status.set_activity, status.beat

    def set_status(self, text):
        """Says what this worker does now, for as long as it likes."""
        self.set_activity(MAIN, text)

    def stop_request(self):
        """How the user asks the run to stop: FINISH, NOW, or "" when the run goes on."""
        return _read(self._folder / "stop")

    def report(self, failure):
        """Reports why this worker ends, a dict; the launcher prints it."""
        write_whole(self._folder / f"failure{self._rank}", json.dumps(failure))

    def refuse(self, message):
        """Reports why the command cannot run; the launcher prints the first report that it reads."""
        self.report(dict(rank=int(self._rank), kind=REFUSAL, cause=str(message), time=time.time()))

    def leave(self, note):
        """Leaves ``note`` for the node's other workers."""
        write_whole(self._folder / note, "")

    def wait_for(self, note):
        """Waits until a worker of this node has left ``note``. Ends this one when the run is stopped or the launcher is gone."""
        while not (self._folder / note).exists():
            if self.stop_request() or self.launcher_has_ended():
                sys.exit(STOPPED)
            time.sleep(_PERIOD_S)

    def launcher_has_ended(self):
        """Whether the launcher has ended without ending its workers."""
        return os.getppid() != int(os.environ[PARENT])

    def remove(self):
        """Removes the folder, which a launcher that was killed has left."""
        shutil.rmtree(self._folder, ignore_errors=True)


class NoMailbox:
    """For a worker that another program started, torchrun for example."""

    has_launcher = False

    def set_status(self, text):
        """Nobody reads it."""

    def set_activity(self, thread, what, limit_s=0.0, waits=False):
        """Nobody reads it."""

    def beat(self, limit_s):
        """Nobody looks."""

    def stop_request(self):
        """"": signals come to the worker itself."""
        return ""

    def report(self, failure):
        """Logs why this worker ends."""
        logger.error(failure_line(failure))

    def refuse(self, message):
        """Prints why the command cannot run, on rank 0 only; the others wait for that: torchrun ends all when the first one has ended."""
        if os.environ.get("RANK", "0") == "0":
            print_error(message)
        else:
            time.sleep(_REFUSAL_S)

    def leave(self, note):
        """Nobody reads it."""

    def wait_for(self, note):
        """Nobody leaves one."""

    def launcher_has_ended(self):
        """There is none."""
        return False


def mailbox_of(rank):
    """The mailbox that ``rank`` shares with its launcher."""
    return Mailbox(rank) if FOLDER in os.environ else NoMailbox()


@contextmanager
def refusing(mailbox):
    """Ends a rank with exit code 2 on ValueError. For checks on which all ranks agree: one of them says why."""
    try:
        yield
    except ValueError as error:
        mailbox.refuse(error)
        sys.exit(REFUSED)


@contextmanager
def refusing_alone(mailbox):
    """The same for a check that only this rank makes."""
    try:
        yield
    except ValueError as error:
        if mailbox.has_launcher:
            mailbox.refuse(error)
        else:
            print_error(error)
        sys.exit(REFUSED)


def signals_that_stop():
    """The signals by which a user stops a run: Ctrl-C, the system's, and a closed terminal's unless nohup lets it be ignored."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


def request_stop(folder, how):
    """Asks all workers to stop, ``how``: FINISH or NOW."""
    write_whole(Path(folder) / "stop", how)


def read_failures(folder):
    """What the workers reported, by time: first those who raised or hung, then those who lost another rank."""
    failures = [json.loads(file.read_text()) for file in Path(folder).glob("failure*[0-9]")]
    return sorted(failures, key=lambda failure: (failure["kind"] == LOST, failure["time"]))


def failure_line(failure):
    """A failure, as a Watchdog reports it, in one line."""
    stage = "" if failure["stage"] is None else f", stage {failure['stage']}"
    cause = " ".join(_CPP_STACK.split(failure["cause"])[0].split())
    doing = "" if failure["kind"] == HANG else f", {failure['doing']}"
    return f"rank {failure['rank']}{stage}{doing}: {cause}"


def write_whole(path, text):
    """Writes ``text`` to ``path``, whole or not at all. On a full disk the message is lost and the run goes on."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except FileNotFoundError:  # the launcher was killed: nobody would read it
        logger.debug("%s is gone", path.parent)
    except OSError as error:
        logger.error("%s could not be written (%s)", path, error.strerror)


def _read(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
