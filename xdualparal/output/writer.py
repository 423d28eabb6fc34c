"""Writes a video beside the passes.

Knows: that a writer takes segments one after the other. Must not know: what it writes, or where segments come from.
"""

import queue
import threading

import torch

MAX_WAITING = 2  # segments; one is made while others wait, more would only add memory (38 MB for 32 frames at 480p)


class ThreadedWriter:
    """Hands segments to ``writer`` (mp4.VideoWriter) in a thread of its own: encoding takes 1.4 CPU-seconds for 32 frames at
    480p (DESIGN section 5). A context manager; at its end all is written and ``writer`` is closed.

    ``measure(function, frames)``: calls the function, in the thread. What the thread raises, the next call here raises, and
    later segments are dropped.
    """

    def __init__(self, writer, measure=lambda function, frames: function(frames)):
        self._writer, self._measure = writer, measure
        self._waiting, self._error = queue.Queue(maxsize=MAX_WAITING), None
        threading.Thread(target=self._work, daemon=True, name="writer").start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self._waiting.join()
        finally:
            self._waiting.put(None)
            self._writer.close()
        if kind is None:
            self._raise()

    @property
    def frames_written(self):
        """How many frames are in the file."""
        return self._writer.frames_written

    def write(self, frames):
        """Hands a segment over; waits while MAX_WAITING others wait."""
        self._raise()
        self._waiting.put(frames)

    def drain(self):
        """Waits until everything handed over is in the file."""
        self._waiting.join()
        self._raise()

    def close_at_once(self):
        """Closes the file after the segment that is being written; those that wait are lost. From any thread."""
        self._writer.close()

    def _raise(self):
        if self._error is not None:
            raise self._error

    def _work(self):
        while (frames := self._waiting.get()) is not None:
            try:
                if self._error is None:
                    self._measure(self._writer.write, frames)
            except BaseException as error:  # it belongs to the caller, who raises it
                self._error = error
            finally:
                self._waiting.task_done()


def to_uint8(frames):
    """(frames, height, width, 3) uint8 on the host, of a tensor (frames, 3, height, width) in 0..1, rounded on its device.

    A quarter of the bytes of float frames goes to the host. The numbers are those that mp4.VideoWriter makes of floats.
    """
    return (frames.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
