"""How much faster two processes with one thread each make the demo video than one process with one thread.

    python examples/measure_speedup.py [--runs 5] [--num_frames 257]

Runs both in turn, and prints for each the seconds from the start of a run to its finished mp4 (the report's
``wall_s``), their medians, the ratio pair by pair, and how much of the time both stages worked at once.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from xdualparal.plan.recorded import read_trace


def run_once(degree, num_frames, folder):
    """Seconds that the demo video takes with ``degree`` stages, one thread a process for the passes. One process decodes
    between them, so that it is one thread; two decode as they do by default, beside them."""
    command = [
        "xdit-dualparal", "--model", "tiny-wan", "--prompt", "a red circle on a dark background",
        "--num_frames", str(num_frames), "--dualparal_degree", str(degree), "--output_directory", folder,
        "--dualparal_trace", f"{folder}/trace.json", "--dualparal_decode", "inline" if degree == 1 else "thread",
    ]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    [report] = [file for file in Path(folder).glob("*.json") if file.name != "trace.json"]
    seconds = json.loads(report.read_text())["wall_s"]
    report.unlink()
    return seconds


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--num_frames", type=int, default=257)
    arguments = parser.parse_args()
    folder, one, two, overlaps = tempfile.mkdtemp(), [], [], []
    for _ in range(arguments.runs):
        one.append(run_once(1, arguments.num_frames, folder))
        two.append(run_once(2, arguments.num_frames, folder))
        overlaps.append(read_trace(f"{folder}/trace.json").overlap())
        print(f"1 process {one[-1]:.2f} s   2 processes {two[-1]:.2f} s   ratio {one[-1] / two[-1]:.2f}", flush=True)
    shutil.rmtree(folder)
    ratios = [a / b for a, b in zip(one, two)]
    print(
        f"medians: {statistics.median(one):.2f} s, {statistics.median(two):.2f} s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); both stages work at once "
        f"{100 * statistics.median(overlaps):.0f} % of the time in which any does"
    )


if __name__ == "__main__":
    main()
