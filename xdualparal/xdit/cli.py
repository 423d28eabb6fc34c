"""The command ``xdit-dualparal``: counts the processes that a command needs and starts them.

Knows: the flags of degrees and nodes. Must not know: all other flags, which the processes check (xdit/checks.py). Imports
nothing heavy: torch and xfuser would cost every start seconds.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from ..launch.environment import Node, add_node_flags, worker_environments
from ..launch.errors import STOPPED, refuse
from ..launch.network import STORE_SOCKET, check_master, open_store_socket
from ..launch.streams import survive_closed_output
from ..launch.supervisor import supervise
from .decode_flags import decode_parser
from .degrees import num_processes, read_degrees
from .plan_flags import parse_plan
from .quality_flags import parse_quality

RUNNER = "xdualparal.xdit.runner"
# For the processes, unless the user chose: xfuser logs at DEBUG (xfuser/logger.py), and transformers warns of image
# processors that nothing here uses. torch's C++ logs what its exceptions say, too, with a stack.
_QUIET = {"LOG_LEVEL": "INFO", "TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "FATAL"}


def start_runner(arguments, environment):
    """Starts a process that runs xdit/runner.py with ``arguments``.

    -P: ``-m`` would put the current folder first on the path, and a ``random.py`` there would be executed.
    """
    handed_over = [int(environment[STORE_SOCKET])] if STORE_SOCKET in environment else []
    return subprocess.Popen(
        [sys.executable, "-P", "-m", RUNNER, *arguments], env=environment, start_new_session=True, pass_fds=handed_over
    )


def main(argv=None, start=start_runner):
    """Runs the command ``argv`` (by default the program's) and ends with its exit code; 2 when it cannot work.

    ``decode FILE`` makes the video of latents that were kept, see commands.py; ``quality`` measures videos, see quality_command.py; ``bench``
    measures strategies, see bench/command.py; ``plan`` finds degrees, see plan_command.py. ``start(arguments, environment)`` starts a process, see launch/supervisor.py.
    """
    survive_closed_output()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        _run(sys.argv[1:] if argv is None else argv, start)
    except KeyboardInterrupt:  # when the workers are there, supervise passes it on to them
        sys.exit(STOPPED)


def _run(argv, start):
    commands = {"decode": _decode, "quality": _quality, "bench": _bench, "plan": _plan}
    if argv and argv[0] in commands:
        commands[argv[0]](argv[1:])
        return
    flags, arguments = split_arguments(argv)
    if flags.help:
        print(Path(__file__).with_name("help.txt").read_text())  # see help.py
        return
    if flags.version:
        print(f"xdit-dualparal {_version()}")
        return
    try:
        node = Node(flags.nnodes, flags.node_rank, flags.master_addr, flags.master_port, flags.nproc_per_node)
        processes = node.processes(num_processes(read_degrees(arguments)))
        check_master(node)
        store_socket = open_store_socket(node)
    except ValueError as error:
        refuse(error)
    try:
        code = supervise(partial(start, arguments), _environments(node, processes, store_socket), store_socket)
    except ValueError as error:
        refuse(error)
    except OSError as error:
        refuse(f"{processes} processes cannot be started on this machine ({error.strerror or error}): end others, or lower a degree")
    sys.exit(code)


def _environments(node, processes, store_socket):
    """The workers', with the socket for rank 0. All are clients of the store that rank 0 keeps on it, see network.keep_store."""
    port = node.store_port if store_socket is None else store_socket.getsockname()[1]
    environments = worker_environments(node, processes, port)
    for environment in environments:
        environment.update(TORCHELASTIC_USE_AGENT_STORE="True", PYTHONSAFEPATH="1", **_path_to_this_package())
    if store_socket is not None:
        environments[0][STORE_SOCKET] = str(store_socket.fileno())
    return environments


def _path_to_this_package():
    """Where the launcher itself was started in a checkout that is not installed, the workers find it there, too."""
    root = Path(__file__).resolve().parents[2]
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(root)]
    return dict(PYTHONPATH=os.pathsep.join(paths)) if root == Path.cwd() else {}


def split_arguments(argv):
    """(the launcher's own flags, the other arguments, which are for the processes)."""
    parser = _OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    add_node_flags(parser)
    return parser.parse_known_args(argv)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message):
        refuse(f"{message} (xdit-dualparal --help lists the flags)")


def _decode(argv):
    decode_parser().parse_args(argv)  # help and wrong flags are answered before anything heavy is imported
    from ..compat.host import enable_host_platform

    enable_host_platform()
    from .commands import main as decode

    decode(argv)


def _quality(argv):
    parse_quality(argv)  # as for decode
    from .quality_command import main as quality

    quality(argv)


def _plan(argv):
    parse_plan(argv)  # as for decode
    from ..compat.host import enable_host_platform

    enable_host_platform()
    from .plan_command import main as plan

    plan(argv)


def _bench(argv):
    from ..bench.flags import bench_parser

    bench_parser().parse_args(argv)  # as for decode
    from ..bench.command import main as bench
    from ..compat.host import enable_host_platform

    enable_host_platform()
    from .bench_models import unsuited_for

    bench(argv, unsuited_for)


def _version():
    from importlib.metadata import version

    return f"{version('xdualparal')} (torch {version('torch')}, xfuser {version('xfuser')})"


if __name__ == "__main__":
    main()
