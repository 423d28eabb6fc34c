"""xDiT's own runs, without DualParal, in this launcher.

Knows: what xDiT 0.7.0 lacks to begin and end such a run. Must not know: DualParal.
"""

from importlib.util import find_spec

import numpy as np
import torch
from xfuser.model_executor.models.runner_models import base_model
from xfuser.model_executor.models.runner_models.loading import placement

from ..output.mp4 import VideoWriter


def complete(config):
    """Lets the model of ``config``, xDiT's xFuserArgs, run on the CPU, and have its video saved without imageio and OpenCV.

    xDiT saves with diffusers' export_to_video, which needs one of them, and requires neither: a video that was computed would be lost.
    """
    if not (find_spec("cv2") or (find_spec("imageio") and find_spec("imageio_ffmpeg"))):
        base_model.export_to_video = export_to_video
    if not torch.accelerator.is_available():
        placement.place_pipeline_components = fill_on_the_host
        if (config.ring_degree or 1) > 1:
            config.attention_backend = config.attention_backend or "SDPA_FLASH"  # see compat/host.py


def fill_on_the_host(loader):
    """Instead of placement.place_pipeline_components, which moves the pipeline to a CUDA device: weights are read where they are used."""
    loader.fill_eager_transformers()
    if loader.replicated_broadcast_load():
        loader.broadcast_fill_replicated(offload_requested=False)


def export_to_video(frames, path, fps):
    """Writes ``frames``, (frames, height, width, 3) in 0..1 or a list of images, to ``path``, which is replaced as xDiT does."""
    with VideoWriter(path, fps, overwrite=True) as writer:
        writer.write(np.stack([np.asarray(frame) for frame in frames]))
