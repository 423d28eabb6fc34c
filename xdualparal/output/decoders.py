"""Where and when finished blocks become frames.

Knows: the places that plan.schedule names for decoding. Must not know: how a VAE decodes, or how blocks are made.

Each decoder has ``add(action, latents)`` for a finished block, whose DECODE is ``action``, ``ready()``, what can be had without
waiting, and ``rest()``, all that is still to come. What they give are (number of the video, segment), each video's in order; a
segment is what the caller of the pipeline gets. ``make(action, latents)``, where they have it, makes a segment.
"""

import queue
import threading
from collections import defaultdict, deque
from contextlib import nullcontext, suppress

import torch

from ..plan.messages import MAX_PENDING_SENDS


class NullDecoder:
    """For ranks that give nothing."""

    def add(self, action, latents):
        """Does nothing."""

    def ready(self):
        """Nothing."""
        return ()

    rest = ready


class PassThrough:
    """Latents are what is asked for."""

    def __init__(self):
        self._segments = deque()

    def add(self, action, latents):
        """``latents`` are the next segment."""
        self._segments.append((action.video, latents))

    def ready(self):
        """Yields the segments."""
        while self._segments:
            yield self._segments.popleft()

    rest = ready


class InlineDecoder(PassThrough):
    """Between the passes of the last stage."""

    def __init__(self, make, meter):
        super().__init__()
        self._make, self._meter = make, meter

    def add(self, action, latents):
        """Decodes at once."""
        super().add(action, self._meter.passes_wait(self._meter.does, action, self._make, action, latents))


class DeferredDecoder:
    """When all blocks are finished, video after video. ``close(video)``: is called after its last block and gives the memory of
    its decoder back, so that there is one at a time."""

    def __init__(self, make, meter, close=lambda video: None):
        self._make, self._meter, self._close = make, meter, close
        self._blocks = defaultdict(deque)  # by video

    def add(self, action, latents):
        """Keeps them."""
        self._blocks[action.video].append((action, latents))

    def ready(self):
        """Nothing yet."""
        return ()

    def rest(self):
        """Decodes and yields."""
        for video, blocks in sorted(self._blocks.items()):
            while blocks:
                action, latents = blocks.popleft()
                yield video, self._meter.passes_wait(self._meter.does, action, self._make, action, latents)
            self._close(video)


class ThreadedDecoder:
    """Beside the passes, in a thread and, on an accelerator, on a stream of its own."""

    def __init__(self, make, meter, device):
        self._make, self._meter, self._device = make, meter, device
        self._blocks, self._segments = queue.Queue(maxsize=MAX_PENDING_SENDS), queue.Queue()
        self._pending = 0
        threading.Thread(target=self._work, daemon=True, name="decode").start()

    def add(self, action, latents):
        """Hands them to the thread; where it lags behind, waits. The latents are whole: the run has waited for the device."""
        self._pending += 1
        self._meter.passes_wait(self._blocks.put, (action, latents))

    def ready(self):
        """Yields what the thread has made. Raises what it raised."""
        while self._pending and not self._segments.empty():
            yield self._next()

    def rest(self):
        """Waits for the thread and yields what it makes. Raises what it raised."""
        while self._pending:
            yield self._meter.passes_wait(self._next)

    def close(self):
        """Ends the thread after the block that it decodes now."""
        with suppress(queue.Empty):  # the thread may take one at the same time
            while True:
                self._blocks.get_nowait()
        self._blocks.put(None)

    def _next(self):
        video, segment, error = self._segments.get()
        self._pending -= 1
        if error is not None:
            raise error
        if isinstance(segment, torch.Tensor) and segment.device.type != "cpu":
            # Made on this place's stream: without this its memory could be reused there while the caller's stream reads.
            segment.record_stream(torch.accelerator.current_stream(segment.device))
        return video, segment

    def _work(self):
        with _own_stream(self._device):
            while (item := self._blocks.get()) is not None:
                self._segments.put(self._decoded(*item))

    def _decoded(self, action, latents):
        try:
            return action.video, self._meter.decodes(action, self._make, action, latents), None
        except BaseException as error:  # it belongs to the caller, who raises it
            return action.video, None, error


def _own_stream(device):
    return nullcontext() if device.type == "cpu" else torch.Stream(device)


class ParallelVaeDecoder:
    """On all ranks of a replica at once, when all blocks are finished: for xDiT's parallel VAE. One segment a video.

    ``join(video, latents)``: the latents of all blocks, or None off the output rank, to the segment, or None there. ``videos``: the
    numbers of the videos.
    """

    def __init__(self, join, videos=(0,)):
        self._join, self._parts = join, {video: [] for video in videos}

    def add(self, action, latents):
        """Keeps them."""
        self._parts[action.video].append(latents)

    def ready(self):
        """Nothing yet."""
        return ()

    def rest(self):
        """Decodes; yields on the output rank."""
        for video, parts in self._parts.items():
            segment = self._join(video, torch.cat(parts, dim=2) if parts else None)
            parts.clear()
            if segment is not None:
                yield video, segment
