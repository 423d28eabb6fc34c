"""Whether the places can be told where the demo model's videos go on from one that was finished.

    python examples/measure_continuing.py FILE.json [--prompts 30] [--num_inference_steps 25] [--given_noise 0]

Each prompt's video has 129 frames, and is continued twice by 64 from its latents. The metrics are those of `xdit-dualparal quality` with
the two joins as its seams: first differences there over those at other latent frames, the rank of their place among the 16 that they could have, how far
the object jumps; means and 95 % intervals over the prompts. FILE.json has all of them.
"""

import argparse
import json
import os
import socket
from pathlib import Path

import torch

FIRST, MORE, BLOCK, CONTEXT, DEMO = 129, 64, 8, 4, Path(__file__).parents[1] / "xdualparal" / "demo" / "tiny-wan"
SHOWN = "seam_first_ratio", "seam_second_ratio", "seam_first_rank", "seam_jump_px", "other_jump_px", "longest_jump_px", "one_object", "prompt"


def main():
    """Makes the videos and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("--prompts", type=int, default=30, help="default: 30")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="default: 25")
    parser.add_argument("--given_noise", type=float, default=0.0, help="of the DualParalConfig (default: 0)")
    arguments = parser.parse_args()
    if arguments.json.exists():
        parser.error(f"{arguments.json} exists: give another name")
    pipeline = demo_pipeline(arguments.given_noise)

    from xdualparal.quality.statistics import summary, table
    from xdualparal.quality.worlds import WORLDS

    videos = []
    for number, scene in enumerate(WORLDS[0].evaluation_scenes(arguments.prompts)):
        frames = continued_twice(pipeline, scene.prompt, arguments.num_inference_steps, seed=number)
        videos.append(dict(prompt=scene.prompt, seed=number, metrics=metrics_at_joins(frames, scene)))
        print(f"{number + 1} of {arguments.prompts}: {scene.prompt}", flush=True)
    arguments.json.write_text(json.dumps(dict(videos=videos), indent=1))
    print(table({name: estimate for name, estimate in summary(videos).items() if name in SHOWN}))


def demo_pipeline(given_noise):
    """A DualParalPipeline of the demo model on this process."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=str(probe.getsockname()[1]))
    from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform

    enable_host_platform()
    from diffusers import WanPipeline
    from xfuser import xFuserArgs

    engine, _ = xFuserArgs(model=str(DEMO)).create_config()
    return DualParalPipeline(WanPipeline.from_pretrained(DEMO), engine, DualParalConfig(BLOCK, CONTEXT, given_noise=given_noise))


def continued_twice(pipeline, prompt, steps, seed):
    """The frames of the three videos one behind the other, uint8 (frames, height, width, 3)."""
    latents = []
    for number, frames in enumerate((FIRST, MORE, MORE)):
        given = dict(continue_latents=latents[-1]) if latents else {}
        latents.append(pipeline(
            prompt=prompt, num_frames=frames, height=32, width=32, num_inference_steps=steps, guidance_scale=1.5,
            generator=torch.Generator().manual_seed(3 * seed + number), output_type="latent", **given,
        ).frames)
    video = pipeline.family.decode_at_once(pipeline.pipe.vae, torch.cat(latents, dim=2))
    return ((video / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)[0].movedim(0, -1).numpy()


def metrics_at_joins(frames, scene):
    """The metrics of quality, with the joins as the only seams."""
    from xdualparal.quality.facts import VideoFacts
    from xdualparal.quality.measure import measure_video

    return measure_video(frames, VideoFacts(MORE // 4, CONTEXT, continues_at=FIRST), scene)


if __name__ == "__main__":
    main()
