"""Directed edges between stages.

Knows: how a tensor gets from one rank to the next without either waiting for the other's computation. Must
not know: what the tensors mean.

Unlike xDiT's own ``pipeline_isend``, which exchanges shapes and, in 0.7.0, drops its handles (DESIGN section 3), here
handles are kept, what is in flight is bounded, receives are posted ahead, and shapes follow from the schedule.
"""

from collections import deque
from datetime import timedelta

import torch
import torch.distributed as dist

# Two messages in flight: one is used or made while the next one travels. More only adds memory.
IN_FLIGHT = 2

# A message is waited for from the moment it is let in, which can be a wave of passes before it is sent: torch's limits (10
# minutes with NCCL) are shorter than that may take. What hangs is found by who watches the passes.
NO_TIMEOUT = timedelta(days=7)


class Sender:
    """The sending end of an edge. ``group``: the edge's own process group; ``peer``: the receiver's global rank."""

    def __init__(self, group, peer):
        self._group, self.peer = group, peer
        self._pending = deque()
        self.bytes_sent = 0

    def send(self, tensor):
        """Starts sending; waits only when IN_FLIGHT earlier messages have not arrived yet."""
        while len(self._pending) >= IN_FLIGHT:
            self._finish_oldest()
        tensor = tensor.contiguous()
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
    """The receiving end of an edge. ``shapes``: yields the shape of each message to come, in order. ``ahead``: how many
    are let in before they are asked for."""

    def __init__(self, group, peer, shapes, dtype, device, ahead=IN_FLIGHT):
        self._group, self.peer = group, peer
        self._shapes, self._dtype, self._device = iter(shapes), dtype, device
        self._posted = deque()
        for _ in range(ahead):
            self._post()

    def _post(self):
        shape = next(self._shapes, None)
        if shape is not None:
            buffer = torch.empty(shape, dtype=self._dtype, device=self._device)
            self._posted.append((dist.irecv(buffer, self.peer, group=self._group), buffer))

    def receive(self):
        """The next message. Waits until it is there."""
        work, buffer = self._posted.popleft()
        work.wait()
        self._post()
        return buffer


class Loop:
    """Both ends of the edge from a stage to itself: with one stage the last one is also the first."""

    def __init__(self):
        self._queue = deque()
        self.bytes_sent, self.peer = 0, dist.get_rank() if dist.is_initialized() else 0  # nothing leaves the process
        self.send, self.receive = self._queue.append, self._queue.popleft

    def finish(self):
        """Nothing travels, so nothing is waited for."""


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
    hello = torch.zeros(1, device=device)
    if dist.get_rank() == sender:
        dist.send(hello, receiver, group=group)
    elif dist.get_rank() == receiver:
        dist.recv(hello, sender, group=group)
