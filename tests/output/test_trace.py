"""Recordings of all ranks in one file."""

from types import SimpleNamespace

import pytest
from dualparal_testing.processes import run_ranks

from xdualparal.plan.actions import parse_action
from xdualparal.plan.simulate import Span
from xdualparal.output.trace import gather_trace


def spans_of(stage):
    """One span that starts when the stage's number says."""
    return [Span(parse_action(f"{stage}F0.0"), float(stage), stage + 1.0)]


def gather_together(rank):
    """Every rank of two hands in its spans, the last one the decode lane's too."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    spans = spans_of(rank) + (spans_of(2) if rank == 1 else [])
    return gather_trace(spans, SimpleNamespace(world_size=2, ranks=[0, 1], rank=rank, cpu_group=dist.group.WORLD))


@pytest.mark.processes
def test_two_ranks():
    nothing, trace = run_ranks(gather_together, 2)
    assert nothing is None
    assert [list(row) for row in trace.stages] == [spans_of(0), spans_of(1)] and list(trace.lane) == spans_of(2)


def test_one_rank():
    trace = gather_trace(spans_of(0), SimpleNamespace(world_size=1, ranks=[0], rank=0))
    assert (list(trace.stages[0]), trace.lane) == (spans_of(0), ())
