"""What clips of a demo world do that were drawn, not generated: how much they repeat themselves.

Knows: how a world draws a clip. Must not know: generated videos.
"""

from functools import lru_cache

import numpy as np

from .repetition import loop_metrics
from .series import thumbnail
from .worlds import world_of

CLIPS = 8
SEED = 13


@lru_cache(maxsize=256)
def reference_loop_share(scene, anchors, stride):
    """The mean ``loop_share`` of CLIPS drawn clips of ``scene``, with ``anchors`` thumbnails ``stride`` frames apart; None where a clip
    is too short for one. The same for equal arguments."""
    shares = []
    for clip in range(CLIPS):
        pictures = world_of(scene).clip(scene, anchors * stride, SEED + clip, stride)
        shares.append(loop_metrics(np.array([thumbnail(picture) for picture in pictures]), stride)["loop_share"])
    return None if None in shares else float(np.mean(shares))
