"""A video of its segments, and several videos as one value, in the form of each output type.

Knows: the output types. Must not know: how segments are made.
"""

import numpy as np
import torch


def join_segments(segments, output_type):
    """One video of its ``segments``, None without any."""
    if not segments:
        return None
    if output_type == "pil":
        return [image for segment in segments for image in segment]
    if output_type == "latent":
        return torch.cat(segments, dim=2)[0]
    return torch.cat(segments) if output_type == "pt" else np.concatenate(segments)


def stack_videos(videos, output_type):
    """Videos as a call returns them: stacked, or a list of lists of images."""
    if output_type == "pil":
        return videos
    return np.stack(videos) if output_type in ("np", "uint8") else torch.stack(videos)
