"""How fast passes follow each other when the pipeline is full.

Knows: the waves of DualParal's passes. Must not know: where a trace comes from.
"""

from collections import Counter
from itertools import pairwise

from .actions import STEP

FRAMES_A_LATENT = 4  # video frames: Wan's VAE (DESIGN section 2)


def steady_pass_s(trace, stagger=1):
    """The mean time, in the trace's unit, from the end of one pass to that of the next on the last stage, in the steady part: waves
    that have, like the wave before, at least as many passes as there are stages. So fill and drain are left out, and waits in
    between are not. The last block's passes are left out too: it may be shorter. None where the trace has no such part.

    Decoding counts where it delays passes: in the last stage, or on a CPU by sharing its cores. Before the first block is finished there
    is none, so compare lengths with decoding at the end (--dualparal_decode end).

    ``trace``: a Trace of one video. ``stagger``: waves from block to block.
    """
    steps = [span for span in trace.stages[-1] if span.action.kind == STEP]
    waves = [span.action.block * stagger + span.action.step for span in steps]
    passes, last = Counter(waves), max((span.action.block for span in steps), default=0)
    full = {wave for wave, number in passes.items() if number >= len(trace.stages)}
    times = [
        span.end - before.end
        for (before, _), (span, wave) in pairwise(zip(steps, waves))
        if {wave - 1, wave} <= full and span.action.block != last
    ]
    return sum(times) / len(times) if times else None


def steady_s_per_frame(pass_s, num_steps, block_latents):
    """Seconds a video frame takes in the steady part: a block of ``block_latents`` latent frames leaves every ``num_steps`` passes."""
    return pass_s * num_steps / (FRAMES_A_LATENT * block_latents)
