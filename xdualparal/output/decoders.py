"""Where and when finished blocks become frames.

Knows: the places that plan.schedule names for decoding. Must not know: how a VAE decodes, or how blocks are made.

Each decoder has ``add(block, latents)`` for a finished block, ``ready()``, what can be had without waiting, and ``rest()``,
all that is still to come. What they give are segments: what the caller of the pipeline gets, in order.
"""

import queue
import threading
from collections import deque
from contextlib import nullcontext, suppress

import torch

from ..plan.messages import MAX_PENDING_SENDS


class NullDecoder:
    """For ranks that give nothing."""

    def add(self, block, latents):
        """Does nothing."""

    def ready(self):
        """Nothing."""
        return ()

    rest = ready


class PassThrough:
    """Latents are what is asked for."""

    def __init__(self):
        self._segments = deque()

    def add(self, block, latents):
        """``latents`` are the next segment."""
        self._segments.append(latents)

    def ready(self):
        """Yields the segments."""
        while self._segments:
            yield self._segments.popleft()

    rest = ready


class InlineDecoder(PassThrough):
    """Between the passes of the last stage. ``make``: latents to a segment."""

    def __init__(self, make, plan, meter):
        super().__init__()
        self._make, self._plan, self._meter = make, plan, meter

    def add(self, block, latents):
        """Decodes at once."""
        action = self._plan.decode_action(block)
        self._segments.append(self._meter.passes_wait(self._meter.does, action, self._make, latents))


class DeferredDecoder:
    """When all blocks are finished, one after the other."""

    def __init__(self, make, plan, meter):
        self._make, self._plan, self._meter = make, plan, meter
        self._blocks = deque()

    def add(self, block, latents):
        """Keeps them."""
        self._blocks.append((block, latents))

    def ready(self):
        """Nothing yet."""
        return ()

    def rest(self):
        """Decodes and yields."""
        while self._blocks:
            block, latents = self._blocks.popleft()
            action = self._plan.decode_action(block)
            yield self._meter.passes_wait(self._meter.does, action, self._make, latents)


class ThreadedDecoder:
    """Beside the passes, in a thread and, on an accelerator, on a stream of its own."""

    def __init__(self, make, plan, meter, device):
        self._make, self._plan, self._meter, self._device = make, plan, meter, device
        self._blocks, self._segments = queue.Queue(maxsize=MAX_PENDING_SENDS), queue.Queue()
        self._pending = 0
        threading.Thread(target=self._work, daemon=True, name="decode").start()

    def add(self, block, latents):
        """Hands them to the thread; where it lags behind, waits. The latents are whole: the run has waited for the device."""
        self._pending += 1
        self._meter.passes_wait(self._blocks.put, (block, latents))

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
        segment, error = self._segments.get()
        self._pending -= 1
        if error is not None:
            raise error
        if isinstance(segment, torch.Tensor) and segment.device.type != "cpu":
            # Made on this place's stream: without this its memory could be reused there while the caller's stream reads.
            segment.record_stream(torch.accelerator.current_stream(segment.device))
        return segment

    def _work(self):
        with _own_stream(self._device):
            while (item := self._blocks.get()) is not None:
                self._segments.put(self._decoded(*item))

    def _decoded(self, block, latents):
        try:
            return self._meter.decodes(self._plan.decode_action(block), self._make, latents), None
        except BaseException as error:  # it belongs to the caller, who raises it
            return None, error


def _own_stream(device):
    return nullcontext() if device.type == "cpu" else torch.Stream(device)


class ParallelVaeDecoder:
    """On all ranks of a replica at once, when all blocks are finished: for xDiT's parallel VAE. One segment.

    ``join``: the latents of all blocks, or None off the output rank, to the segment, or None there.
    """

    def __init__(self, join):
        self._join, self._parts = join, []

    def add(self, block, latents):
        """Keeps them."""
        self._parts.append(latents)

    def ready(self):
        """Nothing yet."""
        return ()

    def rest(self):
        """Decodes; yields on the output rank."""
        segment = self._join(torch.cat(self._parts, dim=2) if self._parts else None)
        if segment is not None:
            yield segment
