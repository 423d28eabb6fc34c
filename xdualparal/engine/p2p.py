"""The ends of the directed edges between stages.

Knows: how a tensor gets from one rank to the next without either waiting for the other's computation. Must not know: what the
tensors mean, or when a receive is posted.

Unlike xDiT's own ``pipeline_isend``, which exchanges shapes and, in 0.7.0, drops its handles (DESIGN section 3), here handles
are kept, what is in flight is bounded, receives are posted when the schedule says so, and shapes follow from it.
"""

from collections import deque
from datetime import timedelta

import torch
import torch.distributed as dist

from ..plan.messages import MAX_PENDING_SENDS

# A receive can be posted a wave of passes before its message is sent: torch's limits (10 minutes with NCCL) are shorter than
# that may take. What hangs is found by the watchdog.
NO_TIMEOUT = timedelta(days=7)
# Cooperative thread arrays, of which each takes a multiprocessor (SM) of the GPU from the passes while a message travels or is
# waited for. NCCL takes up to 32. A message is made and used once a pass, so it may be slow (arithmetic; not measured yet).
EDGE_CTAS = 4


def edge_options_maker(backend):
    """What makes the options of each edge's process group (torch writes into them), None for those that ``backend`` has."""
    return _nccl_options if backend == "nccl" else None


def _nccl_options():
    options = dist.ProcessGroupNCCL.Options()
    options.config.max_ctas = EDGE_CTAS
    return options


class Sender:
    """The sending end of an edge. ``group``: the edge's own process group; ``peer``: the receiver's global rank."""

    def __init__(self, group, peer):
        self._group, self.peer, self._from_host = group, peer, _is_host_only(group)
        self._pending = deque()
        self.bytes_sent = 0

    def send(self, tensor):
        """Starts sending ``tensor``; waits only while MAX_PENDING_SENDS earlier messages have not arrived yet."""
        while len(self._pending) >= MAX_PENDING_SENDS:
            self._finish_oldest()
        tensor = (tensor.cpu() if self._from_host else tensor).contiguous()
        self.bytes_sent += tensor.nbytes
        self._pending.append((dist.isend(tensor, self.peer, group=self._group), tensor))

    def finish(self):
        """Waits until everything sent has left."""
        while self._pending:
            self._finish_oldest()

    def _finish_oldest(self):
        work, _ = self._pending.popleft()
        work.wait()


class Receiver:
    """The receiving end of an edge. ``group``: the edge's own process group; ``peer``: the sender's global rank."""

    def __init__(self, group, peer, device):
        self._group, self.peer, self._device = group, peer, device
        self._buffers_on = _message_device(group, device)
        self._posted = {}

    def post(self, message, shape, dtype):
        """Posts the receive for ``message``, any key, a tensor of ``shape`` and ``dtype``. Receives must be posted in the order
        in which the peer sends."""
        buffer = torch.empty(shape, dtype=dtype, device=self._buffers_on)
        self._posted[message] = dist.irecv(buffer, self.peer, group=self._group), buffer

    def take(self, message):
        """The tensor of ``message``, whose receive was posted. Waits until it is there."""
        work, buffer = self._posted.pop(message)
        work.wait()
        return buffer.to(self._device)


def connect(edge_groups, device):
    """Connects the ends of all edges. ``edge_groups``: {(from_rank, to_rank): group}, in the same order on every process;
    each of the world must call it.

    An edge has its own group, because on a shared one large messages both ways can wait for each other.
    """
    for edge, group in edge_groups.items():
        _connect(*edge, group, device)


def _connect(sender, receiver, group, device):
    """Sends a first small message along an edge.

    NCCL makes a connection at the first message and waits for the other end meanwhile: if every rank of a ring first
    posted a receive, all would wait for ever. All ranks go through the edges in the same order instead.
    """
    if dist.get_rank() not in (sender, receiver):
        return
    hello = torch.zeros(1, device=_message_device(group, device))
    if dist.get_rank() == sender:
        dist.send(hello, receiver, group=group)
    else:
        dist.recv(hello, sender, group=group)


def _is_host_only(group):
    """Whether ``group`` sends and receives from the host's memory only: gloo does, also where it broadcasts from a GPU's."""
    return dist.get_backend(group) == "gloo"


def _message_device(group, device):
    return torch.device("cpu") if _is_host_only(group) else device
