"""The environment variables that torch.distributed reads, for the workers of one node.

Knows: torchrun's flags for several nodes and its variables. Must not know: what the workers do, or sockets (launch/network.py).
"""

import os
from dataclasses import dataclass, fields

from ..limits import NODES, PORT, Whole
from .network import LOOPBACK, loopback_interface

_NOT_OURS = ("RANK", "WORLD_SIZE")  # set in a shell, they would stand for a process that is not ours
# No node has as many devices: a typing error must not start thousands of processes.
MAX_PROCESSES = 256
_DEFAULT_PORT = 29500  # torchrun's


@dataclass(frozen=True)
class Node:
    """One node of a run, in torchrun's words. Raises ValueError when it is none of ``nnodes``."""

    nnodes: int = 1
    node_rank: int = 0
    master_addr: str = "localhost"
    master_port: int | None = None
    nproc_per_node: int | None = None

    def __post_init__(self):
        NODES.of("--nnodes", self.nnodes)
        if self.master_port is not None:
            PORT.of("--master_port", self.master_port)
        if self.nproc_per_node is not None:
            Whole(1, MAX_PROCESSES, "the limit of a node").of("--nproc_per_node", self.nproc_per_node)
        if not 0 <= self.node_rank < self.nnodes:
            raise ValueError(f"--node_rank is {self.node_rank} and there are {self.nnodes} nodes: give 0 to {self.nnodes - 1}")

    @property
    def store_port(self):
        """The port of the store; 0 on one node where none was given: any that is free."""
        return self.master_port or (0 if self.nnodes == 1 else _DEFAULT_PORT)

    def processes(self, world_size):
        """How many of ``world_size`` processes start here. Raises ValueError for a number that no node can hold."""
        processes = self.nproc_per_node or max(1, world_size // self.nnodes)
        if processes > MAX_PROCESSES:
            raise ValueError(
                f"{processes} processes would start on this node and {MAX_PROCESSES} is the limit: lower a degree, or "
                "raise --nnodes"
            )
        return processes


def add_node_flags(parser):
    """Adds a flag for each field of Node, torchrun's, in both spellings."""
    for field in fields(Node):
        spellings = sorted({f"--{field.name}", f"--{field.name.replace('_', '-')}"})
        parser.add_argument(*spellings, type=str if field.name == "master_addr" else int, default=field.default)


def worker_environments(node, processes, port):
    """The environment of each process on this node: its place in the run, and its share of the cores. ``port``: the store's.

    On one node nothing listens on other interfaces than the loopback one, unless the user names one.
    """
    one_node = node.nnodes == 1
    common = dict(
        shared_environment(processes), MASTER_ADDR=LOOPBACK if one_node else node.master_addr, MASTER_PORT=str(port),
        WORLD_SIZE=str(processes * node.nnodes), LOCAL_WORLD_SIZE=str(processes), GROUP_RANK=str(node.node_rank),
    )
    interface = loopback_interface() if one_node else None
    if interface is not None:
        common.setdefault("GLOO_SOCKET_IFNAME", interface)
        common.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")  # "=": this very name, not all that begin so
    first = node.node_rank * processes
    return [dict(common, RANK=str(first + local), LOCAL_RANK=str(local)) for local in range(processes)]


def shared_environment(processes):
    """This process's environment with the cores shared out among ``processes`` (torchrun would give one each)."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    return environment
