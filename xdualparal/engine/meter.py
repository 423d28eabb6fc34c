"""What a rank does, since when, and how long it takes.

Knows: clocks, and how to wait for the device. Must not know: what the actions compute, or who looks at the figures.
"""

import time
from typing import NamedTuple

from torch.profiler import record_function

from ..plan.simulate import Span


MAIN, DECODER, WRITER = range(3)  # the threads of a rank


class Doing(NamedTuple):
    """What a thread of a rank does: ``what``, as a phrase, "" for nothing; ``since``: monotonic seconds; ``is_pass``: whether its
    duration is bounded by the duration of passes; ``waits``: whether it waits for another rank or thread; ``thread``:
    MAIN, DECODER or WRITER; ``limit_s``: how long it may take where passes do not say it, None: not limited."""

    what: str
    since: float
    is_pass: bool
    waits: bool = False
    thread: int = MAIN
    limit_s: float | None = None


# Closing writes the whole file once more: an hour is enough for 180 GB at 50 MB/s, more than days of 480p.
_CLOSING_S = 3600.0
_AFTER = "after "


class Meter:
    """Measures every action of a stage, and says at any time what is being done.

    ``synchronize``: waits for the device. It is called after each action and each wait, before the clock is read: a device's
    work is only queued by then, and NCCL's ``Work.wait`` returns at once and lets the device wait. Else neither durations nor
    what hangs would be known. The price: the next action's kernels are launched only then, which no pass of many milliseconds
    notices (not measured on a GPU yet). Profilers of torch show actions and waits by their names (5 us each, on a CPU).
    ``keeps_spans``: whether every action's Span is remembered (their memory grows with the video). ``tell``: is told each
    Doing, in the thread that does it.
    """

    def __init__(self, synchronize, keeps_spans=False, tell=lambda doing: None):
        self.synchronize, self._keeps_spans, self._tell = synchronize, keeps_spans, tell
        self.spans = []
        self.busy_s = {}
        self.count = {}
        self.waited_s = self.waited_for_decode_s = 0.0
        self.longest_s = 0.0
        self.doing = Doing("starts", time.monotonic(), False)
        self._decoding = self._writing = None

    def does(self, action, function, *args):
        """``function(*args)``, the action's; measures it."""
        self._begin(f"action {action}")
        result = self._on_device(str(action), function, args)
        self.add(Span(action, self.doing.since, time.monotonic()))
        self._nothing()
        return result

    def decodes(self, action, function, *args):
        """``function(*args)``, a DECODE's in the decode thread, beside what the main thread does; measures it."""
        self._decoding = Doing(f"action {action}", time.monotonic(), True, thread=DECODER)
        self._tell(self._decoding)
        try:
            # It waits for this thread's stream: others may read the result then.
            result = self._on_device(str(action), function, args)
            self.add(Span(action, self._decoding.since, time.monotonic()))
        finally:
            self._decoding = None
            self._tell(Doing("", time.monotonic(), False, thread=DECODER))
        return result

    def writes(self, function, frames):
        """``function(frames)``, writing in a thread of its own; it is known meanwhile and not measured."""
        self._writing = Doing("writes frames", time.monotonic(), True, thread=WRITER)
        self._tell(self._writing)
        try:
            return function(frames)
        finally:
            self._writing = None
            self._tell(Doing("", time.monotonic(), False, thread=WRITER))

    def activities(self):
        """What is being done now: a Doing for the main thread and, while they work, one for the decode and the writer thread."""
        return [doing for doing in (self.doing, self._decoding, self._writing) if doing is not None]

    def waits(self, why, function, *args):
        """``function(*args)``, which waits for another rank."""
        self._begin(f"waits {why}", waits=True)
        result = self._on_device(f"waits {why}", function, args)
        self.waited_s += time.monotonic() - self.doing.since
        self._nothing()
        return result

    def waited_within(self, kind, seconds):
        """Counts ``seconds`` of the last action of ``kind`` as waiting for another rank."""
        self.busy_s[kind] = self.busy_s.get(kind, 0.0) - seconds
        self.waited_s += seconds

    def passes_wait(self, function, *args):
        """``function(*args)``, decoding that holds the passes or the caller up."""
        self._begin("waits for decoding", is_pass=False, waits=True)
        start = self.doing.since
        result = function(*args)
        self.waited_for_decode_s += time.monotonic() - start
        self._nothing()
        return result

    def closes(self, function):
        """``function()``, the caller's, which closes its file."""
        self._begin("closes the video", is_pass=False, limit_s=_CLOSING_S)
        function()
        self._nothing()

    def add(self, span):
        """Counts an action that was measured elsewhere, in another thread for example."""
        kind, took = span.action.kind, span.end - span.start
        self.busy_s[kind] = self.busy_s.get(kind, 0.0) + took
        self.count[kind] = self.count.get(kind, 0) + 1
        self.longest_s = max(self.longest_s, took)
        if self._keeps_spans:
            self.spans.append(span)

    def _on_device(self, name, function, args):
        """``function(*args)``, done also on the device, under ``name`` for profilers."""
        with record_function(name):
            result = function(*args)
            self.synchronize()
        return result

    def _begin(self, what, is_pass=True, waits=False, limit_s=None):
        self.doing = Doing(what, time.monotonic(), is_pass, waits, limit_s=limit_s)
        self._tell(self.doing)

    def _nothing(self):
        what = self.doing.what if self.doing.what.startswith(_AFTER) else _AFTER + self.doing.what
        self.doing = Doing(what, time.monotonic(), False)
        self._tell(self.doing)
