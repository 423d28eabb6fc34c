"""What the objects of a demo video do: where they are, how many, and whether they are what the prompt says.

Knows: the first demo world's scenes and how they are seen (demo/quality.py). Must not know: files, how a video was made.
"""

import colorsys
from array import array

import numpy as np

from ..demo import quality as seen
from ..demo import scenes as demo
from .drift import difference, relative

CHUNK_FRAMES = 64  # seen at once
CORE_COVERAGE = 0.8  # of a pixel: its colour is the object's
NAMES = ("count", "x", "y", "area", "hue_error", "colour", "shape", "background")


class ObjectTrack:
    """Adds frames of a demo video, (side, side, 3) uint8, one at a time; keeps 64 bytes of each.

    ``scene``: a demo.Scene. ``of(name)``: one value a frame, NaN where no object is seen: ``count`` of objects, ``x``, ``y`` of the
    largest one's centre (pixels of a 32-pixel frame), its ``area`` (pixels), ``hue_error`` (its hue minus the prompt's, -180 to 180
    degrees), and whether ``colour``, ``shape`` and ``background`` are right (0 or 1).
    """

    def __init__(self, scene):
        self.scene, self._waiting = scene, []
        self._values = {name: array("d") for name in NAMES}

    def add(self, frame):
        """Adds the next frame. Raises ValueError for one that has not the demo's shape, see demo.quality.to_demo_size."""
        if not self._waiting:
            seen.to_demo_size(frame[None])
        self._waiting.append(frame)
        if len(self._waiting) == CHUNK_FRAMES:
            self._see()

    def of(self, name):
        """One value a frame, (frames,) float64."""
        self._see()
        return np.array(self._values[name])

    @property
    def centres(self):
        """(frames, 2), x and y in pixels."""
        return np.stack([self.of("x"), self.of("y")], axis=1)

    def _see(self):
        if not self._waiting:
            return
        video = seen.to_demo_size(np.stack(self._waiting).astype(np.float32) / 255)
        self._waiting = []
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


def jumps(centres, half_size_px):
    """By how much each step differs from the mean of the steps before and after it, (frames,) pixels; NaN at the ends.

    A jump of J pixels between frames t - 1 and t of a steady motion is J at t and J / 2 at its neighbours. An axis on which the centre
    is next to a wall in one of the four frames is left out, because bounces are there; NaN where both are.
    """
    low, high = half_size_px + seen.WALL_ZONE_PX, demo.FRAME_SIZE_PX - half_size_px - seen.WALL_ZONE_PX
    found = np.full(len(centres), np.nan)
    if len(centres) < 4:
        return found
    steps = np.diff(centres, axis=0)
    near = (centres < low) | (centres > high)
    differ = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    free = ~(near[:-3] | near[1:-2] | near[2:-1] | near[3:]) & np.isfinite(differ)
    lengths = np.sqrt((np.where(free, differ, 0) ** 2).sum(axis=1))
    found[2:-1] = np.where(free.any(axis=1), lengths, np.nan)
    return found


def track_metrics(track, facts):
    """``seam_jump_px``, ``other_jump_px``: the largest of ``jumps`` in latent frames that begin a block and in others, in the mean, ``longest_jump_px``: anywhere;
    ``object_count`` and ``area_px``: means, ``one_object``: share of frames with exactly one, ``area_spread``: standard deviation of the
    area over its mean, ``hue_error_deg``: mean distance from the prompt's hue, ``area_drift`` (a share) and ``hue_drift_deg``: last
    tenth against first. None: not known."""
    counts, area, hue = track.of("count"), track.of("area"), track.of("hue_error")
    found = jumps(track.centres, demo.half_sizes([track.scene]).item())
    largest = np.fmax.reduce(facts.by_latent(found), axis=1)  # the decoder spreads a jump over a latent frame, see seams.py
    seams = facts.is_seam(len(counts))
    return dict(
        seam_jump_px=_mean(largest[seams]), other_jump_px=_mean(largest[~seams]),
        longest_jump_px=float(np.nanmax(found)) if np.isfinite(found).any() else None,
        object_count=_mean(counts), one_object=_mean(counts == 1), area_px=_mean(area),
        area_spread=float(np.nanstd(area) / np.nanmean(area)) if np.isfinite(area).any() else None,
        hue_error_deg=_mean(np.abs(hue)), area_drift=relative(area), hue_drift_deg=difference(hue),
    )


def prompt_metrics(track):
    """Shares of frames in which what the prompt says is there: ``colour``, ``shape``, ``background``, and ``prompt``, all of them and
    one object."""
    parts = {name: track.of(name) for name in ("colour", "shape", "background")}
    right = (track.of("count") == 1) & np.all(list(parts.values()), axis=0)
    return {name: _mean(values) for name, values in (parts | {"prompt": right}).items()}


def _mean(values):
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
