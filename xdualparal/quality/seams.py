"""Whether blocks can be seen where they meet.

Knows: one figure a frame, and where blocks begin. Must not know: pictures, files.
"""

import numpy as np


def seam_metrics(series, facts):
    """How visible seams are, a dict; empty where the sizes of blocks are not known or there is no seam.

    The steps into and through a latent frame that begins a block are compared with those of other latent frames. All of its frames,
    because the VAE's decoder spreads a jump between latent frames over them: with no context the largest step is at the second or
    third one. ``seam_<which>_ratio``: the mean first (second) difference there over that at the others; 1: no difference, None:
    the others do not move. ``seam_<which>_rank``: of the B phases that seams could have (latent frame modulo B) the place of the true
    one by this ratio, 1 (the most visible) to B, ties shared; by chance (B + 1) / 2. Clips, of which there are few, have no ranks.

    Our mp4s begin each block with a key frame, which compression shows: 24 drawn videos of 257 frames, B = 8, C = 4, have a second ratio
    of 1.008 and a mean rank of 3.8 as arrays, 1.005 and 4.0 at rate factor 0 (lossless), 1.034 and 3.0 at 18.
    """
    latents, _ = facts.boundaries(len(series))
    seams = facts.seams(len(series))
    if not len(seams) or facts.block_latents == 1:
        return {}
    is_seam, result = facts.is_seam(len(series)), dict(seams=len(seams))
    for which in ("first", "second"):
        means = np.array([_mean(row) for row in facts.by_latent(series.of(f"{which}_difference"))])
        result[f"seam_{which}_ratio"] = _known(phase_ratios(means, is_seam.astype(int), 2)[1])
        if facts.block_latents is not None:
            ratios = phase_ratios(means, latents % facts.block_latents, facts.block_latents)
            result |= {"phases": facts.block_latents, f"seam_{which}_rank": _rank(ratios, facts.seam_phase)}
    return result


def phase_ratios(values, phases, count):
    """For each phase 0 to ``count`` - 1: the mean of ``values``, one a latent boundary, of that phase over that of the others."""
    ratios = np.full(count, np.nan)
    for phase in range(count):
        mine = values[(phases == phase) & np.isfinite(values)]
        others = values[(phases != phase) & np.isfinite(values)]
        if len(mine) and len(others) and others.mean() > 0:
            ratios[phase] = mine.mean() / others.mean()
        elif len(mine) and len(others) and mine.mean() > 0:
            ratios[phase] = np.inf
    return ratios


def _mean(values):
    known = values[np.isfinite(values)]
    return known.mean() if len(known) else np.nan


def _rank(ratios, phase):
    if np.isnan(ratios[phase]):
        return None
    return float(1 + (ratios > ratios[phase]).sum() + ((ratios == ratios[phase]).sum() - 1) / 2)


def _known(value):
    return float(value) if np.isfinite(value) else None
