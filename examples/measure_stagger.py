"""When the first frames come and when the video is done, for several staggers and for each place of decoding.

    python examples/measure_stagger.py [--runs 3] [--num_frames 257] [--degree 2]

Takes what the runs of the demo model report, medians; ``by the schedule`` is simulated with the measured duration of a pass.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

CASES = [("stagger", value) for value in (1, 2, 5, 10)] + [("decode", value) for value in ("thread", "inline", "end")]
FIGURES = ("first_segment_s", "wall_s", "bubble", "predicted_bubble", "waited_for_decode_s")


def report_of(flag, value, num_frames, degree):
    """The report of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "xdit-dualparal", "--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_frames",
            str(num_frames), "--dualparal_degree", str(degree), f"--dualparal_{flag}", str(value), "--output_directory", folder,
        ]
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        [file] = Path(folder).glob("*.json")
        return json.loads(file.read_text())


def main():
    """Measures, all cases in turn, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--num_frames", type=int, default=257)
    parser.add_argument("--degree", type=int, default=2)
    arguments = parser.parse_args()
    reports = {case: [] for case in CASES}
    for _ in range(arguments.runs):
        for case in CASES:
            reports[case].append(report_of(*case, arguments.num_frames, arguments.degree))
    for (flag, value), runs in reports.items():
        first, wall, bubble, predicted, waited = (statistics.median(run[name] for run in runs) for name in FIGURES)
        print(
            f"{flag} {value}: first frames {first:.2f} s, total {wall:.2f} s, waiting stages {bubble:.1%} ({predicted:.1%} by "
            f"the schedule), waited for decoding {waited:.2f} s"
        )


if __name__ == "__main__":
    main()
