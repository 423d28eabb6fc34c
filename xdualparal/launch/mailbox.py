"""What the launcher and its workers leave for each other, as files in a folder that both know.

Knows: the folder (``FOLDER`` in a worker's environment; without it there is no launcher) and the files' form. Must not
know: when something is left, or what is done about it.
"""

import json
import logging
import mmap
import os
from pathlib import Path

from .watchdog import LOST, Alone

FOLDER, PARENT = "XDUALPARAL_FOLDER", "XDUALPARAL_PARENT"
_STATUS_BYTES = 256

logger = logging.getLogger(__name__)


class Launcher:
    """A worker's way to its launcher; the ways of watch.Alone."""

    is_there = True

    def __init__(self, rank):
        self._folder, self._rank = Path(os.environ[FOLDER]), rank
        self._status = _shared_text(self._folder / f"rank{rank}")

    def tell(self, text):
        """What this worker does now."""
        content = text.encode()[:_STATUS_BYTES]
        self._status[:] = content + b" " * (_STATUS_BYTES - len(content))

    def wish(self):
        """What the user wants: FINISH, NOW, or nothing."""
        return _read(self._folder / "stop")

    def report(self, failure):
        """Why this worker ends; the launcher says it."""
        write_word(self._folder / f"failure{self._rank}", json.dumps(failure))

    def is_gone(self):
        """Whether the launcher has ended without its workers."""
        return os.getppid() != int(os.environ[PARENT])


def launcher_of(rank):
    """The Launcher that waits for word of this process, or Alone."""
    return Launcher(rank) if FOLDER in os.environ else Alone()


def write_wish(folder, word):
    """Leaves the user's wish for all workers."""
    write_word(Path(folder) / "stop", word)


def read_failures(folder):
    """What the workers reported, first things first: those who raised or hung, then those who lost another rank."""
    failures = [json.loads(file.read_text()) for file in Path(folder).glob("failure*[0-9]")]
    return sorted(failures, key=lambda one: (one["kind"] == LOST, one["time"]))


def read_status(folder, rank):
    """What ``rank`` did last, in words."""
    return _read(Path(folder) / f"rank{rank}").strip("\0 ") or "starts"


def write_word(path, text):
    """Leaves ``text`` at ``path``, whole or not at all: on a full disk there is nothing to be done but to go on."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except OSError as error:
        logger.error("%s could not be written: %s", path, error)


def _shared_text(path):
    """A file that others can read, also after this process was killed; a write is a memory access."""
    path.write_bytes(b" " * _STATUS_BYTES)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), _STATUS_BYTES)


def _read(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
