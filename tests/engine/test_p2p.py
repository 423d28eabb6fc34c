"""Directed edges between real processes over gloo."""

import pytest
import torch
import torch.distributed as dist
from dualparal_testing.processes import run_ranks
from xfuser.core.distributed import group_coordinator

from xdualparal.engine.p2p import NO_TIMEOUT, Receiver, Sender, connect
from xdualparal.plan.messages import MAX_PENDING_SENDS
from xdualparal.compat.backports import complete_xfuser

MESSAGES = 4


def round_the_ring(rank, ranks, elements):
    """Every rank sends all its messages first, then takes its neighbour's, the last one first; the means that it received."""
    dist.init_process_group("gloo")
    complete_xfuser()
    groups = group_coordinator.make_edge_groups([list(range(ranks))], "gloo", NO_TIMEOUT)
    connect(groups, torch.device("cpu"))
    before, after = (rank - 1) % ranks, (rank + 1) % ranks
    receiver, sums = Receiver(groups[before, rank], before, torch.device("cpu")), []
    sender = Sender(groups[rank, after], after)
    for n in range(MESSAGES):
        receiver.post(n, (elements + n,), torch.float32)
    for n in range(MESSAGES):
        sender.send(torch.full((elements + n,), float(rank + 10 * n)))
        assert len(sender._pending) <= MAX_PENDING_SENDS
    for n in reversed(range(MESSAGES)):  # in any order
        sums.append(receiver.take(n).double().mean().item())
    sender.finish()
    assert not sender._pending and not receiver._posted
    return sums


@pytest.mark.processes
@pytest.mark.parametrize("ranks, elements", [(2, 10), (2, 2_000_000), (4, 17_000_000)])  # up to 68 MB a message
def test_all_send_before_they_receive(ranks, elements):
    for rank, sums in enumerate(run_ranks(round_the_ring, ranks, ranks, elements)):
        assert sums == [float((rank - 1) % ranks + 10 * n) for n in reversed(range(MESSAGES))]
