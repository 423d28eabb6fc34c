"""The peak memory of every rank beside what plan/memory.py computes, for a short and for a long video.

    python examples/measure_memory.py [--frames 257,4097] [--degree 2] [--steps 50] [--flags "--height 256 --width 256"]
    python examples/measure_memory.py --checkpoint 2.2 --frames 33 --steps 2 --flags "--height 192 --width 192 ..."

Runs the demo model for each length, or with --checkpoint a model of so many GB with random weights, in the form of Wan2.2-T2V-A14B
with fewer heads and layers, which it writes to a temporary folder. Compared are, rank by rank: the most memory that the process had
(ru_maxrss), less what it had when it began to load weights; and the sum by arithmetic, which knows nothing of Python and its
libraries. glibc is told to give what is freed of over 64 KiB back at once: what it keeps for later differs by 10 % between equal
runs.
"""

import argparse
import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch
from measure_loading import write_checkpoint

DEMO = ("--model", "tiny-wan")
HEADS, LAYER_BYTES = 20, 177e6  # of the model that is written: half as wide as A14B, a layer of an expert in bfloat16

def ranks_of_a_run(model, num_frames, arguments):
    """(peak, before loading, predicted) in bytes of each rank, in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "xdit-dualparal", *model, "--prompt", "a red circle on a dark background", "--num_frames", str(num_frames),
            "--dualparal_degree", str(arguments.degree), "--num_inference_steps", str(arguments.steps),
            "--output_directory", folder, *shlex.split(arguments.flags),
        ]
        environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_=str(1 << 16))
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        [report] = map(json.loads, (path.read_text() for path in Path(folder).glob("*.json")))
    return [
        (rank["peak_bytes"], memory["before_bytes"], memory["predicted_bytes"], memory["phases"])
        for rank, memory in zip(report["ranks"], report["memory"], strict=True)
    ]


def shown(peak, before, predicted, phases):
    """Of a rank."""
    phase = max(phases, key=phases.get)
    return (
        f"peak {peak / 2**20:.1f} MiB, before loading {before / 2**20:.1f}; the rest {(peak - before) / 2**20:.1f}, by arithmetic "
        f"{predicted / 2**20:.1f} ({phase}): {(peak - before) / predicted:.1%}"
    )


def measure(model, arguments):
    """Measures and prints."""
    peaks = []
    for num_frames in map(int, arguments.frames.split(",")):
        ranks = ranks_of_a_run(model, num_frames, arguments)
        peaks.append([peak for peak, *_ in ranks])
        for number, rank in enumerate(ranks):
            print(f"{num_frames} frames, rank {number}: {shown(*rank)}", flush=True)
    if len(peaks) > 1:
        ratios = [long / short - 1 for short, long in zip(peaks[0], peaks[-1])]
        print("the last needs more by " + ", ".join(f"{ratio:.1%}" for ratio in ratios))


def main():
    """Measures one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="257,4097")
    parser.add_argument("--degree", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--flags", default="", help="more flags of xdit-dualparal, as one text")
    parser.add_argument("--checkpoint", type=float, help="GB of a model with random weights")
    arguments = parser.parse_args()
    if arguments.checkpoint is None:
        return measure(DEMO, arguments)
    with tempfile.TemporaryDirectory() as folder:
        layers = -(-arguments.checkpoint * 1e9 // (2 * LAYER_BYTES))
        size = write_checkpoint(Path(folder), HEADS, int(layers), torch.bfloat16)
        print(f"the checkpoint has {size / 1e9:.2f} GB of weights", flush=True)
        measure(("--model", "Wan2.2-T2V", "--model_path", folder), arguments)


if __name__ == "__main__":
    main()
