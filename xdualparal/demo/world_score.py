"""Scores frames against a scene of the second demo world: `score(frames, Scene.from_prompt(prompt))`.

Knows: what is right. Must not know: how frames were made, nor how what they show is found (world_seen.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from . import quality, world
from .world_seen import Seen, Sight, or_nan

COLOUR_TOLERANCE = 0.25  # RGB distance; neighbours in hue are 0.6 apart
AREA_TOLERANCE = 0.2  # of the true area; what the front object hides of the back one is more
LANE_TOLERANCE_PX = 2.0  # lanes are at least 9 apart
TEXTURE_TOLERANCE = 0.1  # root mean square; a plain grey is 0.17 from each texture at best
HIDDEN_SHARE = 0.15  # of an object's area: from here on one is in front of the other
PHASES = 64  # at which a fading is tried: one frame
PAN_TOLERANCE_PX = 0.15  # pixels a frame of 0.5
LONGEST_STEP_PX = 2.5  # twice the fastest object's
MEMORY_FRAMES = 8  # how many clear frames before and after a pass say what the objects were


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
    return np.where(known, values, 0).sum(axis) / or_nan(known.sum(axis))


def _areas(shape: str) -> float:
    return np.pi * world.CIRCLE_RADIUS_PX**2 if shape == "circle" else (2 * world.SQUARE_HALF_PX) ** 2


def score(frames: np.ndarray, scene: world.Scene) -> Score:
    """Scores a video, (frames, 64, 64, 3) float in 0..1 (values a little outside count as 0 and 1), against ``scene``.

    Raises ValueError for frames of another shape.
    """
    if frames.ndim != 4 or frames.shape[1:] != (world.FRAME_SIZE_PX, world.FRAME_SIZE_PX, 3) or not len(frames):
        raise ValueError(f"frames have shape {frames.shape}: give (frames, {world.FRAME_SIZE_PX}, {world.FRAME_SIZE_PX}, 3)")
    return score_of(Sight.of(np.clip(np.asarray(frames, dtype=np.float32), 0, 1), scene), scene)


def score_of(sight: Sight, scene: world.Scene) -> Score:
    """Scores what frames show against ``scene``."""
    found = {name: _mean(np.asarray(share, float)) for name, share in looks(sight, scene).items()}
    found |= _sizes(sight, scene) | _passing(sight.front, sight.back, scene) | _pan(sight, scene)
    return Score(**{field.name: float(found[field.name]) for field in fields(Score)})


def looks(sight: Sight, scene: world.Scene) -> dict[str, np.ndarray]:
    """Tells, frame by frame, whether each of Score's looks is right: bool (frames,); the back object's shape is NaN where it is covered."""
    front, back, own = sight.front, sight.back, world.TEXTURES.index(scene.texture)
    clear_shape = back.when_clear(back.square)
    return {
        "objects": (front.counts == 1) & (back.counts == 1),
        "front_colour": colour_errors(front, back, scene)[0] < COLOUR_TOLERANCE,
        "back_colour": colour_errors(front, back, scene)[1] < COLOUR_TOLERANCE,
        "front_shape": front.square == (scene.front_shape == "square"),
        "back_shape": np.where(np.isnan(clear_shape), np.nan, clear_shape == (scene.back_shape == "square")),
        "texture": (sight.texture_errors.argmin(axis=0) == own) & (sight.texture_errors[own] < TEXTURE_TOLERANCE),
    }


def colour_errors(front: Seen, back: Seen, scene: world.Scene) -> np.ndarray:
    """Returns RGB distances, (2 objects, frames): the front one's from the nearest colour of its fading, the back one's from its own."""
    own = np.array(world.COLOURS[scene.back_colour]) / 255
    return np.stack([fade_shares(front.colours, scene)[1], np.linalg.norm(back.colours - own, axis=1)])


def areas(front: Seen, back: Seen, scene: world.Scene) -> np.ndarray:
    """Returns areas, (2 objects, frames), 1 is the true one; the back one's is NaN where it is covered."""
    return np.stack([front.area_px / _areas(scene.front_shape), back.when_clear(back.area_px) / _areas(scene.back_shape)])


def pan_errors(sight: Sight, scene: world.Scene) -> np.ndarray:
    """Returns by how much each step of the prompt's texture is not the prompt's, (frames - 1,) pixels."""
    return np.abs(pan_steps(sight.shifts_px[world.TEXTURES.index(scene.texture)]) - world.PAN_PX * world.PANS[scene.pan])


def _sizes(sight: Sight, scene: world.Scene) -> dict:
    front, back = _mean(areas(sight.front, sight.back, scene), axis=1)
    fading = fade_error(fade_shares(sight.front.colours, scene)[0]) if scene.turns else float("nan")
    return {"front_area": front, "back_area": back, "fade_error": fading}


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


def _pan(sight: Sight, scene: world.Scene) -> dict:
    steps = pan_steps(sight.shifts_px[world.TEXTURES.index(scene.texture)])
    return {"pan_px": np.median(steps) if len(steps) else np.nan, "pan_error_px": _mean(pan_errors(sight, scene))}
