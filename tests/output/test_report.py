"""The figures of a run."""

from types import SimpleNamespace

import torch

from xdualparal.engine.meter import Meter
from xdualparal.output.report import as_text, make_reports
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
        stage=SimpleNamespace(index=0), device=torch.device("cpu"), passes_done=meter.count["F"],
        progress=SimpleNamespace(was_stopped=False),
        videos_to_make=[
            SimpleNamespace(first_segment_s=2.0 + n, blocks_finished=plan.num_blocks, first_wave=n, report=None) for n in range(plan.videos)
        ],
    )


def test_bubbles_are_measured_and_predicted(monkeypatch):
    plan = DualParalPlan(4, 5, 2)
    ideal, report = report_of(monkeypatch, plan)
    assert abs(report["bubble"] - ideal.bubble()) < 1e-9 and abs(report["predicted_bubble"] - ideal.bubble()) < 1e-9
    assert (report["passes"], report["decode_s"], report["ranks"][0]["sent_bytes"]) == (20, 0.25, 7)
    text = as_text(report).splitlines()
    assert text[0] == f"total           {ideal.end:.1f} s, first frames after 2.0 s"
    assert text[-1].startswith("rank 1          stage 1, sent 0.0 MiB, peak memory ")
    report["memory"] = [dict(before_bytes=0, predicted_bytes=3 << 20), dict(before_bytes=400 << 20, predicted_bytes=5 << 20)]
    first, second = as_text(report).splitlines()[-2:]
    assert first.endswith(" MiB (3 for the run by arithmetic)")
    assert second.endswith(" MiB (400 before loading, 5 for the run by arithmetic)")


def report_of(monkeypatch, plan):
    """(the Trace of a run of ``plan`` that nothing holds up, the report of its last video)."""
    ideal = simulate(whole_schedule(plan), unit_cost)
    run = a_run(monkeypatch, plan, wall_s=ideal.end)
    make_reports(run)
    return ideal, run.videos_to_make[-1].report


def test_the_stages_figures_are_of_all_videos_and_the_others_of_each(monkeypatch):
    plan = DualParalPlan(4, 4, 2).side_by_side([0, 0])
    ideal, report = report_of(monkeypatch, plan)
    assert abs(report["bubble"] - ideal.bubble()) < 1e-9 and abs(report["predicted_bubble"] - ideal.bubble()) < 1e-9
    assert (report["passes"], report["videos_in_flight"], report["first_segment_s"], report["resumed_from_wave"]) == (32, 2, 3.0, 1)


def test_other_ranks_have_none(monkeypatch):
    run = a_run(monkeypatch, DualParalPlan(1, 1, 2), 5)
    run.mesh.gather_objects = lambda own: None
    make_reports(run)
    assert run.videos_to_make[0].report is None
