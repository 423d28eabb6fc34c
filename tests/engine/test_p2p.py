"""Directed edges between real processes over gloo."""

import pytest
import torch
import torch.distributed as dist
from dualparal_testing.processes import run_ranks
from xfuser.core.distributed import group_coordinator

from xdualparal.engine.p2p import IN_FLIGHT, NO_TIMEOUT, Loop, Receiver, Sender, connect
from xdualparal.compat.backports import complete_xfuser

MESSAGES = 4


def round_the_ring(rank, ranks, elements):
    """Every rank sends all its messages first, then receives its neighbour's; the means that it received."""
    dist.init_process_group("gloo")
    complete_xfuser()
    groups = group_coordinator.make_edge_groups([list(range(ranks))], "gloo", NO_TIMEOUT)
    connect(groups, torch.device("cpu"))
    before, after = (rank - 1) % ranks, (rank + 1) % ranks
    shapes = [(elements + n,) for n in range(MESSAGES)]
    receiver = Receiver(groups[before, rank], before, shapes, torch.float32, torch.device("cpu"))
    sender = Sender(groups[rank, after], after)
    sums = []
    for n in range(MESSAGES):
        sender.send(torch.full((elements + n,), float(rank)))
        assert len(sender._pending) <= IN_FLIGHT and len(receiver._posted) <= IN_FLIGHT
        if n >= IN_FLIGHT - 1:
            sums.append(receiver.receive().double().mean().item())
    sums += [receiver.receive().double().mean().item() for _ in range(IN_FLIGHT - 1)]
    sender.finish()
    assert not sender._pending and not receiver._posted
    return sums


@pytest.mark.processes
@pytest.mark.parametrize("ranks, elements", [(2, 10), (2, 2_000_000), (4, 17_000_000)])  # up to 68 MB a message
def test_all_send_before_they_receive(ranks, elements):
    for rank, sums in enumerate(run_ranks(round_the_ring, ranks, ranks, elements)):
        assert sums == [float((rank - 1) % ranks)] * MESSAGES


def test_loop():
    loop = Loop()
    loop.send(1), loop.send(2)
    assert (loop.receive(), loop.receive()) == (1, 2)
    loop.finish()
