"""A worker's watch over itself: it ends when it shall, says why it failed, and notices when it hangs.

Knows: signals, a pipeline's meter, and whom to tell. Must not know: what a run computes, or how a launcher is told.
"""

import logging
import os
import signal
import threading
import time
import traceback

import torch

FINISH, NOW = "finish", "now"
STOPPED = 130  # the exit code of what was ended by Ctrl-C, as shells have it
LOST = "lost"  # a failure that only says that another rank is gone
_PERIOD_S = 0.2
# Until a rank has been silent for so many of its longest actions, it may be waiting for other ranks' passes, a decode or
# a checkpoint; and never for less than a minute, nor before its first action for less than ten minutes for each stage: stages
# may compile one after the other.
_LONGEST_ACTIONS, _LEAST_S, _FIRST_ACTION_S = 50, 60.0, 600.0
_NOTICE_S = 30.0  # so often a start that takes long is said to

logger = logging.getLogger(__name__)


class Alone:
    """For a worker without a launcher of ours: under plain torchrun, say."""

    is_there = False

    def tell(self, text):
        """Nobody asks what this worker does."""

    def wish(self):
        """Nobody wishes: signals come to the worker itself."""
        return ""

    def report(self, failure):
        """Says itself why it ends."""
        logger.error(failure_line(failure))

    def is_gone(self):
        """There is nobody to go."""
        return False


class Watch:
    """Watches over a worker from a thread. ``hang_timeout_s``: how long it may be silent; None: by its passes.
    ``launcher``: whom to tell; see Alone."""

    def __init__(self, hang_timeout_s=None, launcher=Alone()):
        self._launcher = launcher
        self.rank, self._ranks, self._hang_timeout_s = int(os.environ["RANK"]), os.environ["WORLD_SIZE"], hang_timeout_s
        self._pipeline = self._close = None
        self._signals, self._phase, self._noticed_s = 0, "", time.monotonic()
        self.begins("connects to the other processes")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._loop, daemon=True, name="watch").start()

    def begins(self, phase):
        """What is done from now on, in words, until there are passes; None: nobody shall be told."""
        self._phase = phase
        self._launcher.tell(phase or "runs")

    def over(self, pipeline):
        """From now on ``pipeline``, a DualParalPipeline, is what runs here."""
        self._pipeline, launcher = pipeline, self._launcher
        pipeline.tell = lambda text: launcher.tell(f"stage {pipeline.stage.index}, {text}")

    def closes(self, function):
        """``function`` closes what must be closed when the worker is ended at once; None: nothing."""
        self._close = function

    def failed(self, error):
        """Tells why this worker ends."""
        self._report(error, LOST if _is_lost_connection(error) else "raised", traceback.format_exc())

    def _on_signal(self, number, frame):
        self._signals += 1

    def _loop(self):
        while True:
            time.sleep(_PERIOD_S)
            if self._launcher.is_gone():
                os._exit(1)
            self._obey()
            self._notice()
            self._check_silence()

    def _obey(self):
        wish = self._launcher.wish()
        if wish == NOW or self._signals > 1:
            self._end_at_once(STOPPED)
        if wish == FINISH or self._signals:
            if self._pipeline is None or self._pipeline.meter is None:
                self._end_at_once(STOPPED)  # nothing is computed yet
            self._pipeline.stop()

    def _end_at_once(self, code):
        try:
            if self._close is not None:
                self._close()
        finally:
            os._exit(code)

    def _notice(self):
        """How long loading takes, or another host needs to come, nobody knows: it is said, and left to the user."""
        if self._pipeline is None and self._phase and time.monotonic() - self._noticed_s > _NOTICE_S:
            self._noticed_s = time.monotonic()
            if os.environ.get("LOCAL_RANK", "0") == "0":
                logger.warning("rank %d of %s still %s", self.rank, self._ranks, self._phase)

    def _check_silence(self):
        meter = self._pipeline.meter if self._pipeline is not None else None
        if meter is None or not meter.doing.is_pass:
            return
        doing, silent_s, limit_s = meter.doing, time.monotonic() - meter.doing.since, self._limit_s(meter)
        if silent_s > limit_s:
            self._report(f"{doing.what} for {silent_s:.0f} s, more than {limit_s:.0f} s: it, or what it waits for, hangs", "hang")
            self._end_at_once(1)

    def _limit_s(self, meter):
        if self._hang_timeout_s is not None:
            return self._hang_timeout_s
        if not meter.longest_s:
            return _FIRST_ACTION_S * self._pipeline.mesh.stage[1]
        return max(_LEAST_S, _LONGEST_ACTIONS * meter.longest_s)

    def _report(self, cause, kind, details=""):
        stage = self._pipeline.stage.index if self._pipeline is not None else None
        doing = self._pipeline.meter.doing.what if self._pipeline is not None and self._pipeline.meter is not None else self._phase or "runs"
        failure = dict(
            rank=self.rank, stage=stage, doing=doing, kind=kind, time=time.time(), details=details,
            cause=cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}",
        )
        self._launcher.report(failure)


def failure_line(failure):
    """A failure, as a Watch reports it, in one line."""
    stage = "" if failure["stage"] is None else f", stage {failure['stage']}"
    cause = " ".join(failure["cause"].split())
    doing = "" if failure["kind"] == "hang" else f", {failure['doing']}"
    return f"rank {failure['rank']}{stage}{doing}: {cause}"


def _is_lost_connection(error):
    """gloo's errors are RuntimeErrors with these words; NCCL's and the store's have a class of their own."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "gloo/transport")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)
