"""The schedule as data: golden files, its own text, its needs."""

import itertools

import pytest

from xdualparal import build_schedule
from xdualparal.plan.render import time_grid
from xdualparal.plan.actions import DECODE, FORWARD, RECV, SEND, STEP, Action, Pass, parse_action
from xdualparal.plan.schedule import whole_schedule
from xdualparal.plan.simulate import replay
from xdualparal.strategies.dualparal import DualParalPlan, parse_schedule

STAGGERED = [(5, 4, 2, False, 3), (5, 4, 4, True, 2), (3, 5, 2, True, 5), (2, 3, 1, False, 2)]
DECODED = [(3, 2, 2, False, 1, "thread"), (3, 3, 2, True, 2, "inline"), (2, 2, 1, False, 1, "end")]
SIZES = list(itertools.product((1, 2, 5), (1, 3, 4), (1, 2, 4), (False, True))) + STAGGERED + DECODED


@pytest.mark.parametrize("sizes", [
    (1, 3, 1), (3, 2, 2), (3, 4, 2), (4, 5, 4), (3, 3, 4, True), (3, 4, 2, False, 2), (2, 2, 2, False, 1, "thread"),
])
def test_golden(sizes, golden):
    schedule = build_schedule(*sizes)
    name = f"blocks{sizes[0]}_steps{sizes[1]}_stages{sizes[2]}"
    name += "_split" if schedule.plan.split_guidance else ""
    name += f"_stagger{schedule.plan.stagger}" if schedule.plan.stagger > 1 else ""
    file = golden / f"{name}{'_thread' if schedule.lane else ''}.txt"
    assert f"{schedule}\n{time_grid(schedule)}\n" == file.read_text()


def test_golden_of_experts_that_change_places(golden):
    """A LOAD stands where an expert's passes begin: twice a wave in the middle of a run, once in a wave of one expert."""
    schedule = whole_schedule(DualParalPlan(3, 4, 2, expert_starts=(0, 2), swaps_experts=True))
    file = golden / "blocks3_steps4_stages2_swapped_experts.txt"
    assert f"{schedule}\n{time_grid(schedule)}\n" == file.read_text()
    assert str(parse_schedule(str(schedule))) == str(schedule)


@pytest.mark.parametrize("sizes", SIZES)
def test_prints_and_parses_back(sizes):
    schedule = build_schedule(*sizes)
    assert parse_schedule(str(schedule)) == schedule


def test_actions_print_and_parse_back():
    one, other = Pass(0, 2, 5), Pass(3, 12, 49)
    actions = [Action(0, FORWARD, one), Action(3, STEP, other), Action(1, FORWARD, one, "u"), Action(2, DECODE, one),
               Action(0, SEND, one, "c", 1), Action(11, RECV, other, peer=0)]
    assert [str(action) for action in actions] == ["0F2.5", "3S3:12.49", "1F2.5u", "2D2.5", "0>2.5c@1", "11<3:12.49@0"]
    assert [parse_action(str(action)) for action in actions] == actions


@pytest.mark.parametrize("text", ["", "0F1", "0X1.2", "F1.2", "0F1.2 ", "0>1.2", "0F1.2@1"])
def test_refuses_what_is_no_action(text):
    with pytest.raises(ValueError, match="is not an action"):
        parse_action(text)


@pytest.mark.parametrize("text, part", [("stage 0: 0F0.0", "first line"), ("blocks 1, steps 1, stages 2\nstage 0: 0F0.0", "1 lists")])
def test_refuses_what_is_no_schedule(text, part):
    with pytest.raises(ValueError, match=part):
        parse_schedule(text)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_refuses_nothing_to_do(sizes):
    with pytest.raises(ValueError, match="give 1 or more"):
        build_schedule(*sizes)


@pytest.mark.parametrize("more, part", [
    (dict(stagger=0), "stagger is 0 and there are 4 steps: give 1 to 4"), (dict(stagger=5), "stagger is 5"),
    (dict(decode="here"), "decode is 'here': give one of none, inline, thread, end"),
])
def test_refuses_what_cannot_be(more, part):
    with pytest.raises(ValueError, match=part):
        build_schedule(3, 4, 2, **more)


def test_waves_are_newest_first_and_staggered():
    assert waves(DualParalPlan(3, 2, 1), 4) == [["0.0"], ["1.0", "0.1"], ["2.0", "1.1"], ["2.1"]]
    assert waves(DualParalPlan(2, 4, 1, stagger=3), 7) == [["0.0"], ["0.1"], ["0.2"], ["1.0", "0.3"], ["1.1"], ["1.2"], ["1.3"]]


@pytest.mark.parametrize("more", [dict(), dict(stagger=3), dict(videos=2, first_waves=(0, 4)), dict(stagger=2, videos=3)])
def test_passes_are_counted_without_making_them(more):
    for blocks in (1, 4, None):
        plan = DualParalPlan(blocks, 5, 2, **more)
        assert [plan.num_passes(wave) for wave in range(20)] == [len(plan.passes(wave)) for wave in range(20)]


def test_videos_side_by_side_are_sorted_by_step():
    assert waves(DualParalPlan(2, 2, 1, videos=2), 3) == [["0.0", "1:0.0"], ["1.0", "1:1.0", "0.1", "1:0.1"], ["1.1", "1:1.1"]]


def waves(plan, count):
    """The passes of the first ``count`` waves, as text."""
    return [[str(one) for one in plan.passes(wave)] for wave in range(count)]


def test_an_endless_plan_begins_as_a_long_one():
    endless, long = DualParalPlan(None, 4, 2, stagger=2, decode="thread"), DualParalPlan(30, 4, 2, stagger=2, decode="thread")
    for wave, stage in itertools.product(range(50), range(3)):
        assert endless.actions(stage, wave) == long.actions(stage, wave)
        for action in long.actions(stage, wave):
            assert endless.needs(action) == long.needs(action)


def test_finished_blocks_are_counted():
    plan = DualParalPlan(3, 4, 1, stagger=2)
    assert [plan.finished(wave) for wave in range(9)] == [0, 0, 0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_pass_once_on_every_stage(sizes):
    blocks, steps, stages, *_ = sizes
    schedule, passes = build_schedule(*sizes), sorted(itertools.product(range(blocks), range(steps)))
    forwards = sorted((*one, branch) for one in passes for branch in schedule.plan.branches_of(Pass(0, *one)))
    for stage, actions in enumerate(schedule.stages):
        assert sorted((a.block, a.step, a.branch) for a in actions if a.kind == FORWARD) == forwards
        steps_done = sorted((a.block, a.step) for a in actions if a.kind == STEP)
        assert steps_done == (passes if stage == stages - 1 else [])


@pytest.mark.parametrize("stages, videos, whole", [(3, 1, range(3, 6)), (1, 1, range(9)), (8, 2, range(4, 5)), (9, 2, ())])
def test_guidance_is_split_where_stages_would_wait(stages, videos, whole):
    """1, 2, 3, 4, 5, 4, 3, 2, 1 blocks in flight of each video; with whole passes fewer than stages + videos leave stages waiting."""
    plan = DualParalPlan(5, 5, stages, split_guidance=True, videos=videos)
    split = [{plan.branches_of(one) for one in plan.passes(wave)} for wave in range(9)]
    assert split == [{("",)} if wave in whole else {("c", "u")} for wave in range(9)]


def test_needs_of_half_passes():
    schedule = build_schedule(2, 3, 4, split_guidance=True)
    assert schedule.needs(parse_action("3S1.1")) == [parse_action("3F1.1c"), parse_action("3F1.1u")]
    assert schedule.needs(parse_action("0F0.1u")) == [parse_action("3S0.0"), parse_action("0F1.0u")]
    assert schedule.needs(parse_action("2F1.1c")) == [parse_action("1F1.1c")]


def test_needs_of_a_pass_in_the_middle():
    schedule = build_schedule(4, 5, 2)
    assert schedule.needs(parse_action("0F1.2")) == [parse_action(t) for t in ("1S1.1", "1S0.2", "0F2.1")]
    assert schedule.needs(parse_action("1F1.2")) == [parse_action(t) for t in ("0F1.2", "1F2.1")]
    assert schedule.needs(parse_action("1S1.2")) == [parse_action("1F1.2")]


def test_needs_with_a_stagger():
    """Block 0 is two steps ahead: at the start of the wave it has done one more step than block 1 is about to do."""
    schedule = build_schedule(4, 5, 2, stagger=2)
    assert schedule.needs(parse_action("0F1.2")) == [parse_action(t) for t in ("1S1.1", "1S0.3", "0F2.0")]
    assert schedule.needs(parse_action("0F1.4")) == [parse_action(t) for t in ("1S1.3", "1S0.4", "0F2.2")]
    assert schedule.needs(parse_action("0F1.1")) == [parse_action(t) for t in ("1S1.0", "1S0.2")]


@pytest.mark.parametrize("place, lane", [("inline", 1), ("thread", 2), ("end", 1)])
def test_blocks_are_decoded_in_order_where_the_plan_says(place, lane):
    schedule = build_schedule(3, 2, 2, decode=place)
    decodes = [a for a in schedule.rows[lane] if a.kind == "D"]
    assert [a.block for a in decodes] == [0, 1, 2]
    assert schedule.needs(decodes[1]) == [parse_action("1S1.1"), decodes[0]]
    assert (schedule.stages[1][-3:] == tuple(decodes)) == (place == "end")


def test_at_the_end_videos_are_decoded_in_turns():
    """So that one decoder's memory is there at a time; a resumed video's from its first block that was not finished."""
    schedule = whole_schedule(DualParalPlan(3, 2, 2, decode="end").side_by_side([0, 2]))
    assert [str(a) for a in schedule.stages[1] if a.kind == DECODE] == ["1D0.1", "1D1.1", "1D2.1", "1D1:1.1", "1D1:2.1"]


def test_needs_at_the_ends():
    schedule = build_schedule(4, 5, 2)
    assert schedule.needs(parse_action("0F0.0")) == []
    assert schedule.needs(parse_action("0F3.0")) == [parse_action("1S2.0")]  # the newest block has no next context
    assert schedule.needs(parse_action("0F3.4")) == [parse_action("1S3.3"), parse_action("1S2.4")]


@pytest.mark.parametrize("sizes", SIZES)
def test_order_respects_needs_and_lists(sizes):
    schedule = build_schedule(*sizes)
    order = {span.action: place for place, span in enumerate(replay(schedule))}
    assert len(order) == sum(map(len, schedule.rows))
    for row in schedule.rows:
        assert [order[a] for a in row] == sorted(order[a] for a in row)
    assert all(order[need] < place for action, place in order.items() for need in schedule.needs(action))
