"""Frames to an mp4 file, as they come.

Knows: PyAV and the container. Must not know: where frames come from.
"""

from fractions import Fraction

import av
import numpy as np

# H.264's constant rate factor: 18 is close to visually lossless (x264's own guide: 17-18).
QUALITY = "18"
# Without macroblock trees: with them x264 reads memory that nothing wrote when a frame is a few macroblocks wide, and
# the same 32 x 32 frames gave other bytes in 4 of 8 runs (test_the_same_frames_give_the_same_file).
X264 = "mbtree=0"


class VideoWriter:
    """Writes ``path`` frame by frame. A context manager; the file is closed properly also after an error.

    The mp4 is fragmented while it grows, a fragment a second, so that what is written plays also if the process is
    killed; closing it makes it an ordinary one (FFmpeg's ``hybrid_fragmented``). ``fps``: frames a second.
    """

    def __init__(self, path, fps):
        self.path, self.fps = path, fps
        self.frames_written = 0
        self._container = av.open(
            str(path), "w", format="mp4", options={"movflags": "hybrid_fragmented", "flush_packets": "1"}
        )
        self._stream = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, frames):
        """Appends ``frames``: (frames, height, width, 3), uint8, or floats in 0..1."""
        for frame in _as_uint8(frames):
            self._encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            self.frames_written += 1

    def close(self):
        """Writes what the encoder still holds and closes the file."""
        if self._container is None:
            return
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        self._container = None

    def _encode(self, frame):
        if self._stream is None:
            self._stream = self._open_stream(frame.width, frame.height)
        self._container.mux(self._stream.encode(frame))

    def _open_stream(self, width, height):
        options = {"crf": QUALITY, "x264-params": X264}
        stream = self._container.add_stream("libx264", rate=Fraction(self.fps), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = round(self.fps)  # a fragment a second
        return stream


def _as_uint8(frames):
    frames = np.asarray(frames)
    return frames if frames.dtype == np.uint8 else (frames * 255).round().clip(0, 255).astype(np.uint8)
