"""Kills, stops and pairs of simultaneous runs, many of each: ``python tests/soak.py``. Prints the figures; exit code 1 for a fault.

A rank is killed, or the run is stopped by Ctrl-C, at a random moment; the same command is given again until the video is
finished, and its bytes must be those of a run that nothing disturbed. Of two commands started together for one file one
makes the video and the other is refused.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dualparal_testing.commands import Run, is_running, kill  # noqa: E402

COMMAND = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "10", "--dualparal_degree", "2"]
END_S = 60  # within which a run must have ended after a kill or a stop
MOST_RUNS = 40  # for one video
ALLOWED = {"kills": (0, 1), "stops": (0, 130)}  # exit codes; 0: it was done before, or finished what was nearly done


def main():
    arguments = _parser().parse_args()
    numbers, figures = random.Random(arguments.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole, took_s = _undisturbed(Path(folder, "whole"), arguments.frames)
        for name, how, wanted in (("kills", _kill_one, arguments.kills), ("stops", _ask_to_stop, arguments.stops)):
            while figures[name] < wanted:
                place = Path(tempfile.mkdtemp(dir=folder))
                _make_disturbed(place, arguments.frames, name, how, took_s, numbers, figures)
                _compare(place, whole, figures, f"videos after {name}")
        for pair in range(arguments.pairs):
            _pair(Path(folder, f"pair{pair}"), arguments.frames, numbers, figures)
            _compare(Path(folder, f"pair{pair}"), whole, figures, "videos of pairs")
    for name, count in figures.items():
        print(f"{name}: {count}")
    sys.exit(any(name.startswith("FAULT") for name in figures))


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 100), ("stops", 20), ("pairs", 20), ("frames", 257), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def _start(folder, frames, log="log"):
    folder.mkdir(exist_ok=True)
    saves = ["--dualparal_checkpoint", folder / "checkpoint", "--dualparal_checkpoint_waves", "2"]
    return Run([*COMMAND, "--num_frames", frames, "--output_directory", folder, *saves], folder / log)


def _undisturbed(folder, frames):
    """(the video's bytes, how long its processes run)."""
    with _start(folder, frames) as run:
        _wait_for_workers(run)
        start = time.monotonic()
        assert run.ended() == 0, run.output()
    return _video(folder).read_bytes(), time.monotonic() - start


def _wait_for_workers(run):
    run.wait_until(lambda: len(run.workers()) == 2)


def _video(folder):
    [file] = folder.glob("*.mp4")
    return file


def _make_disturbed(folder, frames, name, how, took_s, numbers, figures):
    """One video; each of its runs is disturbed at a random moment, if it has not finished the video by then."""
    for _ in range(MOST_RUNS):
        with _start(folder, frames) as run:
            _wait_for_workers(run)
            time.sleep(numbers.uniform(0, took_s))
            workers = run.workers()
            if run.launcher.poll() is None and len(workers) == 2:
                how(run, workers, numbers)
                figures[name] += 1
            if _end(run, name, workers, figures) == 0:
                return


def _kill_one(run, workers, numbers):
    kill(workers[numbers.randrange(len(workers))], signal.SIGKILL)


def _ask_to_stop(run, workers, numbers):
    kill(run.launcher.pid, signal.SIGINT)


def _end(run, name, workers, figures):
    """The exit code; what is not as it should be is counted."""
    try:
        code = run.launcher.wait(END_S)
    except subprocess.TimeoutExpired:  # the end of Run's context kills it
        figures[f"FAULT hangs, of {name}"] += 1
        return None
    if code not in ALLOWED[name]:
        figures[f"FAULT exit code {code}, of {name}"] += 1
        print(run.output())
    if any(map(is_running, workers)):
        figures[f"FAULT a process is left, of {name}"] += 1
    return code


def _compare(folder, whole, figures, name):
    """The folder has one video with the right bytes."""
    files = list(folder.glob("*.mp4"))
    if len(files) == 1 and files[0].read_bytes() == whole:
        figures[f"{name}, right byte for byte"] += 1
    else:
        figures[f"FAULT {name}, wrong or missing"] += 1


def _pair(folder, frames, numbers, figures):
    """Two commands for one file: one makes it, the other is refused in one line."""
    with _start(folder, frames, "first") as first:
        time.sleep(numbers.uniform(0, 1))
        with _start(folder, frames, "second") as second:
            codes = sorted((first.ended(), second.ended()))
            lines = [line for run in (first, second) for line in run.output().splitlines() if "xdit-dualparal: error" in line]
    figures["pairs"] += 1
    if codes != [0, 2] or len(lines) != 1:
        figures["FAULT pairs: both ran, or none"] += 1
        print(codes, *lines, sep="\n")


if __name__ == "__main__":
    main()
