"""Pictures of a video's quality for a person to look at: a sheet of its frames, and its figures over time.

Knows: matplotlib, series of figures. Must not know: metrics, how a video was made.
"""

import numpy as np

from .frames import EvenlySpaced

SHEET_FRAMES, COLUMNS = 48, 8
WIDEST_PX = 240
SERIES = (
    ("luminance", "luminance, 0 to 1"), ("saturation", "saturation, 0 to 1"), ("sharpness", "sharpness, 0 to 1"),
    ("first_difference", "step, 0 to 1"), ("second_difference", "change of step, 0 to 1"),
)


class ContactSheet:
    """Adds frames, (height, width, 3) uint8, one at a time, and keeps at most SHEET_FRAMES of them, evenly spaced."""

    def __init__(self):
        self._kept = EvenlySpaced(SHEET_FRAMES)

    def add(self, frame):
        """Adds the next frame."""
        if self._kept.wants_next():
            self._kept.keep(frame[:: (every := -(-frame.shape[1] // WIDEST_PX)), ::every].copy())

    def save(self, path, title):
        """Writes the PNG ``path``: the frames in reading order, each with its number. Raises OSError."""
        frames, stride = self._kept.values, self._kept.stride
        rows = -(-len(frames) // COLUMNS)
        height, width = frames[0].shape[:2]
        figure, axes = _figure(rows, COLUMNS, (1.5 * COLUMNS, rows * (1.5 * height / width + 0.25) + 0.5))
        for number, axis in enumerate(axes.flat):
            axis.axis("off")
            if number < len(frames):
                axis.imshow(frames[number], interpolation="nearest")
                axis.set_title(str(number * stride), fontsize=7, pad=2)
        _save(figure, path, title)


def save_plot(path, title, series, track, seams):
    """Writes the PNG ``path``: each series over frames, with a line at each of ``seams``. ``track``: of a scene (World.track), or None."""
    shown = [(label, series.of(name)) for name, label in SERIES]
    shown += [] if track is None else track.shown()
    figure, axes = _figure(len(shown), 1, (12, 1.3 * len(shown) + 0.6), sharex=True)
    for axis, (label, values) in zip(axes.flat, shown):
        axis.vlines(seams, 0, 1, transform=axis.get_xaxis_transform(), colors="0.8", linewidth=0.8)
        axis.plot(np.arange(len(values)), values, linewidth=0.8)
        axis.set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
        axis.tick_params(labelsize=7)
        axis.margins(x=0.005)
    axes.flat[-1].set_xlabel("frame" + (" (grey lines: seams)" if len(seams) else ""), fontsize=8)
    _save(figure, path, title)


def _figure(rows, columns, size, **options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _save(figure, path, title):
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})
