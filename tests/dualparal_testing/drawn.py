"""Perfect videos of the first demo world, as arrays."""

import numpy as np
import torch

from xdualparal.demo import scenes as demo

SCENE = demo.Scene("circle", "red", "dark")


def drawn(scene, num_frames, seed=0):
    """A perfect video of ``scene``, (frames, 32, 32, 3) uint8."""
    clips, _ = demo.make_clips([scene], num_frames, torch.Generator().manual_seed(seed))
    return as_uint8(clips[0])


def at(scene, centres):
    """A video whose object is at ``centres``, a list of (x, y) in pixels."""
    clips, _ = demo.render([scene], torch.as_tensor(np.asarray(centres), dtype=torch.float32)[None])
    return as_uint8(clips[0])


def as_uint8(clip):
    return (clip.permute(1, 2, 3, 0) * 127.5 + 127.5).round().byte().numpy()

