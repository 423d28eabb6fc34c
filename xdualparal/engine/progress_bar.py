"""How far a video is, on the screen: a bar on a terminal, a line now and then elsewhere.

Knows: a run's blocks, frames and passes, and stderr. Must not know: how a pass is made.
"""

import os
import sys
import time

from tqdm.auto import tqdm

from ..plan.progress import pass_costs

LINE_S = 10.0  # between lines where there is no terminal: a log of an hour has at most 360


class ProgressBar:
    """A context manager. ``total``: of what ``show`` is told; None: there is no end. ``is_shown``: else it does nothing.

    ``options``: tqdm's, for a terminal; with ``file`` another place than stderr.
    """

    def __init__(self, total, is_shown=True, **options):
        self._file = options.setdefault("file", sys.stderr)
        is_terminal = _columns(self._file) > 0
        layout = "{percentage:3.0f}% |{bar:20}| {desc}" if total else "{desc}"
        self._bar = tqdm(total=total, disable=not (is_shown and is_terminal), **{"bar_format": layout, **options})
        self._writes_lines = is_shown and not is_terminal
        self._text, self._line, self._line_s = "", "", -LINE_S

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.refresh()
        self._bar.close()
        if self._writes_lines and self._text != self._line:
            self._write_line()

    def show(self, done, text):
        """``done``: how much of the total. ``text``: see progress_text."""
        self._text = text
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if self._writes_lines and time.monotonic() - self._line_s >= LINE_S:
            self._write_line()

    def _write_line(self):
        self._file.write(self._text + "\n")
        self._file.flush()
        self._line, self._line_s = self._text, time.monotonic()


class RunProgress:
    """The bar of ``run``, a GroupRun: with its pipeline's own options, but on the last process, which prints in xDiT;
    diffusers' is on the first. A context manager.
    """

    def __init__(self, run):
        self._run, first = run, run.progress.first
        options = dict(getattr(run.pipe, "_progress_bar_config", {}))
        is_shown = not options.pop("disable", False) and run.mesh.is_output and run.mesh.is_last_of_all
        self._costs, self._done, self._total, total = pass_costs(run.plan, first), 0, None, None
        if run.plan.num_blocks is not None:
            whole = run.plan.side_by_side([0] * len(run.videos))
            total, self._total = sum(pass_costs(whole)), sum(pass_costs(run.plan, first))
        self._done_before = (total or 0) - (self._total or 0)  # of a run that is resumed
        self._bar, self._started_s = ProgressBar(total, is_shown, **options), time.monotonic()

    def __enter__(self):
        self._bar.__enter__()
        return self

    def __exit__(self, *error):
        self._bar.__exit__(*error)

    def pass_is_done(self):
        """Shows it, with the time that is left."""
        self._done += next(self._costs)
        self.show(time_left(time.monotonic() - self._started_s, self._done, self._total))

    def show(self, rest):
        """Shows what has been written; ``rest`` is said last."""
        videos, num_blocks = self._run.videos_to_make, self._run.plan.num_blocks
        blocks, frames = min(video.blocks_given for video in videos), sum(video.frames_given for video in videos)
        text = progress_text(blocks, num_blocks, frames, sum(video.request.num_frames for video in videos), rest, len(videos))
        self._bar.show(self._done_before + self._done, text)


def progress_text(blocks, num_blocks, frames, num_frames, rest="", videos=1):
    """"block 3 of 25, 77 of 801 frames written, 12 min left" where ``blocks``, 2, have been written.

    ``num_blocks``, ``num_frames``: None or 0 where there is no end. ``rest``: what is said last. ``videos``: how many are made
    together; of several, ``blocks`` are those that all have, and ``frames`` those of all.
    """
    block = f"block {min(blocks + 1, num_blocks)} of {num_blocks}" if num_blocks else f"block {blocks + 1}"
    block = f"{videos} videos, {block}" if videos > 1 else block
    return ", ".join(filter(None, [block, frames_text(frames, num_frames), rest]))


def frames_text(frames, num_frames):
    """"77 of 801 frames written"."""
    return f"{frames} of {num_frames} frames written" if num_frames else f"{frames} frames written"


def time_left(elapsed_s, done, total):
    """"12 min left", by how long ``done`` of ``total`` took; "" where nothing is known."""
    if not total or not done or done >= total:
        return ""
    return f"{_duration(elapsed_s / done * (total - done))} left"


def _columns(file):
    """Of the terminal; 0 where there is none, or where it does not say (serial lines, some containers): no bar fits."""
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError):  # no terminal; no file
        return 0


def _duration(seconds):
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
