"""``xdit-dualparal decode FILE``: the video of latents that ``--dualparal_latents_out`` kept.

Knows: the file of latents, the models' VAEs, and the mp4. Must not know: how latents were made. One process does it.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.video_processor import VideoProcessor
from tqdm.auto import tqdm

from ..launch.errors import refuse
from ..models.wan_vae import StreamingDecoder
from ..models.weights import checkpoint_folder
from ..output.latents_file import read_latents
from ..output.mp4 import QUALITY, VideoWriter
    tags = tags_of({**json.loads(facts.get("spec", "{}")), "quality": arguments.quality})
    file = VideoWriter(output, model.settings.fps, arguments.quality, label=facts.get("label", ""), tags=tags, overwrite=True)
    with ThreadedWriter(file) as writer:
        for _, latents in tqdm(read_latents(arguments.file), unit="block"):
            frames = decoder.decode(latents.to(device))
            if missing is not None:
                frames = frames[:, :, :missing]
                missing -= frames.shape[2]
            writer.write(as_uint8(processor.postprocess_video(frames, output_type="pt")[0]))
    return writer.frames_written
