"""The flags of ``xdit-dualparal bench``, and what a bench is.

Knows: their names, limits and help. Must not know: how a run is measured. Imports nothing heavy, for the help.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..launch.errors import refuse
from ..limits import DEGREE, GUIDANCE, REPEATS, SECONDS, SEED, SIDE, STEPS, Whole
from ..output.files import check_regular
from ..plan.timeline import check_matplotlib, picture_paths
from ..strategies.table import STRATEGIES

XDIT = "xdit"  # its own run, without this package's strategies
FULL = "full"
ALL = (*STRATEGIES, XDIT)
_FRAMES = Whole(1, 10_000_000, "video frames, of a video with an end")


@dataclass(frozen=True)
class Bench:
    """What is run: each of ``strategies`` (names), with each number of ``processes`` and of ``num_frames``, ``runs`` times.

    ``request``: launch flags that all runs have; ``flags``: those of all but xDiT's own. ``threads``: of torch, in each
    process. ``timeout_s``: how long one command may take. ``keep``: the folder where videos stay, or None.
    """

    strategies: tuple[str, ...]
    num_frames: tuple[int, ...]
    processes: tuple[int, ...]
    runs: int
    request: tuple[str, ...]
    flags: tuple[str, ...] = ()
    threads: int = 1
    timeout_s: float = 3600.0
    keep: Path | None = None


def bench_parser():
    """The parser. A wrong flag ends the program with exit code 2, and one line."""
    parser = argparse.ArgumentParser(
        prog="xdit-dualparal bench", allow_abbrev=False,
        description="Measures strategies side by side: whole commands, in turn, of one model, prompt and seed.",
    )
    parser.error = refuse
    add = parser.add_argument
    add("--model", required=True, help="as of xdit-dualparal; tiny-wan needs no download and no GPU")
    add("--model_path", help="the folder of the model's weights (default: that of the hub)")
    add("--num_frames", default="257,1025", help="video frames, numbers with commas between them (default: 257,1025)")
    add("--strategies", help=f"names with commas between them; ratios are to the first (default: those of {','.join(ALL)} that can run the model); "
        f"{XDIT} is xDiT's own run, with full attention; it and full split the frames' tokens over the processes (Ulysses), the others as they do")
    add("--processes", default="2", help="numbers of processes, with commas between them (default: 2)")
    add("--runs", type=int, default=3, help="how often each is run, round after round (default: 3)")
    add("--prompt", default="a red circle on a dark background", help="of all runs")
    add("--seed", type=int, default=42, help="of all runs (default: 42)")
    for name, kind in (("num_inference_steps", int), ("guidance_scale", float), ("height", int), ("width", int)):
        add(f"--{name}", type=kind, help="of all runs (default: the model's)")
    add("--flags", default="", help="more launch flags, as one text, for all but xdit")
    add("--threads", type=int, default=1, help="of torch in each process, where it computes on the CPU (default: 1)")
    add("--timeout_s", type=float, default=3600.0, help="seconds after which a command is ended and counts as failed (default: 3600)")
    add("--json", type=Path, help="write all that was measured to this file")
    add("--plot", type=Path, help="draw time and memory against frames, and against processes where there are several numbers of them: a .svg or .png, or both without such an ending")
    add("--keep", type=Path, help="a new folder for the videos, reports and traces of the last round; else they are removed")
    add("--overwrite", action="store_true", help="replace the files of --json and --plot")
    return parser


def bench_of(arguments, unsuited=None):
    """The Bench of parsed flags. ``unsuited``: {strategy: why it cannot run the model}. Raises ValueError for values that cannot be, for a
    strategy that is asked for and unsuited, and for files that must not be replaced."""
    check_files(arguments)
    request = ["--model", arguments.model, "--prompt", arguments.prompt, "--seed", str(SEED.of("--seed", arguments.seed))]
    limits = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=SIDE, width=SIDE)
    for name, limit in limits.items():
        if getattr(arguments, name) is not None:
            request += [f"--{name}", str(limit.of(f"--{name}", getattr(arguments, name)))]
    if arguments.model_path is not None:
        request += ["--model_path", arguments.model_path]
    return Bench(
        _names(arguments, unsuited or {}), _numbers("--num_frames", arguments.num_frames, _FRAMES),
        _numbers("--processes", arguments.processes, DEGREE), REPEATS.of("--runs", arguments.runs), tuple(request),
        _words(arguments.flags), DEGREE.of("--threads", arguments.threads),
        SECONDS.of("--timeout_s", arguments.timeout_s), arguments.keep,
    )


def check_files(arguments):
    """Raises ValueError for a file of --json, --plot or --keep that cannot be written, or that is there."""
    if arguments.json is not None:
        check_regular(arguments.json, "--json")
        if not arguments.json.absolute().parent.is_dir():
            raise ValueError(f"--json {arguments.json} cannot be written (there is no folder {arguments.json.parent}): make it first")
        if arguments.json.exists() and not arguments.overwrite:
            raise ValueError(f"--json {arguments.json} exists: give another name, or add --overwrite to replace it")
    if arguments.plot is not None:
        picture_paths(arguments.plot, arguments.overwrite)
        check_matplotlib()
    if arguments.keep is not None:
        if arguments.keep.exists():
            raise ValueError(f"--keep {arguments.keep} exists: give a new folder")
        if not arguments.keep.absolute().parent.is_dir():
            raise ValueError(f"--keep {arguments.keep} cannot be made (there is no folder {arguments.keep.parent}): make it first")


def _names(arguments, unsuited):
    if arguments.strategies is None:
        return tuple(name for name in ALL if name not in unsuited)
    names = tuple(dict.fromkeys(arguments.strategies.split(",")))
    for name in names:
        if name not in ALL:
            raise ValueError(f"--strategies has {name!r}: give some of {', '.join(ALL)}, with commas between them")
        if name in unsuited:
            raise ValueError(f"--strategies has {name} and {unsuited[name]}: leave it out")
    return names


def _numbers(flag, text, limit):
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} is {text!r}: give whole numbers with commas between them") from None
    return tuple(sorted({limit.of(flag, number) for number in numbers}))


def _words(text):
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"--flags is {text!r} ({error}): give launch flags as a shell has them") from None
