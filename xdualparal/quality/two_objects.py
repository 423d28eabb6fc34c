"""What the two objects of a video of the second demo world do, and its background.

Knows: how that world is seen and scored (demo/world_score.py). Must not know: files, how a video was made.
"""

from functools import partial

import numpy as np

from ..demo import world, world_score
from ..demo.quality import to_demo_size
from ..demo.world_seen import Sight
from .drift import difference, relative
from .frames import Chunks
from .jumps import at_seams, jumps, seam_jumps
from .numbers import mean

to_world_size = partial(to_demo_size, size=world.FRAME_SIZE_PX)


class TwoObjectTrack:
    """Adds frames of a video of the second demo world, (side, side, 3) uint8, one at a time; keeps some 200 bytes of each.

    ``scene``: a demo.world.Scene.
    """

    def __init__(self, scene):
        self.scene, self._parts = scene, []
        self._chunks = Chunks(to_world_size, lambda video: self._parts.append(Sight.of(to_world_size(video), scene)))

    def add(self, frame):
        """Adds the next frame. Raises ValueError for one that has not the world's shape."""
        self._chunks.add(frame)

    @property
    def sight(self):
        """What all frames show."""
        self._chunks.flush()
        self._parts = [Sight.joined(self._parts)]
        return self._parts[0]

    def metrics(self, facts):
        """A dict of metrics; None: not known. ``facts``: where blocks meet.

        ``seam_jump_px``, ``other_jump_px``, ``longest_jump_px``: of either object, where it is not covered, see jumps.py;
        ``seam_pan_error_px``, ``other_pan_error_px``: likewise the steps of the background, see jumps.at_seams; what demo.world_score.Score
        has, and ``all_right`` (0 or 1); ``colour_error``: RGB distance of both objects from what the prompt allows, ``colour_drift``
        and ``area_drift`` (a share): last tenth against first; ``prompt``: share of frames in which all looks as the prompt says.
        """
        sight, scene = self.sight, self.scene
        score = world_score.score_of(sight, scene)
        colour, area = (both(of(sight.front, sight.back, scene)) for of in (world_score.colour_errors, world_score.areas))
        pan = at_seams(np.append(np.nan, world_score.pan_errors(sight, scene)), facts)
        right = [np.isnan(share := np.asarray(look, float)) | (share == 1) for look in world_score.looks(sight, scene).values()]
        return seam_jumps(self._jumps(), facts) | dict(
            seam_pan_error_px=pan[0], other_pan_error_px=pan[1],
            **{name: mean([value]) for name, value in vars(score).items()}, all_right=float(score.all_right),
            colour_error=mean(colour), colour_drift=difference(colour), area_drift=relative(area), prompt=mean(np.all(right, axis=0)),
        )

    def shown(self):
        """[(label, one value a frame)] for a plot."""
        sight, scene = self.sight, self.scene
        front, back = sight.front, sight.back
        steps = world_score.pan_steps(sight.shifts_px[world.TEXTURES.index(scene.texture)])
        return [
            ("x, px: front", front.centres[:, 0]), ("back", back.centres[:, 0]), ("y, px: front", front.centres[:, 1]), ("back", back.centres[:, 1]),
            ("area, px: front", front.area_px), ("back", back.area_px), ("colour error", both(world_score.colour_errors(front, back, scene))),
            (f"share of {scene.turned_colour}", world_score.fade_shares(front.colours, scene)[0]), ("pan, px a frame", np.append(np.nan, steps)),
            ("objects", front.counts + back.counts),
        ]

    def _jumps(self):
        """The larger one of both objects' jumps, (frames,) pixels; an object counts while nothing covers it."""
        centres = self.sight.front.centres, self.sight.back.when_clear(self.sight.back.centres)
        halves = world.half_sizes(world.objects([self.scene])).tolist()
        return np.fmax(*(jumps(one, half, world.FRAME_SIZE_PX) for one, half in zip(centres, halves)))


def both(values):
    """The mean over both objects, (frames,), of ``values`` (2 objects, frames): of one where the other is not known, else NaN."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
