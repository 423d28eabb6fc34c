"""Directed edges between real processes over gloo."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from dualparal_testing.processes import run_ranks
from xfuser.core.distributed import group_coordinator

from xdualparal.engine.p2p import EDGE_CTAS, NO_TIMEOUT, Receiver, Sender, connect, edge_options_maker
from xdualparal.plan.messages import MAX_PENDING_SENDS
from xdualparal.compat.backports import _make_edge_groups, complete_xfuser

complete_xfuser()
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


def test_edges_take_few_multiprocessors_with_nccl(monkeypatch):
    """Each group has options of its own, because torch writes into them."""
    monkeypatch.setattr(dist, "ProcessGroupNCCL", SimpleNamespace(Options=lambda: SimpleNamespace(config=SimpleNamespace())), raising=False)
    monkeypatch.setattr(dist, "new_group", lambda ranks, pg_options, **_: pg_options)
    for make in (_make_edge_groups, group_coordinator.make_edge_groups):
        groups = make([[0, 1, 2], [3, 4, 5]], "nccl", NO_TIMEOUT, edge_options_maker("nccl"))
        assert [options.config.max_ctas for options in groups.values()] == [EDGE_CTAS] * 6
        assert len(set(map(id, groups.values()))) == 6
        assert set(make([[0, 1]], "gloo", NO_TIMEOUT, edge_options_maker("gloo")).values()) == {None}


class OnAnAccelerator(torch.Tensor):
    """A tensor that remembers that it was copied to the host."""

    def cpu(self):
        """A plain tensor."""
        return torch.full((3,), 7.0)


@pytest.mark.parametrize("backend, leaves, buffer", [("gloo", [7.0] * 3, "cpu"), ("nccl", [1.0] * 3, "meta")])
def test_gloo_sends_from_the_hosts_memory(monkeypatch, backend, leaves, buffer):
    """NCCL from the device's, which is "meta" here."""
    sent, work = [], SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(dist, "get_backend", lambda group: backend)
    monkeypatch.setattr(dist, "isend", lambda tensor, *_, **__: sent.append(tensor) or work)
    monkeypatch.setattr(dist, "irecv", lambda tensor, *_, **__: sent.append(tensor) or work)
    Sender("group", 1).send(torch.ones(3).as_subclass(OnAnAccelerator))
    receiver = Receiver("group", 0, torch.device("meta"))
    receiver.post("message", (3,), torch.float32)
    assert sent[0].tolist() == leaves and sent[1].device.type == buffer
    assert receiver.take("message").device.type == "meta"
