"""The runs of a bench: their commands, and what is measured of each.

Knows: the launcher's command line, and the files that a run leaves. Must not know: medians, tables, plots.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..plan.recorded import read_trace
from ..plan.steady import steady_pass_s, steady_s_per_frame
from ..strategies.dualparal import DualParal
from .flags import FULL, XDIT

_POLL_S = 0.1
_END_S = 15.0  # how long a command that is ended may close its files before it is killed
TRACE, LOG = "trace.json", "log.txt"
LAUNCHER = ("-P", "-m", "xdualparal.xdit.cli")  # -P: see xdit/cli.py


@dataclass(frozen=True)
class Case:
    """One thing that is run."""

    strategy: str
    processes: int
    num_frames: int

    def __str__(self):
        return f"{self.strategy}, {self.processes} process{'es' if self.processes > 1 else ''}, {self.num_frames} frames"


@dataclass(frozen=True)
class Run:
    """What was measured of a Case; None: not known.

    ``command_s``: the whole command, with the start of the processes and loading. ``wall_s``: the video, from the first pass to the
    finished file; of xDiT's own run its timing of the pipeline, whose frames are not written yet. ``first_s``: when the first
    frames are there. ``pass_s``: the mean duration of a forward, a pass or half of it, on the slowest rank. ``steady_s_per_frame``: see plan/steady.py.
    ``peak_bytes``: of each rank, the most memory the device had for it, on a CPU the most resident memory of its process.
    ``failed``: why there is no video.
    """

    case: Case
    command: tuple[str, ...]
    command_s: float | None = None
    wall_s: float | None = None
    first_s: float | None = None
    pass_s: float | None = None
    steady_s_per_frame: float | None = None
    peak_bytes: tuple[int, ...] | None = None
    failed: str | None = None

    def as_json(self):
        """Plain values."""
        values = asdict(self)
        return values.pop("case") | values


def launch_flags(bench, case, folder):
    """The flags of xdit-dualparal for ``case``, whose files go into ``folder``."""
    flags = [*bench.request, "--num_frames", str(case.num_frames), "--output_directory", str(folder)]
    if case.strategy == XDIT:
        return [*flags, "--ulysses_degree", str(case.processes)]
    stages = 1 if case.strategy == FULL else case.processes  # with one block, stages would wait for each other
    flags += ["--dualparal_degree", str(stages), "--dualparal_strategy", case.strategy, *bench.flags]
    if case.strategy == FULL:
        flags += ["--ulysses_degree", str(case.processes)]
    if case.strategy == DualParal.name:
        flags += ["--dualparal_trace", str(Path(folder, TRACE))]
    return flags


def run(bench, case, folder):
    """Runs ``case`` in the folder ``folder``, which is made. Returns a Run."""
    Path(folder).mkdir(parents=True)
    flags = launch_flags(bench, case, folder)
    start = time.monotonic()
    code, peaks = _execute(flags, bench, Path(folder, LOG))
    command_s, command = time.monotonic() - start, ("xdit-dualparal", *flags)
    if code != 0:
        return Run(case, command, command_s, failed=_reason(code, Path(folder, LOG), bench.timeout_s))
    read = _read_xdits if case.strategy == XDIT else _read_report
    try:
        return Run(case, command, command_s, **{"peak_bytes": peaks, **read(Path(folder))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Run(case, command, command_s, failed=f"its report cannot be read: {error}")


def _execute(flags, bench, log):
    """(exit code, None where it took too long; peak resident memory of each process in bytes, or None) of a command."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), root])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(bench.threads)}
    with open(log, "wb") as file:
        launcher = subprocess.Popen(
            [sys.executable, *LAUNCHER, *flags], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )
    peaks, end = {}, time.monotonic() + bench.timeout_s
    try:
        while launcher.poll() is None and time.monotonic() < end:
            _observe(launcher.pid, peaks)
            time.sleep(_POLL_S)
        return launcher.poll(), tuple(peaks.values()) or None
    finally:
        _end(launcher)


def _observe(launcher, peaks):
    """Puts the peak memory so far of each process that ``launcher`` started into ``peaks``, in the order of their ranks."""
    with suppress(OSError):
        for process in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peaks[process] = int(line.split()[1]) * 1024


def _end(launcher):
    """Ends a command that is still running: a second signal ends it at once (launch/supervisor.py)."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if launcher.poll() is None:
            launcher.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                launcher.wait(1.0 if number == signal.SIGTERM else _END_S)
    launcher.wait()


def _reason(code, log, timeout_s):
    if code is None:
        return f"it took more than {timeout_s:g} s"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    said = (errors or lines or [""])[-1].partition("xdit-dualparal: error: ")
    return f"exit code {code}: {said[2] or said[0]}"


def _read_xdits(folder):
    """Of xDiT's own run: it times its pipeline, whose frames all come at its end. The last process writes the file."""
    [seconds] = json.loads((folder / "timings.json").read_text())
    return dict(wall_s=seconds, first_s=seconds)


def _read_report(folder):
    [file] = [file for file in folder.glob("*.json") if file.name not in (TRACE, "timings.json")]
    report = json.loads(file.read_text())
    passes = [rank["busy_s"] / rank["forwards"] for rank in report["ranks"] if rank["forwards"]]
    measured = dict(
        wall_s=report["wall_s"], first_s=report["first_segment_s"], pass_s=max(passes, default=None),
        peak_bytes=tuple(rank["peak_bytes"] for rank in report["ranks"]),
    )
    if (folder / TRACE).exists():
        spec = report["spec"]
        pass_s = steady_pass_s(read_trace(folder / TRACE), spec["stagger"])
        steady = None if pass_s is None else steady_s_per_frame(pass_s, spec["num_inference_steps"], spec["block_latents"])
        measured["steady_s_per_frame"] = steady
    return measured
