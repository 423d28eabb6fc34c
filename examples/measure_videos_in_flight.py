"""How long 4 stages wait with 4 steps, for one video at a time and for two side by side, and that their bytes are equal.

    python examples/measure_videos_in_flight.py [--runs 3] [--pass_s 0.1] [--num_frames 257]

Real processes and messages of the demo model, without guidance. A pass sleeps after it has computed until --pass_s seconds have gone,
so that stages that share CPU cores take as long as each on a device of its own; what is measured is waiting, not speed.
"""

import argparse
import os
import socket
import statistics
import time

import torch
import torch.multiprocessing as multiprocessing

STAGES, STEPS, PROMPTS = 4, 4, ["a red circle on a dark background", "a blue square on a light background"]


def main():
    """Prints the share of the stages' time in which they wait, measured and simulated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pass_s", type=float, default=0.1, help="seconds of a pass on a stage (default: 0.1)")
    parser.add_argument("--num_frames", type=int, default=257)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    results = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(run_rank, (port, arguments, results), nprocs=STAGES)
    ranks = [results.get() for _ in range(STAGES)]
    for videos in (1, 2):
        shares = [1 - sum(rank[videos][run][0] for rank in ranks) / sum(rank[videos][run][1] for rank in ranks) for run in range(arguments.runs)]
        print(f"{videos} in flight: stages wait {statistics.median(shares):.1%} of the time, {simulated(videos, arguments.num_frames):.1%} by the schedule")
    print("equal bytes:", all(rank["equal"] for rank in ranks))


def simulated(videos, num_frames):
    """The share by the schedule, where messages take no time."""
    from dataclasses import replace

    from xdualparal.plan.schedule import whole_schedule
    from xdualparal.plan.simulate import simulate
    from xdualparal.strategies.dualparal import DEFAULT_LAYOUT, DualParalPlan

    layout = replace(DEFAULT_LAYOUT, latent_frames=1 + -(-(num_frames - 1) // 4))
    return simulate(whole_schedule(DualParalPlan(layout.num_blocks, STEPS, STAGES, videos=videos, layout=layout))).bubble()


def run_rank(rank, port, arguments, results):
    """Gives {videos in flight: [(seconds in passes, seconds in all) of each run], "equal": whether all had the same latents}."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(STAGES), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform

    enable_host_platform()
    from diffusers import WanPipeline
    from xfuser import xFuserArgs

    from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

    engine, _ = xFuserArgs(model="tiny-wan", pipefusion_parallel_degree=STAGES).create_config()
    passes = paced(arguments.pass_s)
    measured, latents = {1: [], 2: []}, []
    for _ in range(arguments.runs):
        for videos in measured:
            pipeline = DualParalPipeline(WanPipeline.from_pretrained(TINY_WAN_FOLDER), engine, DualParalConfig(videos_in_flight=videos))
            passes.clear()
            output = pipeline(
                prompt=PROMPTS, height=32, width=32, num_frames=arguments.num_frames, num_inference_steps=STEPS, guidance_scale=1.0,
                generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)], output_type="latent",
            )
            # From the first stage's first pass to the last stage's last one; clocks of one machine.
            ends = [torch.tensor([passes[0][0], -passes[-1][1]], dtype=torch.float64)]
            torch.distributed.all_reduce(ends[0], torch.distributed.ReduceOp.MIN)
            measured[videos].append((len(passes) * arguments.pass_s, float(-ends[0].sum())))
            latents += [] if output is None else [output.frames]
    results.put(dict(measured, equal=all(torch.equal(one, latents[0]) for one in latents)))


def paced(pass_s):
    """Makes every pass of a stage take ``pass_s`` seconds. Returns the list that gets (start, end) of each, in monotonic seconds."""
    from xdualparal.engine.stage import StageRun

    passes, forward = [], StageRun.forward

    def slowly(self, *args, **options):
        start = time.monotonic()
        result = forward(self, *args, **options)
        time.sleep(max(0.0, start + pass_s - time.monotonic()))
        passes.append((start, time.monotonic()))
        return result

    StageRun.forward = slowly
    return passes


if __name__ == "__main__":
    main()
