"""The mp4 of a run and the report beside it: what of it is kept, how it is opened, how it is written.

Knows: whose a file is, and which of a run's frames it has already. Must not know: models, prompts, processes.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from xfuser.core.utils.runner_utils import log

from ..config import DualParalConfig
from ..engine.session import Outcome
from ..output.files import reason_of, write_whole
from ..output.left_video import frames_in, is_fragmented, label_of
from ..output.mp4 import VideoWriter
from ..output.owners import check_owner, spec_in_json, spec_in_video
from ..output.report import as_text, provenance
from ..output.tags import tags_of
from ..output.writer import ThreadedWriter
from ..run_spec import RunSpec
from .outputs import report_path
from .screen import end_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFile:
    """The mp4 at ``path`` of the run with the identity ``spec``. On the output rank."""

    path: Path
    spec: RunSpec
    config: DualParalConfig
    frames_per_latent: int

    def blocks_kept(self, num_frames):
        """How many blocks of this very run are in the file, where there is a checkpoint: they are kept. Raises ValueError for
        a file that must not be replaced."""
        check_owner(self.path, "the video", spec_in_video, self.spec.as_json(), self.config.overwrite)
        check_owner(report_path(self.path), "the report", spec_in_json, self.spec.as_json(), self.config.overwrite)
        if self.config.checkpoint is None or not self._is_left:
            return 0
        return self.config.layout.whole_blocks(frames_in(self.path), num_frames, self.frames_per_latent)

    def open(self, run):
        """The VideoWriter for a run's frames. One that was finished has no more: its file is made whole, if a kill has left it
        fragmented."""
        if run.outcome is Outcome.ALREADY_FINISHED and not is_fragmented(self.path):
            return None
        kept = run.plan.layout.frames_of(run.blocks_kept, run.request.num_frames, self.frames_per_latent)
        writer = VideoWriter(
            self.path, self.spec.fps, self.spec.quality, kept, self.spec.digest(), tags_of(self.spec.as_json()),
            overwrite=self.config.overwrite or self._is_left,
        )
        if run.outcome is Outcome.ALREADY_FINISHED:
            writer.close()
        return writer

    @property
    def _is_left(self):
        """Whether an earlier process has begun the file for this very run."""
        return label_of(self.path) == self.spec.digest()


def write_video(file, run, input_args, memory, watchdog=None):
    """Writes a run's segments to ``file``, a VideoWriter, closes it, and leaves the report, with ``memory`` (see
    memory.memory_report). Where the ``watchdog`` ends the run
    at once, the file is closed with the segments that are in it."""
    on_abort = watchdog.on_abort if watchdog is not None else lambda function: None
    with ThreadedWriter(file, run.meter.writes) as writer:
        on_abort(writer.close_at_once)
        run.drain = writer.drain  # a snapshot that says that a segment was given must not find it unwritten
        for segment in run:
            writer.write(segment)
        writer.drain()
        run.meter.closes(file.close)
        on_abort(None)
    report = dict(run.report, frames=writer.frames_written, memory=memory, **provenance(run.spec, input_args))
    if writer.frames_written:
        write_report(report_path(file.path), report)
    log(as_text(report))
    log(end_text(file.path, run, writer.frames_written), log_from_all_processes=True)


def write_report(path, report):
    """Writes a report, a dict, as JSON. Warns where that fails: the video is there."""
    try:
        write_whole(path, json.dumps(report, indent=2, default=str).encode())
    except OSError as error:
        logger.warning("the report %s could not be written (%s), the video is there", path, reason_of(error))
