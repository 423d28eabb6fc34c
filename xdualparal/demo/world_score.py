"""Scores frames against a scene of the second demo world: `score(frames, Scene.from_prompt(prompt))`.

Knows: what that world shows. Must not know: how frames were made.

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
COLOUR_TOLERANCE = 0.25  # RGB distance; neighbours in hue are 0.6 apart
AREA_TOLERANCE = 0.2  # of the true area; what the front object hides of the back one is more
LANE_TOLERANCE_PX = 2.0  # lanes are at least 9 apart
TEXTURE_TOLERANCE = 0.1  # root mean square; a plain grey is 0.17 from each texture at best
HIDDEN_SHARE = 0.15  # of an object's area: from here on one is in front of the other
PHASES = 64  # at which a fading is tried: one frame
PLACES, SMOOTHED_PLACES = 64, 8  # at which a texture is tried: 0.25 pixels; smoothed over 2 pixels on each side
PAN_TOLERANCE_PX = 0.15  # pixels a frame of 0.5
LONGEST_STEP_PX = 2.5  # twice the fastest object's
MEMORY_FRAMES = 8  # how many clear frames before and after a pass say what the objects were


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


@dataclass(frozen=True)
class Score:
    """Frames against a scene; NaN for what the frames do not show (no clear frame, no pass). Shares are of frames, 0 to 1.

    objects: share with one front and one back object. front_colour, back_colour, front_shape, back_shape: share that is as the prompt
    says, shapes of the back one where the objects do not touch. front_area, back_area: mean, 1 is the true area. fade_error: mean
    distance of the share of the second colour from the script (a random cycle is 0.25 to 0.35 away). texture: share with the right
    one. pan_px: median, pixels a frame to the right; pan_error_px: mean distance from the prompt's. in_front: share of frames in
    which one object hides some of the other where it is the front one that hides. identity: share of passes after which both objects are what they were.
    longest_step_px: of either object, pixels a frame.
    """

    objects: float
    front_colour: float
    back_colour: float
    front_shape: float
    back_shape: float
    front_area: float
    back_area: float
    fade_error: float
    texture: float
    pan_px: float
    pan_error_px: float
    in_front: float
    identity: float
    longest_step_px: float

    @property
    def all_right(self) -> bool:
        """Whether the frames are of the scene; what they do not show is no fault."""
        shares = (self.front_colour, self.back_colour, self.front_shape, self.back_shape, self.texture, self.in_front, self.identity)
        areas = (self.front_area, self.back_area)
        return (
            self.objects >= quality.ONE_OBJECT_SHARE
            and not any(share <= 0.5 for share in shares)
            and not any(abs(area - 1) > AREA_TOLERANCE for area in areas)
            and not self.fade_error > 0.15
            and not self.pan_error_px > PAN_TOLERANCE_PX
            and not self.longest_step_px > LONGEST_STEP_PX
        )


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
    mean = (video * mask[..., None]).sum(axis=(1, 2)) / _or_nan(mask.sum(axis=(1, 2)))[:, None]
    full = _or_nan(quality.chroma(mean[:, None, None])[:, 0, 0])  # the chroma of a pixel that is all object
    near = np.stack([quality.grown(frame) for frame in mask])
    cover = np.nan_to_num(np.clip(chroma / full[:, None, None], 0, 1) * near)
    centres = quality.centroids(cover)
    there = mask.any(axis=(1, 2))
    square = np.where(there, quality.looks_square(cover, centres), np.nan)
    area = np.where(there, cover.sum(axis=(1, 2)), np.nan)
    return Seen(_parts(mask), area, square, mean, centres, clear)


def _or_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)


def _parts(mask: np.ndarray) -> np.ndarray:
    """Counts connected parts of at least SMALLEST_OBJECT_PX, (frames,) int."""
    sizes = [np.unique(frame[frame > 0], return_counts=True)[1] for frame in quality.connected_labels(mask)]
    return np.array([(size >= SMALLEST_OBJECT_PX).sum() for size in sizes])


def fade_shares(colours: np.ndarray, scene: world.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of the second colour, (frames,) in 0..1, and the distance of each colour (frames, 3) from the fading's."""
    first, second = (np.array(world.COLOURS[name]) / 255 for name in (scene.front_colour, scene.turned_colour))
    way = second - first
    share = np.clip((colours - first) @ way / max(way @ way, 1e-9), 0, 1)
    return share, np.linalg.norm(colours - first - share[:, None] * way, axis=1)


def fade_error(shares: np.ndarray) -> float:
    """Returns the mean distance of ``shares`` (frames,) from the triangle wave of the best phase; NaN for no frames."""
    start = torch.arange(PHASES)[:, None] / PHASES
    script = world.turned_share(start + torch.arange(len(shares)) / world.COLOUR_PERIOD_FRAMES).numpy()
    return float(_mean(np.abs(script - shares), axis=1).min())


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


def pan_steps(shifts: np.ndarray) -> np.ndarray:
    """Returns how far a texture moves from frame to frame, (frames - 1,) pixels to the right, at most half a period."""
    half = world.TEXTURE_PERIOD_PX / 2
    return (np.diff(shifts) + half) % (2 * half) - half


def passes(clear: np.ndarray) -> list[tuple[int, int]]:
    """Returns first and end frame of each stretch of touching objects that has clear frames before and after it."""
    edges = np.flatnonzero(np.diff(clear.astype(int))) + 1
    return [(start, end) for start, end in zip(edges, edges[1:]) if not clear[start]]


def keeps_identity(seen: Seen, look: np.ndarray, start: int, end: int) -> bool:
    """Whether an object has its shape, area, lane and ``look`` after a pass, frames ``start`` to ``end``, as before it.

    ``look``: (frames, n), its colours, or how far they are from the fading, which goes on meanwhile.
    """
    def typical(values, frames):
        kept = seen.when_clear(values)[frames]
        return _mean(kept, axis=0)

    before, after = slice(max(0, start - MEMORY_FRAMES), start), slice(end, end + MEMORY_FRAMES)
    limits = (
        (seen.square, 0.5), (seen.area_px / np.pi / world.CIRCLE_RADIUS_PX**2, AREA_TOLERANCE),
        (seen.centres[:, 1], LANE_TOLERANCE_PX), (look, COLOUR_TOLERANCE),
    )
    return all(bool(np.all(np.abs(typical(v, after) - typical(v, before)) < limit)) for v, limit in limits)


def _mean(values: np.ndarray, axis=None) -> np.ndarray:
    """The mean of what is not NaN; NaN when all is."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis) / _or_nan(known.sum(axis))


def _areas(shape: str) -> float:
    return np.pi * world.CIRCLE_RADIUS_PX**2 if shape == "circle" else (2 * world.SQUARE_HALF_PX) ** 2


def score(frames: np.ndarray, scene: world.Scene) -> Score:
    """Scores a video, (frames, 64, 64, 3) float in 0..1 (values a little outside count as 0 and 1), against ``scene``.

    Raises ValueError for frames of another shape.
    """
    if frames.ndim != 4 or frames.shape[1:] != (world.FRAME_SIZE_PX, world.FRAME_SIZE_PX, 3) or not len(frames):
        raise ValueError(f"frames have shape {frames.shape}: give (frames, {world.FRAME_SIZE_PX}, {world.FRAME_SIZE_PX}, 3)")
    video = np.clip(np.asarray(frames, dtype=np.float32), 0, 1)
    front, back = observe(video, scene)
    found = {**_looks(front, back, scene), **_passing(front, back, scene), **_background(video, scene)}
    return Score(**{field.name: float(found[field.name]) for field in fields(Score)})


def _looks(front: Seen, back: Seen, scene: world.Scene) -> dict:
    shares, distance = fade_shares(front.colours, scene)
    own = np.array(world.COLOURS[scene.back_colour]) / 255
    clear_shape, clear_area = back.when_clear(back.square), back.when_clear(back.area_px)
    right = np.where(np.isnan(clear_shape), np.nan, clear_shape == (scene.back_shape == "square"))
    return {
        "objects": ((front.counts == 1) & (back.counts == 1)).mean(),
        "front_colour": (distance < COLOUR_TOLERANCE).mean(),
        "back_colour": (np.linalg.norm(back.colours - own, axis=1) < COLOUR_TOLERANCE).mean(),
        "front_shape": (front.square == (scene.front_shape == "square")).mean(),
        "back_shape": _mean(right),
        "front_area": _mean(front.area_px) / _areas(scene.front_shape),
        "back_area": _mean(clear_area) / _areas(scene.back_shape),
        "fade_error": fade_error(shares) if scene.turns else float("nan"),
    }


def _passing(front: Seen, back: Seen, scene: world.Scene) -> dict:
    hidden = [1 - front.area_px / _areas(scene.front_shape), 1 - back.area_px / _areas(scene.back_shape)]
    overlap = ~front.clear & (np.maximum(*hidden) > HIDDEN_SHARE)
    look = fade_shares(front.colours, scene)[1][:, None]
    kept = [keeps_identity(front, look, *each) and keeps_identity(back, back.colours, *each) for each in passes(front.clear)]
    centres = np.concatenate([front.centres, np.full((1, 2), np.nan), back.when_clear(back.centres)])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    return {
        "in_front": _mean(np.where(overlap, hidden[0] < hidden[1], np.nan)),
        "identity": _mean(np.array(kept, dtype=float)),
        "longest_step_px": np.max(steps, where=np.isfinite(steps), initial=-np.inf) if np.isfinite(steps).any() else np.nan,
    }


def _background(video: np.ndarray, scene: world.Scene) -> dict:
    errors, shifts = texture_fits(video)
    own = world.TEXTURES.index(scene.texture)
    steps = pan_steps(shifts[own])
    wanted = world.PAN_PX * world.PANS[scene.pan]
    return {
        "texture": ((errors.argmin(axis=0) == own) & (errors[own] < TEXTURE_TOLERANCE)).mean(),
        "pan_px": np.median(steps) if len(steps) else np.nan,
        "pan_error_px": _mean(np.abs(steps - wanted)),
    }
