"""What frames of the second demo world show, frame by frame: both objects, and where the texture is.

Knows: that world's colours and textures. Must not know: what is right (world_score.py), how frames were made.

The background is grey and objects are not, and the two objects are never near in hue: a pixel's chroma says how much of it an object
covers, its hue which. The texture's place is found by comparing what no object covers with the texture at every place.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from . import quality, world

OBJECT_CHROMA = 0.3  # half of the palest object's (orange and green, 0.59); backgrounds stay below 0.02
BACKGROUND_CHROMA = 0.1
SMALLEST_OBJECT_PX = 12  # fewer pixels are an artefact; an object has about 320
PLACES, SMOOTHED_PLACES = 64, 8  # at which a texture is tried: 0.25 pixels; smoothed over 2 pixels on each side


@dataclass(frozen=True)
class Seen:
    """One object, frame by frame; NaN in a frame without it. ``clear``: the objects do not touch, (frames,) bool.

    counts: (frames,) connected parts. area_px, square (1.0 or 0.0): (frames,). colours: (frames, 3) in 0..1. centres: (frames, 2), x
    and y in pixels, of what is visible.
    """

    counts: np.ndarray
    area_px: np.ndarray
    square: np.ndarray
    colours: np.ndarray
    centres: np.ndarray
    clear: np.ndarray

    def when_clear(self, values: np.ndarray) -> np.ndarray:
        """Returns ``values`` (frames, ...) with NaN in frames where the objects touch."""
        return np.where(self.clear.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)


    @classmethod
    def joined(cls, parts: list[Seen]) -> Seen:
        """Puts stretches of frames behind each other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Sight:
    """What frames show: the front and the back object, and each texture's fit, (3 textures, frames), as texture_fits says."""

    front: Seen
    back: Seen
    texture_errors: np.ndarray
    shifts_px: np.ndarray

    @classmethod
    def of(cls, video: np.ndarray, scene: world.Scene) -> Sight:
        """Looks at a video (frames, 64, 64, 3) float in 0..1; ``scene`` says which colours are whose. Each frame by itself."""
        return cls(*observe(video, scene), *texture_fits(video))

    @classmethod
    def joined(cls, parts: list[Sight]) -> Sight:
        """Puts stretches of frames behind each other."""
        objects = (Seen.joined([getattr(part, name) for part in parts]) for name in ("front", "back"))
        return cls(*objects, *(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("texture_errors", "shifts_px")))


def hues(video: np.ndarray) -> np.ndarray:
    """Computes hues (frames, h, w) in degrees of a video (frames, h, w, 3); without meaning where there is no chroma."""
    angles = np.deg2rad([0, 120, 240])
    return np.rad2deg(np.arctan2(video @ np.sin(angles), video @ np.cos(angles))) % 360


def is_back(video: np.ndarray, scene: world.Scene) -> np.ndarray:
    """Tells pixels of the back object from those of the front one by hue, (frames, h, w) bool: within 60 degrees of its own."""
    own = hues(np.array(world.COLOURS[scene.back_colour]) / 255)
    return np.abs((hues(video) - own + 180) % 360 - 180) < 60


def observe(video: np.ndarray, scene: world.Scene) -> tuple[Seen, Seen]:
    """Finds the front and the back object in a video (frames, 64, 64, 3) float in 0..1."""
    chroma, back = quality.chroma(video), is_back(video, scene)
    colourful = chroma > OBJECT_CHROMA
    masks = [colourful & ~back, colourful & back]
    touching = (np.stack([quality.grown(quality.grown(mask)) for mask in masks[0]]) & masks[1]).any(axis=(1, 2))
    return tuple(_seen(video, chroma * (back == (i == 1)), mask, ~touching) for i, mask in enumerate(masks))


def _seen(video: np.ndarray, chroma: np.ndarray, mask: np.ndarray, clear: np.ndarray) -> Seen:
    mean = (video * mask[..., None]).sum(axis=(1, 2)) / or_nan(mask.sum(axis=(1, 2)))[:, None]
    full = or_nan(quality.chroma(mean[:, None, None])[:, 0, 0])  # the chroma of a pixel that is all object
    near = np.stack([quality.grown(frame) for frame in mask])
    cover = np.nan_to_num(np.clip(chroma / full[:, None, None], 0, 1) * near)
    centres = quality.centroids(cover)
    there = mask.any(axis=(1, 2))
    square = np.where(there, quality.looks_square(cover, centres), np.nan)
    area = np.where(there, cover.sum(axis=(1, 2)), np.nan)
    return Seen(_parts(mask), area, square, mean, centres, clear)


def or_nan(values: np.ndarray) -> np.ndarray:
    """Returns ``values`` with NaN where they are not positive."""
    return np.where(values > 0, values, np.nan)


def _parts(mask: np.ndarray) -> np.ndarray:
    """Counts connected parts of at least SMALLEST_OBJECT_PX, (frames,) int."""
    sizes = [np.unique(frame[frame > 0], return_counts=True)[1] for frame in quality.connected_labels(mask)]
    return np.array([(size >= SMALLEST_OBJECT_PX).sum() for size in sizes])


def texture_fits(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds each texture's best place in each frame: errors (root mean square, inf in a frame without background) and shifts in
    pixels, both (3 textures, frames).

    A shift is found with the texture smoothed along the pan: sharp edges fit a blurred frame best half a pixel beside the right place.
    """
    free = (quality.chroma(video) < BACKGROUND_CHROMA).reshape(len(video), -1).astype(np.float32)
    grey = video.mean(axis=-1).reshape(len(video), -1)
    places = torch.arange(PLACES) * world.TEXTURE_PERIOD_PX / PLACES
    errors, shifts = [], []
    for texture in world.TEXTURES:
        drawn = world.background(texture, places).mean(dim=0).flatten(1).numpy().T
        smooth = np.mean([np.roll(drawn, n, axis=1) for n in range(-SMOOTHED_PLACES, SMOOTHED_PLACES + 1)], axis=0)
        errors.append(_square_errors(free, grey, drawn).min(axis=1))
        shifts.append(_best_place(_square_errors(free, grey, smooth)) * world.TEXTURE_PERIOD_PX / PLACES)
    area = free.sum(axis=1)
    mean = np.where(area > 0, np.array(errors).clip(0) / np.maximum(area, 1), np.inf)
    return np.sqrt(mean), np.array(shifts)


def _best_place(errors: np.ndarray) -> np.ndarray:
    """Returns where in a cycle the errors (frames, places) are least, (frames,) in places: the vertex of a parabola through three."""
    frames, best = np.arange(len(errors)), errors.argmin(axis=1)
    left, middle, right = (errors[frames, (best + n) % errors.shape[1]] for n in (-1, 0, 1))
    bend = left - 2 * middle + right
    return best + np.where(bend > 0, (left - right) / np.maximum(2 * bend, 1e-9), 0)


def _square_errors(free: np.ndarray, grey: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Sums square errors over free pixels, (frames, places): ``free``, ``grey`` (frames, pixels), ``drawn`` (pixels, places)."""
    return free @ drawn**2 - 2 * (free * grey) @ drawn + (free * grey**2).sum(axis=1, keepdims=True)
