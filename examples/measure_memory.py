"""The peak memory of every rank for a short and for a long video.

    python examples/measure_memory.py [--frames 257,4097] [--degree 2] [--steps 50]

Runs the demo model for each length and prints what the runs report, and by how much the long one needs more. glibc is told
to give what is freed of over 4 MiB back at once: what it keeps for later differs by 10 % between equal runs.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path


def peak_bytes(num_frames, degree, steps):
    """The peak memory of each rank, in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "xdit-dualparal", "--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_frames",
            str(num_frames), "--dualparal_degree", str(degree), "--num_inference_steps", str(steps),
            "--output_directory", folder,
        ]
        environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_=str(4 * 2**20))
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        [report] = Path(folder).glob("*.json")
        return [rank["peak_bytes"] for rank in json.loads(report.read_text())["ranks"]]


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", default="257,4097")
    parser.add_argument("--degree", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    peaks = []
    for num_frames in map(int, arguments.frames.split(",")):
        peaks.append(peak_bytes(num_frames, arguments.degree, arguments.steps))
        print(f"{num_frames} frames: " + ", ".join(f"{peak / 2**20:.1f} MiB" for peak in peaks[-1]), flush=True)
    ratios = [long / short - 1 for short, long in zip(peaks[0], peaks[-1])]
    print("the last needs more by " + ", ".join(f"{ratio:.1%}" for ratio in ratios))


if __name__ == "__main__":
    main()
