"""What a worker does, in a small file that its launcher can read at any time, also when the worker does not run.

Knows: the form of the file, which both map into memory: a write is a memory access and needs no system call. Must not know: who
reads it, or what is concluded.
"""

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

MAIN, THREADS = 0, 3  # the number of the worker's main thread, and how many there are: engine/meter names the others
STARTS = "starts"  # of a worker that has not said any
# In bytes: a text for each thread, then _ACTIVITY for each thread, then _PULSE.
_FILE, _TEXT = 512, 112
_ACTIVITY = struct.Struct("<If??xx")  # count, limit_s, is_active, waits
_PULSE = struct.Struct("<If")  # count, limit_s
_ACTIVITIES = THREADS * _TEXT
_PULSES = _ACTIVITIES + THREADS * _ACTIVITY.size
assert _PULSES + _PULSE.size <= _FILE


class Activity(NamedTuple):
    """What a thread does: ``what``, as a phrase. ``count`` grows with each activity. ``limit_s``: how long it may take, 0: as long as
    it likes. ``waits``: whether it waits for another thread or rank."""

    what: str
    count: int
    limit_s: float
    is_active: bool
    waits: bool


class Pulse(NamedTuple):
    """That a worker runs at all: a thread of it lets ``count`` grow. ``limit_s``: how long it may stand still, 0: not known yet."""

    count: int
    limit_s: float


class StatusFile:
    """The worker's side. Each of its threads has a part of the file to itself."""

    def __init__(self, path):
        Path(path).write_bytes(bytes(_FILE))
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _FILE)
        self._counts, self._beats = [0] * THREADS, 0

    def set_activity(self, thread, what, limit_s=0.0, waits=False):
        """Writes what ``thread``, a number, does now; "": nothing."""
        text = what.encode()[:_TEXT]
        self._memory[thread * _TEXT:(thread + 1) * _TEXT] = text + bytes(_TEXT - len(text))
        self._counts[thread] = (self._counts[thread] + 1) % 2**32
        content = _ACTIVITY.pack(self._counts[thread], limit_s, bool(what), waits)
        start = _ACTIVITIES + thread * _ACTIVITY.size
        self._memory[start:start + len(content)] = content

    def beat(self, limit_s):
        """Writes that this process runs."""
        self._beats = (self._beats + 1) % 2**32
        self._memory[_PULSES:_PULSES + _PULSE.size] = _PULSE.pack(self._beats, limit_s)


class Status(NamedTuple):
    """What a worker has written last."""

    activities: tuple  # of each thread
    pulse: Pulse

    @property
    def text(self):
        """What the main thread does, in words."""
        return self.activities[MAIN].what or STARTS


def read_status(path):
    """The Status in the file at ``path``; before there is one, that of a worker that starts."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = b""
    content = content.ljust(_FILE, b"\0")
    texts = [content[n * _TEXT:(n + 1) * _TEXT].decode(errors="replace").strip("\0 ") for n in range(THREADS)]
    facts = [_ACTIVITY.unpack_from(content, _ACTIVITIES + n * _ACTIVITY.size) for n in range(THREADS)]
    return Status(tuple(Activity(text, *fact) for text, fact in zip(texts, facts)), Pulse(*_PULSE.unpack_from(content, _PULSES)))
