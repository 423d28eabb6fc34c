"""Predicted beside measured: this machine is calibrated, the demo video is made on one and two processes, and the planner's times are put beside them.

    python examples/measure_plan.py [--frames 257] [--steps 10] [--runs 3]

Each process has one thread. Of each number of processes the median run's trace is compared. With more processes than cores they share cores, which
no plan knows; on 2 cores that is any other mix.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = [sys.executable, "-m", "xdualparal.xdit.cli"]


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=257)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        request = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--dualparal_decode", "end"]
        request += ["--num_frames", str(arguments.frames), "--num_inference_steps", str(arguments.steps)]
        profile = Path(folder, "here.json")
        run("plan", "--calibrate", profile, "--model", "tiny-wan")
        print("| stages | predicted s | measured s | measured / predicted |\n|---|---|---|---|")
        for stages in (1, 2):
            predicted = predict(folder, profile, request, stages)
            measured = statistics.median(measure(folder, request, stages, number) for number in range(arguments.runs))
            print(f"| {stages} | {predicted:.2f} | {measured:.2f} | {measured / predicted:.2f} |", flush=True)


def predict(folder, profile, request, stages):
    """Seconds of all blocks, decoding included."""
    file = Path(folder, "plan.json")
    run("plan", *request, "--dualparal_degree", stages, "--num_gpus", stages, "--gpu", profile, "--json", file, "--overwrite")
    ways = json.loads(file.read_text())["ways"]
    return next(way["seconds"] for way in ways if "dualparal_context" not in way["flags"])


def measure(folder, request, stages, number):
    """Seconds from the first action to the last."""
    from xdualparal.plan.recorded import read_trace

    trace, output = Path(folder, f"{stages}_{number}.trace"), Path(folder, f"{stages}_{number}.mp4")
    run(*request, "--dualparal_degree", stages, "--dualparal_trace", trace, "--output", output)
    recorded = read_trace(trace)
    return recorded.end - recorded.start


def run(*arguments):
    """The command, with one thread in each process."""
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))


if __name__ == "__main__":
    main()
