"""DualParal from Python, without the launcher. One process a GPU; xDiT's degrees multiply to their number.

With R="examples/python_api.py --model xdualparal/demo/tiny-wan --pipefusion_parallel_degree 2":

2 GPUs     torchrun --nproc_per_node 2 $R
4 GPUs     torchrun --nproc_per_node 4 $R --ulysses_degree 2
8 GPUs     torchrun --nproc_per_node 8 $R --ulysses_degree 2 --use_cfg_parallel
two nodes  torchrun --nproc_per_node 4 --nnodes 2 --node_rank RANK --master_addr ADDRESS $R --ulysses_degree 4

That is the demo model; for a real one give, for example, --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --height 480
--width 832 --num_frames 801 --guidance_scale 5 --prompt "a ship in a storm".
"""

import os
import sys
import tempfile
from pathlib import Path

if "RANK" not in os.environ:
    print(f"{__file__} is started by torchrun, for example: torchrun --nproc_per_node 1 {__file__} --model FOLDER", file=sys.stderr)
    sys.exit(2)

import torch

from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform
from xdualparal.output.mp4 import VideoWriter

enable_host_platform()  # before xfuser is imported; does nothing where there is an accelerator

from diffusers import WanPipeline
from xfuser import xFuserArgs
from xfuser.config import FlexibleArgumentParser

parser = xFuserArgs.add_cli_args(FlexibleArgumentParser())
parser.add_argument("--video", type=Path, help="the mp4 (default: in a new temporary folder)")
parser.set_defaults(
    prompt=["a blue square on a light background"], num_frames=161, height=32, width=32, num_inference_steps=50,
    guidance_scale=1.5,
)
arguments = parser.parse_args()
engine_config, options = xFuserArgs.from_cli_args(arguments).create_config()

dtype = torch.bfloat16 if torch.accelerator.is_available() else torch.float32
wan = WanPipeline.from_pretrained(engine_config.model_config.model, torch_dtype=dtype)
pipeline = DualParalPipeline(wan, engine_config, DualParalConfig(block_latents=8, context_latents=4))

# Each segment is a finished block's frames, (frames, height, width, 3); other ranks than the output's get none.
segments = pipeline.stream(
    prompt=options.prompt, num_frames=options.num_frames, height=options.height, width=options.width,
    num_inference_steps=options.num_inference_steps, guidance_scale=options.guidance_scale,
    generator=torch.Generator().manual_seed(options.seed),
)
if pipeline.is_output_rank:
    path = arguments.video or Path(tempfile.mkdtemp(prefix="xdualparal-video"), "video.mp4")
    with VideoWriter(path, fps=16) as video:
        for segment in segments:
            video.write(segment)
            print(f"{video.frames_written} frames are in {path}", flush=True)
else:
    for _ in segments:
        pass

torch.distributed.destroy_process_group()
