"""Steps of an object that its motion does not explain, and whether they are where blocks meet.

Knows: centres of objects between walls. Must not know: how they are seen, files.
"""

import numpy as np

from ..demo.quality import WALL_ZONE_PX
from .numbers import mean


def jumps(centres, half_size_px, side_px):
    """By how much each step differs from the mean of the steps before and after it, (frames,) pixels; NaN at the ends.

    ``centres``: (frames, 2); ``half_size_px``: of the object's extent, ``side_px``: of the frame. A jump of J pixels between frames t - 1
    and t of a steady motion is J at t and J / 2 at its neighbours. An axis on which the centre is next to a wall in one of the four
    frames is left out, because bounces are there; NaN where both are.
    """
    low, high = half_size_px + WALL_ZONE_PX, side_px - half_size_px - WALL_ZONE_PX
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


def at_seams(values, facts):
    """(at seams, elsewhere): the mean of the largest of ``values``, one a frame, in the latent frames that begin a block, and in others.

    In latent frames, because the decoder spreads a jump over one, see seams.py. None: not known.
    """
    largest, seams = np.fmax.reduce(facts.by_latent(values), axis=1), facts.is_seam(len(values))
    return mean(largest[seams]), mean(largest[~seams])


def seam_jumps(found, facts):
    """``seam_jump_px``, ``other_jump_px``: see ``at_seams``, of what ``jumps`` found; ``longest_jump_px``: anywhere."""
    seam, other = at_seams(found, facts)
    longest = float(np.nanmax(found)) if np.isfinite(found).any() else None
    return dict(seam_jump_px=seam, other_jump_px=other, longest_jump_px=longest)
