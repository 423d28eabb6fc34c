"""The schedule as data: golden files, its own text, its needs."""

import itertools

import pytest

from xdualparal import build_schedule
from xdualparal.plan.render import time_grid
from xdualparal.plan.schedule import FORWARD, STEP, Action, Plan, in_order, parse_action, parse_schedule

STAGGERED = [(5, 4, 2, False, 3), (5, 4, 4, True, 2), (3, 5, 2, True, 5), (2, 3, 1, False, 2)]
DECODED = [(3, 2, 2, False, 1, "thread"), (3, 3, 2, True, 2, "inline"), (2, 2, 1, False, 1, "end")]
SIZES = list(itertools.product((1, 2, 5), (1, 3, 4), (1, 2, 4), (False, True))) + STAGGERED + DECODED


@pytest.mark.parametrize("sizes", [
    (1, 3, 1), (3, 2, 2), (3, 4, 2), (4, 5, 4), (3, 3, 4, True), (3, 4, 2, False, 2), (2, 2, 2, False, 1, "thread"),
])
def test_golden(sizes, golden):
    schedule = build_schedule(*sizes)
    name = f"blocks{sizes[0]}_steps{sizes[1]}_stages{sizes[2]}"
    name += "_split" if schedule.split_guidance else ""
    name += f"_stagger{schedule.stagger}" if schedule.stagger > 1 else ""
    file = golden / f"{name}{'_thread' if schedule.lane else ''}.txt"
    assert f"{schedule}\n{time_grid(schedule)}\n" == file.read_text()


@pytest.mark.parametrize("sizes", SIZES)
def test_prints_and_parses_back(sizes):
    schedule = build_schedule(*sizes)
    assert parse_schedule(str(schedule)) == schedule


def test_actions_print_and_parse_back():
    for action in (Action(0, FORWARD, 12, 3), Action(3, STEP, 0, 49), Action(1, FORWARD, 4, 7, "u")):
        assert parse_action(str(action)) == action
    assert str(Action(0, FORWARD, 2, 5)) == "0F2.5" and str(Action(0, FORWARD, 2, 5, "c")) == "0F2.5c"


@pytest.mark.parametrize("text", ["", "0F1", "0X1.2", "F1.2", "0F1.2 "])
def test_refuses_what_is_no_action(text):
    with pytest.raises(ValueError, match="is not an action"):
        parse_action(text)


@pytest.mark.parametrize("text, part", [("stage 0: 0F0.0", "first line"), ("blocks 1, steps 1, stages 2\nstage 0: 0F0.0", "1 stages")])
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
    assert list(map(Plan(3, 2, 1).passes, range(4))) == [[(0, 0)], [(1, 0), (0, 1)], [(2, 0), (1, 1)], [(2, 1)]]
    assert list(map(Plan(2, 4, 1, stagger=3).passes, range(7))) == [
        [(0, 0)], [(0, 1)], [(0, 2)], [(1, 0), (0, 3)], [(1, 1)], [(1, 2)], [(1, 3)],
    ]


def test_an_endless_plan_begins_as_a_long_one():
    endless, long = Plan(None, 4, 2, stagger=2, decode="thread"), Plan(30, 4, 2, stagger=2, decode="thread")
    for wave, stage in itertools.product(range(50), range(3)):
        assert endless.wave_actions(stage, wave) == long.wave_actions(stage, wave)
        for action in long.wave_actions(stage, wave):
            assert endless.needs(action) == long.needs(action)


@pytest.mark.parametrize("stagger", [1, 2, 4])
def test_what_stands_is_what_later_passes_need_of_earlier_ones(stagger):
    plan = Plan(6, 4, 2, stagger)
    for start in range(1, plan.num_waves):
        later = [a for wave in range(start, plan.num_waves) for a in plan.wave_actions(0, wave)]
        needed = {need for a in later for need in plan.needs(a) if need.kind == STEP}
        before = {(n.block, n.step) for n in needed if plan.wave_of(n.block, n.step) < start}
        assert set(plan.standing(start)) == before


def test_finished_blocks_are_counted():
    plan = Plan(3, 4, 1, stagger=2)
    assert [plan.finished(wave) for wave in range(9)] == [0, 0, 0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_pass_once_on_every_stage(sizes):
    blocks, steps, stages, *_ = sizes
    schedule, passes = build_schedule(*sizes), sorted(itertools.product(range(blocks), range(steps)))
    forwards = sorted((*one, branch) for one in passes for branch in schedule.branches_of(*one))
    for stage, actions in enumerate(schedule.stages):
        assert sorted((a.block, a.step, a.branch) for a in actions if a.kind == FORWARD) == forwards
        steps_done = sorted((a.block, a.step) for a in actions if a.kind == STEP)
        assert steps_done == (passes if stage == stages - 1 else [])


def test_guidance_is_split_where_blocks_in_flight_are_fewer_than_stages():
    schedule = build_schedule(5, 5, 3, split_guidance=True)
    split = {wave: {schedule.branches_of(*one) for one in schedule.passes(wave)} for wave in range(9)}
    assert [split[wave] == {("c", "u")} for wave in range(9)] == [True] * 2 + [False] * 5 + [True] * 2
    assert all(split[wave] == {("",)} for wave in range(2, 7))


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


def test_needs_at_the_ends():
    schedule = build_schedule(4, 5, 2)
    assert schedule.needs(parse_action("0F0.0")) == []
    assert schedule.needs(parse_action("0F3.0")) == [parse_action("1S2.0")]  # the newest block has no next context
    assert schedule.needs(parse_action("0F3.4")) == [parse_action("1S3.3"), parse_action("1S2.4")]


@pytest.mark.parametrize("sizes", SIZES)
def test_who_reads_is_who_keeps(sizes):
    schedule = build_schedule(*sizes)
    forwards = [a for row in schedule.stages for a in row if a.kind == FORWARD]
    read = {schedule.next_context(a) for a in forwards} - {None}
    assert read == {a for a in forwards if schedule.gives_context(a)}


@pytest.mark.parametrize("sizes", SIZES)
def test_what_goes_round_is_what_the_first_stage_needs(sizes):
    schedule = build_schedule(*sizes)
    needed = {need for a in schedule.stages[0] if a.kind == FORWARD for need in schedule.needs(a) if need.kind == STEP}
    assert needed == {a for a in schedule.stages[-1] if a.kind == STEP and schedule.goes_round(a)}


@pytest.mark.parametrize("sizes", SIZES)
def test_order_respects_needs_and_lists(sizes):
    schedule = build_schedule(*sizes)
    order = {action: place for place, action in enumerate(in_order(schedule))}
    assert len(order) == sum(map(len, schedule.rows))
    for row in schedule.rows:
        assert [order[a] for a in row] == sorted(order[a] for a in row)
    assert all(order[need] < place for action, place in order.items() for need in schedule.needs(action))
