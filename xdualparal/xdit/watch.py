"""A worker's line to whoever started it: what it does, why it failed, when to stop. And the alarm when it hangs.

Knows: the files in the folder that the launcher makes (``FOLDER`` in the environment; without it there is no launcher),
signals, and a pipeline's meter. Must not know: what a run computes.
"""

import json
import logging
import mmap
import os
import signal
import threading
import time
import traceback
from pathlib import Path

import torch

FOLDER, PARENT = "XDUALPARAL_FOLDER", "XDUALPARAL_PARENT"
FINISH, NOW = "finish", "now"
STOPPED = 130  # the exit code of what was ended by Ctrl-C, as shells have it
LOST = "lost"  # a failure that only says that another rank is gone
_STATUS_BYTES = 256
_PERIOD_S = 0.2
# Until a rank has been silent for so many of its longest actions, it may be waiting for other ranks' passes, a decode or
# a checkpoint; and never for less than a minute, nor before its first action for less than ten minutes for each stage: stages
# may compile one after the other.
_LONGEST_ACTIONS, _LEAST_S, _FIRST_ACTION_S = 50, 60.0, 600.0
_NOTICE_S = 30.0  # so often a start that takes long is said to

logger = logging.getLogger(__name__)


def has_launcher():
    """Whether a launcher waits for word of this process."""
    return FOLDER in os.environ


class Watch:
    """Watches over a worker from a thread. ``hang_timeout_s``: how long it may be silent; None: by its passes."""

    def __init__(self, hang_timeout_s=None):
        self.rank, self._ranks, self._hang_timeout_s = int(os.environ["RANK"]), os.environ["WORLD_SIZE"], hang_timeout_s
        self._folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else None
        self._status = _shared_text(self._folder / f"rank{self.rank}") if self._folder else None
        self._pipeline = self._close = None
        self._signals, self._phase, self._noticed_s = 0, "", time.monotonic()
        self.begins("connects to the other processes")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._loop, daemon=True, name="watch").start()

    def begins(self, phase):
        """What is done from now on, in words, until there are passes; None: nobody shall be told."""
        self._phase = phase
        self._tell(phase or "runs")

    def over(self, pipeline):
        """From now on ``pipeline``, a DualParalPipeline, is what runs here."""
        self._pipeline = pipeline
        pipeline.tell = lambda text: self._tell(f"stage {pipeline.stage.index}, {text}")

    def closes(self, function):
        """``function`` closes what must be closed when the worker is ended at once; None: nothing."""
        self._close = function

    def failed(self, error):
        """Leaves word of why this worker ends. With a launcher it is the one who says so."""
        self._report(error, LOST if _is_lost_connection(error) else "raised", traceback.format_exc())

    def _tell(self, text):
        if self._status is not None:
            content = text.encode()[:_STATUS_BYTES]
            self._status[:] = content + b" " * (_STATUS_BYTES - len(content))

    def _on_signal(self, number, frame):
        self._signals += 1

    def _loop(self):
        while True:
            time.sleep(_PERIOD_S)
            if PARENT in os.environ and os.getppid() != int(os.environ[PARENT]):
                os._exit(1)  # the launcher is gone
            self._obey()
            self._notice()
            self._check_silence()

    def _obey(self):
        wish = _read(self._folder / "stop") if self._folder else ""
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
            return _FIRST_ACTION_S * self._pipeline.groups.stage[1]
        return max(_LEAST_S, _LONGEST_ACTIONS * meter.longest_s)

    def _report(self, cause, kind, details=""):
        stage = self._pipeline.stage.index if self._pipeline is not None else None
        doing = self._pipeline.meter.doing.what if self._pipeline is not None and self._pipeline.meter is not None else self._phase or "runs"
        failure = dict(
            rank=self.rank, stage=stage, doing=doing, kind=kind, time=time.time(), details=details,
            cause=cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}",
        )
        if self._folder is None:
            logger.error(failure_line(failure))
        else:
            write_word(self._folder / f"failure{self.rank}", json.dumps(failure))


def failure_line(failure):
    """A failure, as a Watch reports it, in one line."""
    stage = "" if failure["stage"] is None else f", stage {failure['stage']}"
    cause = " ".join(failure["cause"].split())
    doing = "" if failure["kind"] == "hang" else f", {failure['doing']}"
    return f"rank {failure['rank']}{stage}{doing}: {cause}"


def read_failures(folder):
    """What the workers reported, first things first: those who raised or hung, then those who lost another rank."""
    failures = [json.loads(file.read_text()) for file in Path(folder).glob("failure*[0-9]")]
    return sorted(failures, key=lambda one: (one["kind"] == LOST, one["time"]))


def write_word(path, text):
    """Leaves ``text`` at ``path``, whole or not at all: on a full disk there is nothing to be done but to go on."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except OSError as error:
        logger.error("%s could not be written: %s", path, error)


def read_status(folder, rank):
    """What ``rank`` did last, in words."""
    return _read(Path(folder) / f"rank{rank}").strip("\0 ") or "starts"


def _is_lost_connection(error):
    """gloo's errors are RuntimeErrors with these words; NCCL's and the store's have a class of their own."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "gloo/transport")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)


def _shared_text(path):
    """A file that others can read, also after this process was killed; a write is a memory access."""
    path.write_bytes(b" " * _STATUS_BYTES)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), _STATUS_BYTES)


def _read(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
