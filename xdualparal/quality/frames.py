"""Frames of a video file, one at a time.

Knows: PyAV. Must not know: what is measured.
"""

import av
import numpy as np

CHUNK_FRAMES = 64


def frames_of(path):
    """Yields the frames of the video ``path``, (height, width, 3) uint8 each. Raises ValueError for what is no video."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video in it: give a video file")
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}): give a video file") from None


class EvenlySpaced:
    """Keeps at most ``limit`` of the values it is given, evenly spaced, however many come: memory does not grow.

    ``stride``: every so many-th value is kept, a power of two times the one at the start; ``values``: those kept, in order.
    """

    def __init__(self, limit, stride=1):
        self.limit, self.stride, self.values = limit, stride, []
        self._seen = 0

    def wants_next(self):
        """Whether the next value is one to keep; call it once for each."""
        wanted = self._seen % self.stride == 0
        self._seen += 1
        return wanted

    def keep(self, value):
        """Keeps the value that ``wants_next`` was told of."""
        if len(self.values) == self.limit:
            self.values, self.stride = self.values[::2], 2 * self.stride
            if (self._seen - 1) % self.stride:
                return
        self.values.append(value)


class Chunks:
    """Gives frames that are added one at a time, (height, width, 3) uint8, CHUNK_FRAMES at a time to ``see``, as (frames, height, width, 3)
    float32 in 0..1. The first one of a chunk is given to ``check``, (1, height, width, 3), when it comes."""

    def __init__(self, check, see):
        self._check, self._see, self._waiting = check, see, []

    def add(self, frame):
        """Adds the next frame. Raises ValueError as ``check`` does."""
        if not self._waiting:
            self._check(frame[None])
        self._waiting.append(frame)
        if len(self._waiting) == CHUNK_FRAMES:
            self.flush()

    def flush(self):
        """Gives away those that wait."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._see(np.stack(waiting).astype(np.float32) / 255)
