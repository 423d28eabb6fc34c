"""SEND and RECV: nobody waits for ever, and the check would see it."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from dualparal_testing.layouts import random_expert_starts, random_layout, with_videos

from xdualparal.plan.actions import FORWARD, RECV, SEND, Action, parse_action
from xdualparal.plan.check import check_schedule
from xdualparal.plan.messages import Messages, schedule_with_messages
from xdualparal.plan.progress import Progress
from xdualparal.plan.schedule import Schedule, whole_schedule
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.dualparal import DualParalPlan, parse_schedule
from xdualparal.strategies.dualparal_settings import CONTEXTS


def test_a_small_one():
    """Two stages, two blocks, two steps: the RECV of what is used next stands before the pass that is under way meanwhile."""
    rows = [" ".join(map(str, row)) for row in schedule_with_messages(DualParalPlan(2, 2, 2, decode="thread")).rows]
    assert rows == [
        "0<0.0@1 0F0.0 0>0.0@1 0F1.0 0>1.0@1 0<1.0@1 0<0.1@1 0F0.1 0>0.1@1 0F1.1 0>1.1@1",
        "1<0.0@0 1<1.0@0 1F0.0 1S0.0 1>0.0@0 1<0.1@0 1F1.0 1S1.0 1>1.0@0 1<1.1@0 1F0.1 1S0.1 1>0.1@0 1>0.1@2 1F1.1 1S1.1 1>1.1@2",
        "2<0.1@1 2D0.1 2<1.1@1 2D1.1",
    ]


def test_it_prints_and_parses_back():
    for first_waves in ((0, 0), (3, 5)):
        schedule = schedule_with_messages(DualParalPlan(3, 4, 3, 2, True, "thread").side_by_side(first_waves))
        parsed = parse_schedule(str(schedule))
        assert (parsed.rows, parsed.plan.first_waves) == (schedule.rows, schedule.plan.first_waves)


def random_plan(numbers):
    """A plan of the sizes of the issue."""
    steps, blocks = numbers.randint(1, 12), numbers.randint(1, 15)
    plan = DualParalPlan(
        blocks, steps, numbers.randint(1, 4), numbers.randint(1, min(5, steps)), numbers.random() < 0.5,
        numbers.choice(["none", "inline", "thread", "end"]), layout=random_layout(numbers, blocks), expert_starts=random_expert_starts(numbers, steps),
        swaps_experts=numbers.random() < 0.5, context=numbers.choice(CONTEXTS),
    )
    return with_videos(numbers, plan)


def random_progress(numbers, plan):
    """All waves, or those of a run that is resumed, stopped, or both."""
    progress = Progress(plan)
    if numbers.random() < 0.4:
        progress = Progress(plan, numbers.randrange(progress.first, plan.num_waves))
    if numbers.random() < 0.4:
        progress.stop_after(numbers.randint(progress.first, plan.num_waves))
    return progress


@pytest.mark.parametrize("seed", range(8))
def test_no_size_deadlocks(seed):
    """Resumed and stopped runs too; messages cost time, and buffers are no more than a posted receive and two sends."""
    numbers = random.Random(seed)
    for _ in range(40):
        plan = random_plan(numbers)
        progress = random_progress(numbers, plan)
        schedule = check_schedule(schedule_with_messages(plan, progress))
        without = [[action for action in row if not action.is_message] for row in schedule.rows]
        assert without == list(map(list, whole_schedule(plan, progress).rows))
        ends = Counter((action.edge, action.one, action.branch, action.kind) for row in schedule.rows for action in row if action.is_message)
        sends, receives = ({key[:3] for key in ends if key[3] == kind} for kind in (SEND, RECV))
        assert sends == receives and set(ends.values()) <= {1}


def posted_late(schedule):
    """The schedule with each RECV behind the FORWARD that it stands before, as late as the executor could ever post it."""
    rows = []
    for row in schedule.stages:
        late, waiting = [], []
        for action in row:
            if action.kind == RECV:
                waiting.append(action)
                continue
            needed = {(need.one, need.branch) for need in schedule.needs(action) if need.lane != action.lane}
            own = [n for n, recv in enumerate(waiting) if action.kind == FORWARD and (recv.one, recv.branch) in needed]
            early = own[-1] + 1 if own else 0
            late += [*waiting[:early], action, *waiting[early:]]
            waiting = []
        rows.append((*late, *waiting))
    return replace(schedule, rows=(*rows, *schedule.rows[schedule.num_stages:]))


@pytest.mark.parametrize("seed", range(2))
def test_receives_may_be_posted_within_the_pass_behind_them(seed):
    """No size deadlocks even if all are posted at its end."""
    numbers = random.Random(200 + seed)
    for _ in range(40):
        plan = random_plan(numbers)
        schedule = schedule_with_messages(plan, random_progress(numbers, plan))
        late = check_schedule(posted_late(schedule))
        assert [sorted(row) for row in late.rows] == [sorted(row) for row in schedule.rows]


@pytest.mark.parametrize("stages, blocks, steps", [(2, 13, 13), (4, 20, 50), (4, 32, 4), (8, 32, 50)])
def test_receives_posted_within_a_pass_cost_nothing(stages, blocks, steps):
    """Where transfers take no time, even those posted at its end."""
    schedule = schedule_with_messages(DualParalPlan(blocks, steps, stages))
    assert simulate(posted_late(schedule)).end == simulate(schedule).end


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_is_stopped_on_the_way_leaves_no_message(seed):
    """The first stage decides the end before the last wave but one, the other lanes hear of it a wave later."""
    numbers = random.Random(100 + seed)
    for _ in range(40):
        plan = random_plan(numbers)
        last = numbers.randint(1, max(1, plan.num_waves - 2))
        rows = []
        last = max(last, Progress(plan).first + 1)
        for lane in range(plan.decode_lane + 1):
            progress, row = Progress(plan), []
            messages = Messages(plan, progress)
            for wave in progress.waves():
                if wave >= (last if lane else last - 1):
                    progress.stop_after(last)
                row += messages.actions(lane, wave)
            rows.append((*row, *plan.actions_at_end(lane, progress)))
        known = Progress(plan)
        known.stop_after(last)
        assert tuple(rows) == schedule_with_messages(plan, known).rows


@pytest.mark.parametrize("stages, blocks, steps", [(2, 13, 13), (4, 20, 50), (4, 32, 4), (8, 32, 50)])
def test_messages_without_cost_cost_nothing(stages, blocks, steps):
    """Against lanes that know at once what the others have done: as fast, to the unit."""
    plan = DualParalPlan(blocks, steps, stages)
    assert simulate(schedule_with_messages(plan)).end == simulate(whole_schedule(plan)).end


def test_at_most_one_send_is_pending():
    """With equal costs and transfers of a fifth of a pass: when a send starts, the one before it on its edge has arrived."""
    plan = DualParalPlan(13, 20, 4)
    trace = simulate(schedule_with_messages(plan), transfer=lambda message: 0.2)
    posted = {(a.edge, a.one, a.branch): s.end for row in trace.rows for s in row for a in [s.action] if a.kind == RECV}
    sent = {}
    for row in trace.rows:
        for span in row:
            if span.action.kind == SEND:
                sent.setdefault(span.action.edge, []).append((span.start, posted[span.action.edge, span.action.one, span.action.branch]))
    for edge, messages in sent.items():
        for (start, peer_posted), (after, _) in zip(messages, messages[1:]):
            assert max(start, peer_posted) <= after, edge


def with_feedback_receives(plan, ahead):
    """The schedule with the first stage's receives as before issue 10: ``ahead`` of them are posted at any time, each by its
    order and not by when it is expected."""
    schedule = schedule_with_messages(plan)
    receives = [action for action in schedule.rows[0] if action.kind == RECV]
    row, taken, posted = receives[:ahead], set(), ahead
    for action in (action for action in schedule.rows[0] if action.kind != RECV):
        row.append(action)
        needed = {need.one for need in plan.needs(action) if need.lane} if action.kind == FORWARD else set()
        for one in sorted(needed - taken, key=[a.one for a in receives].index):
            taken.add(one)
            row += receives[posted:posted + 1]
            posted += 1
    return Schedule(plan, (tuple(row), *schedule.rows[1:]))


@pytest.mark.parametrize("stages, in_flight", [(2, 13), (4, 20)])
def test_the_check_finds_the_old_fault(stages, in_flight):
    """Two messages ahead on the feedback edge: with that many blocks in flight both ends waited for each other (issue 4)."""
    plan = DualParalPlan(40, in_flight, stages)
    with pytest.raises(ValueError, match="deadlock: .*waits for"):
        check_schedule(with_feedback_receives(plan, ahead=2))
    check_schedule(with_feedback_receives(plan, ahead=in_flight + 2))
    check_schedule(schedule_with_messages(plan))


def test_by_their_use_alone_latents_deadlock():
    """A receive in the slot before its use: the sender has more than two messages ready by then (DESIGN section 4)."""
    plan = DualParalPlan(20, 50, 4)
    schedule = schedule_with_messages(plan)
    receives = {action.one: action for action in schedule.rows[0] if action.kind == RECV}
    row = [action for action in schedule.rows[0] if action.kind != RECV]
    slots = [n for n, action in enumerate(row) if action.kind == FORWARD]
    before = {n: [] for n in slots}
    for place, slot in enumerate(slots):
        for need in plan.needs(row[slot]):
            if need.one in receives and need.lane:
                before[slots[max(0, place - 1)]].append(receives.pop(need.one))
    row = [one for n, action in enumerate(row) for one in (*before.get(n, ()), action)]
    with pytest.raises(ValueError, match="deadlock"):
        check_schedule(Schedule(plan, (tuple(row), *schedule.rows[1:])))


def test_a_message_in_another_order_is_seen():
    """Two videos: the first stage has sent both before the second one needs any."""
    plan = DualParalPlan(1, 1, 2, videos=2)
    first, (receive, other, *rest) = schedule_with_messages(plan).rows
    assert [str(receive), str(other)] == ["1<0.0@0", "1<1:0.0@0"]
    with pytest.raises(ValueError, match="lane 0 sends 1:0.0 where lane 1 waits for 0.0"):
        check_schedule(Schedule(plan, (first, (other, receive, *rest))))


def test_no_receive_is_a_deadlock():
    text = str(schedule_with_messages(DualParalPlan(3, 2, 2)))
    with pytest.raises(ValueError, match="deadlock: .*a message's other end"):
        check_schedule(parse_schedule(text.replace("1<0.1@0 ", "")))
    assert parse_action("1<0.1@0") == Action(1, RECV, parse_action("0F0.1").one, peer=0)
