"""Recordings of all ranks in one file."""

import json
from types import SimpleNamespace

import pytest
from dualparal_testing.processes import run_ranks

from xdualparal.schedule import parse_action
from xdualparal.simulate import Span
from xdualparal.tracing import write_trace


def spans_of(stage):
    """One span that starts when the stage's number says."""
    return [Span(parse_action(f"{stage}F0.0"), float(stage), stage + 1.0)]


def write_together(rank, path):
    """Every rank of two hands in its spans."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    write_trace(path, spans_of(rank), SimpleNamespace(world_size=2, ranks=[0, 1], rank=rank, cpu_group=dist.group.WORLD))


@pytest.mark.processes
def test_two_ranks(tmp_path):
    run_ranks(write_together, 2, str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [(e["tid"], e["ts"], e["dur"]) for e in events] == [(0, 0.0, 1e6), (1, 1e6, 1e6)]


def test_one_rank(tmp_path):
    write_trace(tmp_path / "trace.json", spans_of(0), SimpleNamespace(world_size=1, ranks=[0], rank=0))
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) == 1
