"""Frames of a video file, one at a time.

Knows: PyAV. Must not know: what is measured.
"""

import av


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
