"""``xdit-dualparal bench``: runs the strategies in turn and shows what they take.

Knows: the order of a bench. Must not know: how a run is measured, how figures are drawn.
"""

import json
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from ..launch.errors import FAILED, STOPPED, refuse
from ..output.files import reason_of, write_whole
from .flags import bench_of, bench_parser
from .machine import machine, machine_line
from .plot import draw
from .runs import Case, run
from .summary import growth_with_frames, growth_with_processes, summarize
from .table import as_text


def main(argv, unsuited_for=lambda model: {}):
    """Runs the bench in ``argv``. ``unsuited_for(model)``: {strategy: why it cannot run that model}, ValueError for no model. Ends with exit code 2, and one line, when it cannot be; 1 when no run made a video."""
    arguments = bench_parser().parse_args(argv)
    try:
        bench = bench_of(arguments, unsuited := unsuited_for(arguments.model))
    except ValueError as error:
        refuse(error)
    here = machine()
    print(machine_line(here), flush=True)
    for name in unsuited:
        print(f"without {name}: {unsuited[name]}", file=sys.stderr, flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # so that the command under way is ended, too
    try:
        rounds = run_all(bench, run)
    finally:
        signal.signal(signal.SIGTERM, before)
    summaries = summarize(rounds)
    growths = growth_with_frames(rounds), growth_with_processes(rounds)
    print(as_text(summaries, *growths))
    try:
        if arguments.json is not None:
            write_whole(arguments.json, json.dumps(as_json(bench, here, rounds, summaries, growths), indent=2, default=str).encode())
        if arguments.plot is not None:
            draw(summaries, arguments.plot, f"{arguments.model}, {machine_line(here)}", arguments.overwrite)
    except (OSError, ValueError) as error:
        refuse(reason_of(error))
    if all(summary.failed for summary in summaries):
        sys.exit(FAILED)


def run_all(bench, run):
    """A list for each round, of a Run for each Case, in turn; ``run(bench, case, folder)`` makes one. What has failed once is not run again."""
    cases = [Case(name, processes, frames) for frames in bench.num_frames for processes in bench.processes for name in bench.strategies]
    rounds, failed = [], set()
    for number in range(bench.runs):
        rounds.append([])
        for case in (case for case in cases if case not in failed):
            done = _run_in_folder(bench, case, run, keep=bench.keep is not None and number == bench.runs - 1)
            rounds[-1].append(done)
            failed |= {case} if done.failed else set()
            print(f"round {number + 1}: {case}: {done.failed or f'{done.wall_s:.2f} s'}", file=sys.stderr, flush=True)
    return rounds


def _run_in_folder(bench, case, run, keep):
    if keep:
        return run(bench, case, Path(bench.keep, f"{case.strategy}_{case.processes}_{case.num_frames}"))
    folder = tempfile.mkdtemp(prefix="xdit-dualparal-bench-")
    try:
        return run(bench, case, Path(folder, "run"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_json(bench, here, rounds, summaries, growths):
    """What --json gets, as plain values. ``here``: see machine.machine."""
    return dict(
        machine=here, bench=asdict(bench), runs=[run.as_json() | {"round": number} for number, runs in enumerate(rounds) for run in runs],
        summary=list(map(asdict, summaries)), growth_with_frames=list(map(asdict, growths[0])), growth_with_processes=list(map(asdict, growths[1])),
    )
