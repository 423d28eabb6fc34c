"""What clips of the demo world do that were drawn, not generated: how much they repeat themselves.

Knows: the demo world's scenes. Must not know: generated videos.
"""

from functools import lru_cache

import numpy as np
import torch

from ..demo import scenes as demo
from .repetition import loop_metrics
from .series import thumbnail

CLIPS = 8
SEED = 13


@lru_cache(maxsize=256)
def reference_loop_share(scene, anchors, stride):
    """The mean ``loop_share`` of CLIPS drawn clips of ``scene``, with ``anchors`` thumbnails ``stride`` frames apart; None where a clip
    is too short for one. The same for equal arguments."""
    shares = []
    for clip in range(CLIPS):
        motion = demo.random_motion(1, torch.Generator().manual_seed(SEED + clip))
        path = demo.trajectory(motion, demo.half_sizes([scene]), anchors * stride)[:, ::stride]
        frames, _ = demo.render([scene], path)
        pictures = (frames[0].permute(1, 2, 3, 0) * 127.5 + 127.5).round().byte().numpy()
        shares.append(loop_metrics(np.array([thumbnail(picture) for picture in pictures]), stride)["loop_share"])
    return None if None in shares else float(np.mean(shares))
