"""The flags of ``xdit-dualparal plan`` beside those of a launch.

Knows: their names, limits and help. Must not know: how anything is planned. Imports nothing heavy, for the help.
"""

import argparse
from pathlib import Path

from ..launch.errors import refuse
from ..limits import DEGREE, GIGABITS
from ..output.files import check_apart, check_replaceable
from ..plan.device import GPUS, NETWORK_PER_S
from ..plan.timeline import check_matplotlib, picture_paths

_TEXT = """Lists the degrees, videos in flight and contexts that a command could have on a number of GPUs, the fastest first, with the memory that
they need, why others cannot be, and the command to run. Needs no GPU and no weights.
  xdit-dualparal plan --model Wan2.1-T2V --num_frames 1025 --num_gpus 8 --gpu rtx4090
  xdit-dualparal plan --calibrate here.json --model tiny-wan
All flags of xdit-dualparal may be given, as of the run that is planned; a degree that is given stays as it is. Times are computed: counted
operations and bytes over the rates of a profile. Those that come with this program are assumed, see what is printed; --calibrate measures."""


_GPUS_PER_NODE = 8


def plan_parser():
    """The parser. A wrong flag ends the program with exit code 2, and one line."""
    parser = argparse.ArgumentParser(
        prog="xdit-dualparal plan", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=True,
    )
    parser.error = refuse
    add = parser.add_argument
    add("--num_gpus", type=int, metavar="N", help="GPUs, all used; more than --gpus_per_node are in several machines, each of which has as many")
    add("--gpus_per_node", type=int, default=_GPUS_PER_NODE, metavar="N", help=f"how many one of your machines holds (default: {_GPUS_PER_NODE})")
    add("--network_gbps", type=float, metavar="X", help="gigabits a second from a machine to the others, one way, which its GPUs share, as iperf3 or "
        f"ib_write_bw measures it (default: the profile's; of those that come along {NETWORK_PER_S * 8 / 1e9:g}, assumed)")
    add("--gpu", metavar="NAME|FILE", help=f"{', '.join(GPUS)}, or a profile that --calibrate wrote or you did")
    add("--show", type=int, default=10, metavar="N", help="how many are listed (default: 10); --json has all")
    add("--json", type=Path, metavar="FILE", help="write all that was computed to this file")
    add("--gantt", type=Path, metavar="FILE", help="draw the timeline of the fastest: a .svg or .png, or both without such an ending")
    add("--compare", type=Path, metavar="TRACE", help="a recorded trace of a run (--dualparal_trace) beside the simulated one of the fastest whose context and other settings are the command's: in figures, and in the picture of --gantt")
    add("--calibrate", type=Path, metavar="FILE", help="measure this machine's rates with layers of --model, and write them to FILE, a profile for --gpu")
    add("--overwrite", action="store_true", help="replace the files of --json, --gantt and --calibrate")
    return parser


def parse_plan(argv):
    """(flags, the other arguments, which are the launch's)."""
    flags, launch = plan_parser().parse_known_args(argv)
    try:
        _check(flags)
    except ValueError as error:
        refuse(error)
    return flags, launch


def _check(flags):
    if flags.calibrate:
        for name in ("num_gpus", "network_gbps", "gpu", "json", "gantt", "compare"):
            if getattr(flags, name) is not None:
                raise ValueError(f"--{name} does nothing with --calibrate: leave it out, and plan with --gpu {flags.calibrate} afterwards")
        check_replaceable(flags.calibrate, "--calibrate", flags.overwrite)
        return
    for name, example in (("num_gpus", "8"), ("gpu", "rtx4090")):
        if getattr(flags, name) is None:
            raise ValueError(f"--{name} is missing: give one, --{name} {example} say (--help lists the flags)")
    _check_gpus(flags.num_gpus, flags.gpus_per_node, flags.network_gbps)
    if flags.show < 1:
        raise ValueError(f"--show is {flags.show}: give 1 or more")
    if flags.json:
        check_replaceable(flags.json, "--json", flags.overwrite)
    if flags.gantt:
        check_matplotlib()
    pictures = picture_paths(flags.gantt, flags.overwrite) if flags.gantt else []
    for path in pictures:
        check_replaceable(path, "--gantt", flags.overwrite)
    named = [("--json", flags.json), ("--compare", flags.compare), *(("--gantt", path) for path in pictures)]
    check_apart([(what, path) for what, path in named if path])


def _check_gpus(num_gpus, per_node, network_gbps):
    """Raises ValueError for machines with different numbers of GPUs, on which the launcher does not start a run, and for a network between none."""
    DEGREE.of("--num_gpus", num_gpus)
    DEGREE.of("--gpus_per_node", per_node)
    if num_gpus > per_node and num_gpus % per_node:
        alike = max(n for n in range(1, per_node) if num_gpus % n == 0)
        raise ValueError(
            f"--num_gpus is {num_gpus} and a machine has {per_node} GPUs, and a run starts equally many processes on each: give a multiple of {per_node}, "
            f"or --gpus_per_node {alike} or {num_gpus}, say"
        )
    if network_gbps is None:
        return
    GIGABITS.of("--network_gbps", network_gbps)
    if num_gpus <= per_node:
        raise ValueError(f"--network_gbps is {network_gbps:g} and {num_gpus} GPUs are in one machine of {per_node}, which needs no network: leave it out, or give --gpus_per_node")
