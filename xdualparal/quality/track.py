"""What the objects of a demo video do: where they are, how many, and whether they are what the prompt says.

Knows: the first demo world's scenes and how they are seen (demo/quality.py). Must not know: files, how a video was made.
"""

import colorsys
from array import array

import numpy as np

from ..demo import quality as seen
from ..demo import scenes as demo
from .drift import difference, relative
from .frames import Chunks
from .jumps import jumps, seam_jumps
from .numbers import mean

CORE_COVERAGE = 0.8  # of a pixel: its colour is the object's
NAMES = ("count", "x", "y", "area", "hue_error", "colour", "shape", "background")
SHOWN = (("x", "x, px"), ("y", "y, px"), ("area", "area, px"), ("hue_error", "hue error, degrees"), ("count", "objects"))


class ObjectTrack:
    """Adds frames of a demo video, (side, side, 3) uint8, one at a time; keeps 64 bytes of each.

    ``scene``: a demo.Scene. ``of(name)``: one value a frame, NaN where no object is seen: ``count`` of objects, ``x``, ``y`` of the
    largest one's centre (pixels of a 32-pixel frame), its ``area`` (pixels), ``hue_error`` (its hue minus the prompt's, -180 to 180
    degrees), and whether ``colour``, ``shape`` and ``background`` are right (0 or 1).
    """

    def __init__(self, scene):
        self.scene, self._chunks = scene, Chunks(seen.to_demo_size, self._see)
        self._values = {name: array("d") for name in NAMES}

    def add(self, frame):
        """Adds the next frame. Raises ValueError for one that has not the demo's shape, see demo.quality.to_demo_size."""
        self._chunks.add(frame)

    def of(self, name):
        """One value a frame, (frames,) float64."""
        self._chunks.flush()
        return np.array(self._values[name])

    @property
    def centres(self):
        """(frames, 2), x and y in pixels."""
        return np.stack([self.of("x"), self.of("y")], axis=1)

    def metrics(self, facts):
        """What ``track_metrics`` and ``prompt_metrics`` say; ``facts``: where blocks meet."""
        return track_metrics(self, facts) | prompt_metrics(self)

    def shown(self):
        """[(label, one value a frame)] for a plot."""
        return [(label, self.of(name)) for name, label in SHOWN]

    def _see(self, video):
        video = seen.to_demo_size(video)
        counts, coverage = seen.largest_objects(video)
        centres, there = seen.centroids(coverage), counts > 0
        area = coverage.sum(axis=(1, 2))
        square = seen.looks_square(coverage, centres)
        values = (
            counts, centres[:, 0], centres[:, 1], np.where(there, area, np.nan), hue_errors(video, coverage, self.scene.colour),
            seen.right_colour(video, coverage, self.scene.colour) & there, (square == (self.scene.shape == "square")) & there,
            seen.right_background(video, self.scene.background),
        )
        for name, column in zip(NAMES, values):
            self._values[name].extend(np.asarray(column, float))


def hue_errors(video, coverage, colour):
    """The object's hue minus that of ``colour``, (frames,) degrees, -180 to 180; NaN without an object."""
    core = (coverage > CORE_COVERAGE)[..., None]
    area = core.sum(axis=(1, 2))
    means = (video * core).sum(axis=(1, 2)) / np.where(area, area, np.nan)
    hues = np.array([np.nan if np.isnan(rgb).any() else 360 * colorsys.rgb_to_hsv(*rgb)[0] for rgb in means])
    wanted = 360 * colorsys.rgb_to_hsv(*(np.array(demo.COLOURS[colour]) / 255))[0]
    return (hues - wanted + 180) % 360 - 180


def track_metrics(track, facts):
    """``seam_jump_px``, ``other_jump_px``, ``longest_jump_px``: see jumps.seam_jumps; ``object_count`` and ``area_px``: means, ``one_object``: share of frames with exactly one, ``area_spread``: standard deviation of the
    area over its mean, ``hue_error_deg``: mean distance from the prompt's hue, ``area_drift`` (a share) and ``hue_drift_deg``: last
    tenth against first. None: not known."""
    counts, area, hue = track.of("count"), track.of("area"), track.of("hue_error")
    return seam_jumps(jumps(track.centres, demo.half_sizes([track.scene]).item(), demo.FRAME_SIZE_PX), facts) | dict(
        object_count=mean(counts), one_object=mean(counts == 1), area_px=mean(area),
        area_spread=float(np.nanstd(area) / np.nanmean(area)) if np.isfinite(area).any() else None,
        hue_error_deg=mean(np.abs(hue)), area_drift=relative(area), hue_drift_deg=difference(hue),
    )


def prompt_metrics(track):
    """Shares of frames in which what the prompt says is there: ``colour``, ``shape``, ``background``, and ``prompt``, all of them and
    one object."""
    parts = {name: track.of(name) for name in ("colour", "shape", "background")}
    right = (track.of("count") == 1) & np.all(list(parts.values()), axis=0)
    return {name: mean(values) for name, values in (parts | {"prompt": right}).items()}
