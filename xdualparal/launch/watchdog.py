"""A worker's watchdog: ends the worker when it is asked to, reports why it failed, and notices when it hangs.

Knows: signals, a pipeline's meter, and a mailbox. Must not know: what a run computes, or how a mailbox is made.
"""

import logging
import os
import signal
import threading
import time
import traceback

import torch

from .errors import FAILED, STOPPED
from .heartbeats import START_PULSE_S, StandstillTimer
from .mailbox import FINISH, HANG, LOST, NOW, RAISED, NoMailbox, signals_that_stop

_PERIOD_S = 0.2
# A rank may wait for other ranks' passes, a decode or a checkpoint, so it is said to hang after this many of its longest
# actions, and not before a minute. Before its first action it may wait for the other stages, which compile one after the
# other: ten minutes for each stage.
_LONGEST_ACTIONS, _LEAST_S, _FIRST_ACTION_S = 50, 60.0, 600.0
_CLOSE_S = 5
_NOTICE_S = 30.0  # how often a long start is logged
_CONNECT_S = 25 * 60.0  # how long other nodes may be waited for: torch would give up after 30 minutes, with a C++ stack

logger = logging.getLogger(__name__)


class Watchdog:
    """Observes a worker from a thread of its own. Where there is a launcher, that one judges what hangs (launch/heartbeats):
    this thread tells it that the process runs, and the passes themselves tell what they do.

    ``hang_timeout_s``: how long one action may take; None: by the duration of the longest one so far. ``mailbox``: a
    Mailbox, or NoMailbox. ``folder``: where a traceback is kept. ``release``: a function that is called last when the worker is
    ended at once.
    """

    def __init__(self, hang_timeout_s=None, mailbox=NoMailbox(), folder=None, release=lambda: None):
        self._mailbox, self._folder, self._release = mailbox, folder, release
        self.rank, self._ranks, self._hang_timeout_s = int(os.environ["RANK"]), os.environ["WORLD_SIZE"], hang_timeout_s
        self._pipeline = self._close = None
        self.stop_is_asked = False  # once there is a pipeline; before, the worker ends
        self._signals, self._phase, self._noticed_s = 0, "", time.monotonic()
        self._timer = StandstillTimer()
        self.begin_phase(_connects())
        for number in signals_that_stop():
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._loop, daemon=True, name="watchdog").start()

    def begin_phase(self, phase):
        """Says what this worker does until there are passes, in words; None: nothing is logged about it."""
        self._phase = phase
        self._mailbox.set_status(phase or "runs")

    def observe(self, pipeline):
        """Observes ``pipeline``, a DualParalPipeline, from now on."""
        self._pipeline = pipeline
        pipeline.tell = self._tell

    def _tell(self, doing):
        limit_s = self._limit_s(self._pipeline.meter, doing)
        what = f"stage {self._pipeline.stage.index}, {doing.what}" if doing.what else ""
        self._mailbox.set_activity(doing.thread, what, limit_s or 0.0, doing.waits)

    def on_abort(self, function):
        """Sets the function that is called when the worker is ended at once, to close its files; None: none."""
        self._close = function

    def failed(self, error):
        """Reports the exception ``error``, of which this worker ends."""
        self._report(error, LOST if _is_lost_connection(error) else RAISED, traceback.format_exc())

    def _on_signal(self, number, frame):
        self._signals += 1

    def _loop(self):
        while True:
            time.sleep(_PERIOD_S)
            self._timer.look()
            self._mailbox.beat(self._pulse_limit_s())
            self._check_launcher()
            self._check_stop()
            self._check_start()
            if not self._mailbox.has_launcher:
                self._check_silence()

    def _check_launcher(self):
        """A launcher that was killed has not ended its workers: each closes its files and ends itself."""
        if self._mailbox.launcher_has_ended():
            self._mailbox.remove()
            signal.alarm(_CLOSE_S)  # nobody else would kill a worker whose file does not close
            self._end_at_once(FAILED)

    def _check_stop(self):
        request = self._mailbox.stop_request()
        if request == NOW or self._signals > 1:
            self._end_at_once(STOPPED)
        if request == FINISH or self._signals:
            if self._pipeline is None:
                self._end_at_once(STOPPED)  # nothing is computed yet
            # Also before the first video: another replica may compute, and whoever ends takes it along.
            self.stop_is_asked = True
            self._pipeline.stop()

    def _end_at_once(self, code):
        try:
            if self._close is not None:
                self._close()
            self._release()
        finally:
            os._exit(code)

    def _check_start(self):
        """Logs a long start. How long loading takes is the user's to judge."""
        started_s = self._timer.standing_s("phase", self._phase)
        if self._pipeline is None and self._phase == _connects() and started_s > _CONNECT_S:
            self._report(f"still {self._phase} after {_CONNECT_S / 60:.0f} minutes: start the same command on all nodes", HANG)
            self._end_at_once(FAILED)
        if self._pipeline is None and self._phase and time.monotonic() - self._noticed_s > _NOTICE_S:
            self._noticed_s = time.monotonic()
            if os.environ.get("LOCAL_RANK", "0") == "0":
                logger.warning("rank %d of %s still %s", self.rank, self._ranks, self._phase)

    def _check_silence(self):
        meter = self._pipeline.meter if self._pipeline is not None else None
        if meter is None:
            return
        ages = [(self._timer.standing_s(doing.thread, doing), doing) for doing in meter.activities()]
        over = [(age_s, doing) for age_s, doing in ages if age_s > (self._limit_s(meter, doing) or age_s)]
        if over:
            age_s, doing = min(over, key=lambda one: (one[1].waits, -one[0]))
            self._report(
                f"{doing.what} for {age_s:.0f} s, more than {self._limit_s(meter, doing):.0f} s: it, or what it waits for, hangs", HANG
            )
            self._end_at_once(FAILED)

    def _pulse_limit_s(self):
        """How long this thread may stand still."""
        meter = self._pipeline.meter if self._pipeline is not None else None
        return self._limit_of_passes_s(meter) if meter is not None and (meter.longest_s or self._hang_timeout_s) else START_PULSE_S

    def _limit_s(self, meter, doing):
        """How long ``doing`` may take, None: as long as it likes."""
        return self._limit_of_passes_s(meter) if doing.is_pass else doing.limit_s

    def _limit_of_passes_s(self, meter):
        if self._hang_timeout_s is not None:
            return self._hang_timeout_s
        if not meter.longest_s:
            return _FIRST_ACTION_S * self._pipeline.mesh.stage[1]
        return max(_LEAST_S, _LONGEST_ACTIONS * meter.longest_s)

    def _report(self, cause, kind, details=""):
        has_meter = self._pipeline is not None and self._pipeline.meter is not None
        failure = dict(
            rank=self.rank, stage=self._pipeline.stage.index if self._pipeline is not None else None, kind=kind,
            doing=self._pipeline.meter.doing.what if has_meter else self._phase or "runs", time=time.time(), details=details, folder=self._folder,
            cause=cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}",
        )
        self._mailbox.report(failure)


def _connects():
    """What a worker does first, in words; on several nodes with the address, which may be wrong."""
    nodes = int(os.environ["WORLD_SIZE"]) > int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    address = f" at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}" if nodes else ""
    return f"connects to the other processes{address}"


def _is_lost_connection(error):
    """gloo's errors are RuntimeErrors with these words; NCCL's and the store's have a class of their own."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "gloo/transport")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)
