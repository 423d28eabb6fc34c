"""Pictures of traces: what is in the SVG is what is in the trace."""

import re
import sys
import xml.etree.ElementTree as xml

import pytest

from xdualparal import build_schedule
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.simulate import simulate
from xdualparal.plan.timeline import COLOURS, draw_timeline, picture_paths
from xdualparal.strategies.dualparal import DualParalPlan

COSTS = {"F": 2.0, "S": 0.5, "D": 3.0, "L": 0.25, ">": 0.0, "<": 0.0}
SVG = "{http://www.w3.org/2000/svg}"


def cost(action):
    return COSTS[action.kind] / (2 if action.branch else 1)


def groups(file):
    """{id: [(left, right) of each shape's path]} of the SVG, those of an id that two pictures have together."""
    found = {}
    for group in xml.parse(file).iter(f"{SVG}g"):
        for path in group.iter(f"{SVG}path"):
            numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d"))]
            found.setdefault(group.get("id"), []).append((min(numbers[::2]), max(numbers[::2])))
    return found


def drawn(found, name):
    return [shape for group, shapes in found.items() if group and group.startswith(name) for shape in shapes]


@pytest.mark.parametrize("options", [dict(decode="thread", split_guidance=True), dict(decode="inline")])
def test_a_rectangle_for_each_span(tmp_path, options):
    trace = simulate(build_schedule(3, 4, 3, **options), cost)
    [file] = draw_timeline(trace, tmp_path / "a.svg")
    found = groups(file)
    [(left, right)] = drawn(found, "waits 0")
    for lane, row in enumerate(trace.rows):
        for kind in "FSD":
            spans = sorted((span.start, span.end) for span in row if span.action.kind == kind)
            scale = trace.end / (right - left)
            shapes = sorted(((x - left) * scale, (y - left) * scale) for x, y in drawn(found, f"{kind} {lane} "))
            assert [x for shape in shapes for x in shape] == pytest.approx([time for span in spans for time in span], abs=1e-3 * trace.end)
    blocks = {int(one.block) for row in trace.rows for span in row for one in [span.action.one]}
    assert all(drawn(found, f"F 0 {COLOURS[block]}") for block in blocks)


def test_two_traces_on_one_axis(tmp_path):
    schedule = build_schedule(2, 3, 2)
    fast, slow = simulate(schedule, cost), simulate(schedule, lambda action: 2 * cost(action))
    [file] = draw_timeline({"simulated": fast, "recorded": slow}, tmp_path / "a.svg")
    (left, right), (again, twice) = drawn(groups(file), "waits 0")
    assert left == pytest.approx(again) and twice - left == pytest.approx(2 * (right - left), rel=1e-3)
    text = file.read_text()
    for title, trace in (("simulated", fast), ("recorded", slow)):
        assert f"{title}: 2 stages, end {trace.end:.4g} s, bubble {trace.bubble():.1%}<" in text
    assert all(f">{words}<" in text for words in ("seconds", "stage 1", "block 1", "scheduler step", "1.2"))
    assert "decode" not in text and "message" not in text


def test_messages_go_from_rows_to_rows(tmp_path):
    trace = simulate(schedule_with_messages(DualParalPlan(2, 3, 2)), cost, transfer=lambda send: 0.2)
    [file] = draw_timeline(trace, tmp_path / "a.svg", messages=True)
    sends = [span for row in trace.rows for span in row if span.action.kind == ">"]
    found = groups(file)
    assert len(found["messages"]) == len(sends)
    [(left, right)] = drawn(found, "waits 0")
    starts = sorted((x - left) * trace.end / (right - left) for x, _ in found["messages"])
    assert starts == pytest.approx(sorted(span.start for span in sends), abs=0.01 * trace.end)
    [plain] = draw_timeline(trace, tmp_path / "b.svg")
    assert "messages" not in groups(plain)


def test_names_only_where_there_is_room(tmp_path):
    [file] = draw_timeline(simulate(build_schedule(10, 50, 2), cost), tmp_path / "a.svg")
    assert ">3.7<" not in file.read_text()


def test_equal_traces_give_equal_files_of_both_kinds(tmp_path):
    trace = simulate(build_schedule(2, 3, 2), cost)
    first, second = (draw_timeline(trace, tmp_path / name) for name in "ab")
    assert [path.name for path in first] == ["a.svg", "a.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[1].read_bytes().startswith(b"\x89PNG")


def test_refuses(tmp_path, monkeypatch):
    (tmp_path / "there.svg").write_text("mine")
    with pytest.raises(ValueError, match="there.svg exists"):
        draw_timeline(None, tmp_path / "there")
    with pytest.raises(ValueError, match="ends in .jpg: give .svg, .png"):
        picture_paths(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="there is no folder"):
        picture_paths(tmp_path / "none" / "a.png")
    assert picture_paths(tmp_path / "there.svg", overwrite=True) == [tmp_path / "there.svg"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'xdualparal\[pictures\]'") as refused:
        draw_timeline(simulate(build_schedule(1, 1, 1)), tmp_path / "a.svg")
    assert "\n" not in str(refused.value) and (tmp_path / "there.svg").read_text() == "mine"
