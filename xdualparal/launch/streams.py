"""Output that may go nowhere.

Knows: sys.stdout and sys.stderr. Must not know: what is printed. Where the terminal was closed, the reader of a pipe has ended or
the disk of a log is full, a write raises; a video is worth more than its log.
"""

import sys
from contextlib import suppress


class LossyStream:
    """A text stream whose writes are lost where they cannot be made."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        """Writes ``text`` if it can be; returns its length."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self):
        """Flushes if it can be."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


def survive_closed_output():
    """From now on this process goes on when nothing can be printed any more."""
    sys.stdout, sys.stderr = LossyStream(sys.stdout), LossyStream(sys.stderr)
