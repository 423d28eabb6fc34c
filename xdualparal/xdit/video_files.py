"""The mp4s of a run and the reports beside them: what of a file is kept, how it is opened, how it is written.

Knows: whose a file is, and which of a video's frames it has already. Must not know: models, prompts, processes.
"""

import json
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from xfuser.core.utils.runner_utils import log

from ..config import DualParalConfig
from ..engine.video import Video
from ..output.files import reason_of, write_whole
from ..output.left_video import frames_in, is_fragmented, label_of
from ..output.mp4 import VideoWriter
from ..output.owners import check_owner, spec_in_json, spec_in_video
from ..output.report import as_text, provenance
from ..output.tags import FRAMES_BEFORE, tags_of
from ..output.writer import ThreadedWriter
from ..plan.layout import Layout
from ..run_spec import RunSpec
from .outputs import report_path
from .screen import end_text

logger = logging.getLogger(__name__)


@dataclass
class VideoFile:
    """The mp4 at ``path`` of the run with the identity ``spec``. On the output rank. ``video``: the Video, when it is known what of
    it the file has. ``layout``: of its blocks. ``after``: an mp4 whose frames come before the video's own."""

    path: Path
    spec: RunSpec
    config: DualParalConfig
    frames_per_latent: int
    layout: Layout
    after: Path | None = None
    video: Video | None = None

    def blocks_kept(self, num_frames):
        """How many blocks of this very run are in the file, where there is a checkpoint: they are kept. Raises ValueError for
        a file that must not be replaced."""
        check_owner(self.path, "the video", spec_in_video, self.spec.as_json(), self.config.overwrite)
        check_owner(report_path(self.path), "the report", spec_in_json, self.spec.as_json(), self.config.overwrite)
        if self.config.checkpoint is None or not self._is_left:
            return 0
        return self.layout.whole_blocks(frames_in(self.path) - self._frames_before, num_frames, self.frames_per_latent)

    def open(self):
        """The VideoWriter for the video's frames. One that was finished has no more: its file is made whole, if a kill has left it
        fragmented."""
        video = self.video
        if not video.is_to_make and not is_fragmented(self.path):
            return None
        kept = video.plan.layout.frames_of(video.blocks_kept, video.request.num_frames, self.frames_per_latent)
        tags = tags_of({**self.spec.as_json(), FRAMES_BEFORE: self._frames_before or None})
        writer = VideoWriter(
            self.path, self.spec.fps, self.spec.quality, kept and self._frames_before + kept, self.spec.digest(), tags,
            overwrite=self.config.overwrite or self._is_left, after=self.after,
        )
        if not video.is_to_make:
            writer.close()
        return writer

    @property
    def _frames_before(self):
        return 0 if self.after is None else frames_in(self.after)

    @property
    def _is_left(self):
        """Whether an earlier process has begun the file for this very run."""
        return label_of(self.path) == self.spec.digest()


def open_all(files):
    """{number of the video: VideoWriter, or None} of ``files``, whose videos share a run in this order. Raises ValueError, with
    all of them closed, when one cannot be opened."""
    writers = {}
    with ExitStack() as opened:
        for number, file in enumerate(files):
            writers[number] = file.open()
            if writers[number] is not None:
                opened.callback(writers[number].close)
        opened.pop_all()
    return writers


class _Files:
    """Several VideoWriters as one, for (number, frames)."""

    def __init__(self, writers):
        self._writers = writers

    def write(self, segment):
        """Appends a video's segment to its file."""
        number, frames = segment
        self._writers[number].write(frames)

    def close(self):
        """Closes all; what keeps one from it is raised when all are."""
        with ExitStack() as closing:
            for writer in self._writers.values():
                closing.callback(writer.close)


def write_videos(writers, run, input_args, memory, watchdog=None):
    """Writes the segments of ``run``, a GroupRun, to its videos' ``writers``, see ``open_all``, closes them, and leaves the reports,
    with ``memory`` (see memory.memory_report). Where the ``watchdog`` ends the run at once, the files are closed with the segments that are in them."""
    on_abort = watchdog.on_abort if watchdog is not None else lambda function: None
    files = _Files({video.number: writers[video.number] for video in run.videos_to_make})
    with ThreadedWriter(files, run.meter.writes) as thread:
        on_abort(thread.close_at_once)
        run.drain = thread.drain  # a snapshot that says that a segment was given must not find it unwritten
        for segment in run:
            thread.write(segment)
        thread.drain()
        run.meter.closes(files.close)
        on_abort(None)
    log(as_text(run.videos_to_make[0].report))
    for video in run.videos_to_make:
        writer = writers[video.number]
        if writer.frames_written:
            report = dict(video.report, frames=writer.frames_written, memory=memory, **provenance(video.spec, input_args))
            write_report(report_path(writer.path), report)
        log(end_text(writer.path, video, writer.frames_written), log_from_all_processes=True)


def write_report(path, report):
    """Writes a report, a dict, as JSON. Warns where that fails: the video is there."""
    try:
        write_whole(path, json.dumps(report, indent=2, default=str).encode())
    except OSError as error:
        logger.warning("the report %s could not be written (%s), the video is there", path, reason_of(error))
