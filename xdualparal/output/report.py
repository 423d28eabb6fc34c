"""What a run took, in figures.

Knows: what the ranks of a run measured. Must not know: how they are shown or stored.
"""

import platform
import resource
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

from ..plan.actions import DECODE, FORWARD, STEP
from ..plan.schedule import whole_schedule
from ..plan.simulate import simulate

_PACKAGES = ("xdualparal", "torch", "diffusers", "transformers", "xfuser", "av", "safetensors", "numpy")
MOST_BLOCKS = 500  # of a prediction: its time grows with them, and bubbles are at the ends


def make_reports(run):
    """Gives each video of ``run`` its report, a dict of plain values, on the output rank. Every rank of the replica must call it.

    ``bubble`` is the share of the stages' time, 0 to 1, in which they did not work, first stage to last, from the start
    of the run to its end; ``predicted_bubble`` that of the schedule simulated with the measured duration of a pass on each
    stage and of a decode; ``videos_in_flight``: how many videos shared the stages, so that the run's figures are of all of them.
    ``waited_for_decode_s``: how long passes, or at the end the caller, waited for decoding.
    """
    wall_s = time.monotonic() - run.started_s
    ranks = run.mesh.gather_objects(_of_rank(run))
    if ranks is None:
        return
    of_run = _of_run(run, ranks, wall_s)
    for video in run.videos_to_make:
        video.report = dict(
            of_run, first_segment_s=video.first_segment_s, blocks_finished=video.blocks_finished, resumed_from_wave=video.first_wave
        )


def _of_run(run, ranks, wall_s):
    stages = [rank for rank in ranks if rank["shard"] == 0 and rank["branch"] == 0]
    return dict(
        wall_s=wall_s, passes=run.passes_done, videos_in_flight=len(run.videos_to_make), ended_early=run.progress.was_stopped,
        bubble=1 - sum(rank["busy_s"] for rank in stages) / (len(stages) * wall_s), predicted_bubble=_predicted(run, stages),
        decode=run.plan.decode, decode_s=run.meter.busy_s.get(DECODE, 0.0),
        waited_for_decode_s=run.meter.waited_for_decode_s, ranks=ranks,
    )


def provenance(spec, settings):
    """What makes the video again: the run's RunSpec, all ``settings`` that were given (plain values), the versions of what
    computed it, and the command."""
    return dict(
        prompt=spec.prompt, negative_prompt=spec.negative_prompt, seed=spec.seed, spec=spec.as_json(),
        settings=settings, versions={"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        command=sys.argv,
    )


def _version(name):
    with suppress(PackageNotFoundError):
        return version(name)


def _of_rank(run):
    meter = run.meter
    return dict(
        rank=torch.distributed.get_rank(), stage=run.stage.index, shard=run.mesh.shard[0], branch=run.mesh.branch[0],
        forwards=meter.count.get(FORWARD, 0), busy_s=meter.busy_s.get(FORWARD, 0.0) + meter.busy_s.get(STEP, 0.0),
        waited_s=meter.waited_s, sent_bytes=run.edges.bytes_sent, peak_bytes=peak_bytes(run.device),
    )


def peak_bytes(device):
    """The most memory that this process had: on an accelerator its own, else resident memory (Linux counts it in KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes():
    """The memory that this process has now, as ``peak_bytes`` counts it: 0 where an accelerator's is counted; None where it is not
    known."""
    if torch.cuda.is_available():
        return 0
    with suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
    return None


def _predicted(run, stages):
    """The bubble of the whole plan by the measured costs; of a run that was resumed or stopped, of its finished blocks."""
    if not all(rank["forwards"] for rank in stages):
        return None
    blocks = max(1, min(MOST_BLOCKS, *(video.blocks_finished for video in run.videos_to_make)))
    a_pass = [rank["busy_s"] / rank["forwards"] for rank in stages]
    a_decode = run.meter.busy_s.get(DECODE, 0.0) / max(1, run.meter.count.get(DECODE, 0))

    def cost(action):
        if action.kind == DECODE:
            return a_decode
        return 0 if action.kind == STEP else a_pass[action.lane] / (1 if action.branch == "" else 2)

    plan = run.plan.first_blocks(blocks).side_by_side([0] * len(run.videos_to_make))
    return simulate(whole_schedule(plan), cost).bubble()


def as_text(report):
    """The figures that most people want, as a short table."""
    predicted, first_s = report["predicted_bubble"], report["first_segment_s"]
    rows = [
        ("total", f"{report['wall_s']:.1f} s, " + (f"first frames after {first_s:.1f} s" if first_s is not None else "no frames")),
        ("passes", f"{report['passes']}, {report['passes'] / report['wall_s']:.2f} a second"),
        ("waiting stages", f"{report['bubble']:.1%}" + (f", {predicted:.1%} by the schedule" if predicted is not None else "")),
        ("decoding", f"{report['decode_s']:.1f} s ({report['decode']}), waited for {report['waited_for_decode_s']:.1f} s"),
    ]
    rows += [
        (f"rank {rank['rank']}", f"stage {rank['stage']}, sent {rank['sent_bytes'] / 2**20:.1f} MiB, peak memory "
         f"{rank['peak_bytes'] / 2**20:.0f} MiB{_by_arithmetic(report, number)}")
        for number, rank in enumerate(report["ranks"])
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _by_arithmetic(report, number):
    """What the peak of a rank was expected to be, where that was computed (xdit/memory.py)."""
    if not report.get("memory"):
        return ""
    expected = report["memory"][number]
    before = f"{expected['before_bytes'] / 2**20:.0f} before loading, " if expected["before_bytes"] else ""
    return f" ({before}{expected['predicted_bytes'] / 2**20:.0f} for the run by arithmetic)"
