"""The command ``xdit-dualparal``: checks a command, then runs it on as many processes as its degrees make.

Knows: the command line, torchrun's flags for several nodes included, and the environment that torch.distributed reads.
Must not know: what the processes do.
"""

import argparse
import logging
import os
import socket
import sys
import warnings
from contextlib import contextmanager

from ..compat.host import enable_host_platform
from ..launch.supervisor import supervise

RUNNER = "xdualparal.xdit.runner"


def main(argv=None):
    """Runs the command ``argv`` (by default the program's) and ends with its exit code; 2 when it cannot work.

    ``decode FILE`` makes the video of latents that were kept, see decode_command.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors that nothing here uses
    enable_host_platform()
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["decode"]:
        from .commands import main as decode

        return decode(argv[1:])
    launch, rest = split_launch_args(argv)
    with _quietly():
        processes = _checked_processes(launch, rest)
    sys.exit(supervise([sys.executable, "-m", RUNNER, *rest], worker_environments(launch, processes)))


def split_launch_args(argv):
    """(the flags that are torchrun's, as a namespace; all others, in order)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, kind in (("nnodes", int), ("node_rank", int), ("nproc_per_node", int), ("master_port", int)):
        parser.add_argument(*_spellings(name), type=kind)
    parser.add_argument(*_spellings("master_addr"), default="localhost")
    parser.error = _refuse
    launch, rest = parser.parse_known_args(argv)
    launch.nnodes, launch.node_rank = launch.nnodes or 1, launch.node_rank or 0
    return launch, rest


def _spellings(name):
    return sorted({f"--{name}", f"--{name.replace('_', '-')}"})


def _checked_processes(launch, rest):
    """The processes to start on this node. Ends the program with one line when the command cannot work."""
    from .checks import check_command, num_processes
    from .flags import make_parser

    args = vars(make_parser().parse_args(rest))
    wanted = num_processes(args)
    per_node = launch.nproc_per_node or max(1, wanted // launch.nnodes)
    os.environ.setdefault("RANK", "0"), os.environ.setdefault("WORLD_SIZE", "1")  # xDiT's logger reads them
    try:
        check_command(args, per_node * launch.nnodes)
    except ValueError as error:
        _refuse(error)
    return per_node


@contextmanager
def _quietly():
    """The processes will warn of what there is to warn of; here only a refusal is of interest."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"):
        yield
    logging.disable(logging.NOTSET)


def _refuse(message):
    from .flags import refuse

    refuse(message)


def worker_environments(launch, processes):
    """The environment of each process on this node: where it stands, in torch.distributed's words, and the cores shared
    out among them."""
    port = launch.master_port or (_free_port() if launch.nnodes == 1 else 29500)  # 29500: torchrun's own
    common = dict(
        run_environment(processes), MASTER_ADDR=launch.master_addr, MASTER_PORT=str(port),
        WORLD_SIZE=str(processes * launch.nnodes), LOCAL_WORLD_SIZE=str(processes), GROUP_RANK=str(launch.node_rank),
    )
    first = launch.node_rank * processes
    return [dict(common, RANK=str(first + local), LOCAL_RANK=str(local)) for local in range(processes)]


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_environment(processes):
    """The environment of the processes: ours, and the cores shared out among them (torchrun would give one each)."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment.setdefault("LOG_LEVEL", "INFO")  # without it xfuser logs at DEBUG (xfuser/logger.py)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return environment


if __name__ == "__main__":
    main()
