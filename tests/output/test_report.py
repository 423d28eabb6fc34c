"""The figures of a run."""

from types import SimpleNamespace

import torch

from xdualparal.engine.meter import Meter
from xdualparal.output.report import as_text, make_report
from xdualparal.engine.executor import Edges
from xdualparal.plan.actions import parse_action
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.plan.simulate import Span, simulate, unit_cost
from xdualparal.plan.schedule import whole_schedule


def a_run(monkeypatch, plan, wall_s):
    """A finished run on one of two stages, each of whose passes took 1 s, with the other stage's figures the same."""
    meter = Meter(lambda: None)
    for wave in range(plan.num_waves):
        for action in plan.actions(0, wave):
            meter.add(Span(action, 0.0, 1.0))
    meter.add(Span(parse_action("2D0.0"), 0.0, 0.25))
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    mesh = SimpleNamespace(gather_objects=lambda own: [own, own | {"rank": 1, "stage": 1}], shard=(0, 1), branch=(0, 1))
    return SimpleNamespace(
        started_s=100.0 - wall_s, mesh=mesh, meter=meter, plan=plan, edges=Edges(outgoing={1: SimpleNamespace(bytes_sent=7)}),
        stage=SimpleNamespace(index=0), device=torch.device("cpu"), first_segment_s=2.0, passes_done=meter.count["F"],
        blocks_finished=plan.num_blocks, progress=SimpleNamespace(first=0, was_stopped=False),
    )


def test_bubbles_are_measured_and_predicted(monkeypatch):
    plan = DualParalPlan(4, 5, 2)
    ideal = simulate(whole_schedule(plan), unit_cost)
    report = make_report(a_run(monkeypatch, plan, wall_s=ideal.end))
    assert abs(report["bubble"] - ideal.bubble()) < 1e-9 and abs(report["predicted_bubble"] - ideal.bubble()) < 1e-9
    assert (report["passes"], report["decode_s"], report["ranks"][0]["sent_bytes"]) == (20, 0.25, 7)
    text = as_text(report).splitlines()
    assert text[0] == f"total           {ideal.end:.1f} s, first frames after 2.0 s"
    assert text[-1].startswith("rank 1          stage 1, sent 0.0 MiB, peak memory ")
    report["memory"] = [dict(before_bytes=0, predicted_bytes=3 << 20), dict(before_bytes=400 << 20, predicted_bytes=5 << 20)]
    first, second = as_text(report).splitlines()[-2:]
    assert first.endswith(" MiB (3 for the run by arithmetic)")
    assert second.endswith(" MiB (400 before loading, 5 for the run by arithmetic)")


def test_other_ranks_have_none(monkeypatch):
    run = a_run(monkeypatch, DualParalPlan(1, 1, 2), 5)
    run.mesh.gather_objects = lambda own: None
    assert make_report(run) is None
