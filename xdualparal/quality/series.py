"""A video as one figure a frame: what all metrics are made of.

Knows: frames. Must not know: blocks, scenes, files.
"""

from array import array

import numpy as np

from .frames import EvenlySpaced

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709-6, item 3.2
MOST_ANCHORS = 1024  # thumbnails that are compared with each other: a third of a megapixel of comparisons a video of any length
THUMBNAIL_PX = 16
CHANGED_LEVELS = 3  # of 255: what H.264 at rate factor 18 leaves of a still picture is below it
NAMES = ("luminance", "saturation", "sharpness", "first_difference", "second_difference", "changed_share")


class Series:
    """Adds frames, (height, width, 3) uint8, one at a time; keeps 48 bytes of each and at most MOST_ANCHORS thumbnails.

    ``of(name)``: a float array, one value a frame, NaN where there is none. ``luminance`` and ``saturation`` (largest channel minus
    smallest): means over pixels, 0 to 1. ``sharpness``: mean distance in luminance of pixels side by side, 0 to 1.
    ``first_difference``: mean over pixels and channels of |f[t] - f[t-1]|, ``second_difference``: of |f[t] - 2 f[t-1] + f[t-2]|,
    0 to 1. ``changed_share``: pixels that changed by more than CHANGED_LEVELS in a channel since the frame before, 0 to 1.
    ``anchor_stride`` frames are from one of the ``anchors`` (thumbnails) to the next.
    """

    def __init__(self, anchor_stride=4):
        self._values = {name: array("d") for name in NAMES}
        self._before = self._step_before = None
        self._thumbnails = EvenlySpaced(MOST_ANCHORS, anchor_stride)

    def __len__(self):
        return len(self._values[NAMES[0]])

    def add(self, frame):
        """Adds the next frame. Raises ValueError for one of another size or kind than (height, width, 3) uint8."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is {frame.dtype} {frame.shape}: give uint8 (height, width, 3)")
        if self._before is not None and frame.shape != self._before.shape:
            raise ValueError(f"frame {len(self)} is {frame.shape[:2]} and those before it {self._before.shape[:2]}: give one size")
        for name, value in (_looks(frame) | self._steps(frame)).items():
            self._values[name].append(value)
        if self._thumbnails.wants_next():
            self._thumbnails.keep(thumbnail(frame))

    def of(self, name):
        """One value a frame, (frames,) float64."""
        return np.array(self._values[name])

    @property
    def anchors(self):
        """(anchors, THUMBNAIL_PX, THUMBNAIL_PX, 3) float32, 0 to 1."""
        return np.array(self._thumbnails.values, np.float32)

    @property
    def anchor_stride(self):
        """Frames from an anchor to the next."""
        return self._thumbnails.stride

    def _steps(self, frame):
        step = None if self._before is None else frame.astype(np.int16) - self._before
        values = dict.fromkeys(NAMES[3:], np.nan)
        if step is not None:
            size = np.abs(step)
            values |= dict(first_difference=size.mean() / 255, changed_share=(size.max(axis=2) > CHANGED_LEVELS).mean())
        if self._step_before is not None:
            values["second_difference"] = np.abs(step - self._step_before).mean() / 255
        self._before, self._step_before = frame, step
        return values


def _looks(frame):
    light = frame.astype(np.float32) @ LUMA
    saturation = (frame.max(axis=2) - frame.min(axis=2)).mean()
    edges = [np.abs(np.diff(light, axis=axis)) for axis in (0, 1)]
    sharpness = sum(e.sum() for e in edges) / max(1, sum(e.size for e in edges))
    return dict(luminance=light.mean() / 255, saturation=saturation / 255, sharpness=sharpness / 255)


def thumbnail(frame):
    """The means of the cells of a grid of at most THUMBNAIL_PX by THUMBNAIL_PX cells, float32, 0 to 1."""
    means = frame.astype(np.float32) / 255
    for axis in (0, 1):
        starts = np.unique(np.linspace(0, frame.shape[axis], THUMBNAIL_PX, endpoint=False).astype(int))
        lengths = np.diff(np.append(starts, frame.shape[axis]))
        means = np.add.reduceat(means, starts, axis=axis) / np.expand_dims(lengths, (1 - axis, 2)).astype(np.float32)
    return means
