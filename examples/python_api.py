"""DualParal from Python, without the launcher: one process a stage.

    torchrun --nproc_per_node 2 examples/python_api.py
"""

import os
from pathlib import Path

import torch

import xdualparal
from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform
from xdualparal.video import VideoWriter

enable_host_platform()  # before xfuser is imported; does nothing where there is an accelerator

from diffusers import WanPipeline
from xfuser import xFuserArgs

stages = int(os.environ["WORLD_SIZE"])
engine_config, _ = xFuserArgs(model="tiny-wan", pipefusion_parallel_degree=stages).create_config()

wan = WanPipeline.from_pretrained(Path(xdualparal.__file__).parent / "assets" / "tiny-wan")
pipeline = DualParalPipeline(wan, engine_config, DualParalConfig(block_latents=8, context_latents=4))

# Each segment is a finished block's frames, (frames, height, width, 3); other ranks than the last get none.
segments = pipeline.stream(
    prompt="a blue square on a light background", num_frames=161, height=32, width=32, num_inference_steps=50,
    guidance_scale=1.5, generator=torch.Generator().manual_seed(0),
)
if pipeline.is_output_rank:
    with VideoWriter("blue_square.mp4", fps=16) as video:
        for segment in segments:
            video.write(segment)
            print(f"{video.frames_written} frames", flush=True)
else:
    for _ in segments:
        pass

torch.distributed.destroy_process_group()
