"""Traces that were recorded: read back, and beside simulated ones."""

import json

import pytest

from xdualparal import build_schedule
from xdualparal.plan.actions import parse_action
from xdualparal.plan.recorded import compare, read_trace
from xdualparal.plan.render import chrome_trace
from xdualparal.plan.simulate import Span, Trace, simulate

COSTS = {"F": 2.0, "S": 0.5, "D": 3.0, "L": 0.25}


def simulated(scale=1.0, **options):
    return simulate(build_schedule(3, 4, 2, **options), cost=lambda a: scale * COSTS[a.kind] / (2 if a.branch else 1))


@pytest.mark.parametrize("options", [dict(decode="thread"), dict(decode="inline"), dict(split_guidance=True), {}])
def test_reads_what_was_written(tmp_path, options):
    trace, file = simulated(**options), tmp_path / "trace.json"
    file.write_text(chrome_trace(trace, spec={"seed": 1}))
    read = read_trace(file)
    assert len(read.stages) == 2 and bool(read.lane) == (options.get("decode") == "thread")
    assert [[span.action for span in row] for row in read.rows] == [[span.action for span in row] for row in trace.rows]
    times = [(one.start, two.start, one.end, two.end) for a, b in zip(read.rows, trace.rows) for one, two in zip(a, b)]
    assert all(start == pytest.approx(s) and end == pytest.approx(e) for start, s, end, e in times)


def event(**changes):
    return {"tid": 0, "ts": 0.0, "dur": 1.0, "args": {"action": "0F0.0"}} | changes


@pytest.mark.parametrize("content", [
    "", "{}", "[]", "no", json.dumps({"traceEvents": []}), json.dumps({"traceEvents": [event(tid=1)]}),
    json.dumps({"traceEvents": [event(args={"action": "a kernel"})]}), json.dumps({"traceEvents": [event(dur=-1.0)]}),
    json.dumps({"traceEvents": [event(dur=None)]}), json.dumps({"traceEvents": [event(tid=1, args={"action": "1F0.0"})]}), "\xff",
])
def test_refuses_what_is_no_trace(tmp_path, content):
    file = tmp_path / "trace.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="is not a recorded trace: give") as refused:
        read_trace(file)
    assert "\n" not in str(refused.value)


def test_refuses_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read .No such file"):
        read_trace(tmp_path / "none.json")


def test_compares_in_numbers():
    slow = simulated(scale=2.0, split_guidance=True)
    late = Trace(tuple(tuple(Span(s.action, s.start + 7, s.end + 7) for s in row) for row in slow.stages))
    pair = compare(late, simulated(split_guidance=True))
    assert pair.end_s[0] == pytest.approx(2 * pair.end_s[1]) and pair.bubble[0] == pytest.approx(pair.bubble[1])
    assert pair.busy_s == ((48.0, 24.0), (60.0, 30.0)) and pair.pass_s == ((4.0, 2.0), (4.0, 2.0))
    assert json.loads(json.dumps(pair.as_json()))["pass_s"] == [[4.0, 2.0], [4.0, 2.0]]
    lines = pair.as_text().splitlines()
    assert lines[0].split() == ["recorded", "simulated", "ratio"] and lines[1].split()[0] == "end" and lines[1].endswith("2.00")
    assert lines[-1].split() == ["stage", "1", "pass", "4", "s", "2", "s", "2.00"]


def test_refuses_other_stages():
    one = Trace(((Span(parse_action("0F0.0"), 0.0, 1.0),),))
    with pytest.raises(ValueError, match="has 1 stages and the simulated one 2"):
        compare(one, simulated())
