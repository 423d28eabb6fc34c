"""What Video-Infinity's passes see, against their definition, over random sizes."""

import random

import pytest
from dualparal_testing.layouts import random_expert_starts

from xdualparal import DualParalConfig
from xdualparal.plan.actions import Action, Pass
from xdualparal.plan.check import check_schedule
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.passes import Frames, Scope
from xdualparal.plan.progress import Progress, pass_costs
from xdualparal.plan.render import time_grid
from xdualparal.plan.schedule import AT_END, DECODE_PLACES, INLINE, NO_DECODE, THREAD, whole_schedule
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.base import Lanes
from xdualparal.strategies.clips import ClipLayout, ClipsPlan, ClipsSettings, VideoInfinity

STRATEGY = VideoInfinity()


def layout_of(latent_frames, clips, halo=0, sampled=0):
    """A ClipLayout."""
    return STRATEGY.layout(ClipsSettings(clips, halo, sampled), latent_frames)


def random_plan(numbers):
    """A ClipsPlan of any sizes, and its strategy's arguments are all that it has."""
    clips, steps = numbers.randint(1, 6), numbers.randint(1, 5)
    layout = layout_of(numbers.randint(clips, 30), clips, numbers.randint(0, 9), numbers.randint(0, 40))
    return ClipsPlan(
        layout, steps, 2.0, numbers.randint(0, steps), numbers.choice(DECODE_PLACES), random_expert_starts(numbers, steps)
    )


def test_clips_are_as_even_as_can_be_and_hold_the_video():
    for latent_frames in range(1, 40):
        for clips in range(1, latent_frames + 1):
            layout = layout_of(latent_frames, clips)
            owned = [list(layout.own(clip)) for clip in range(clips)]
            assert sum(owned, []) == list(range(latent_frames)) and layout.num_blocks == clips
            sizes = [layout.own_latents(clip) for clip in range(clips)]
            assert sizes == list(map(len, owned)) and max(sizes) - min(sizes) <= 1 and max(sizes) == layout.window_latents
            assert layout.frames_of(clips, 0, 4) == 1 + 4 * (latent_frames - 1)


def test_a_pass_in_the_middle():
    plan = ClipsPlan(layout_of(20, 4, halo=3, sampled=5), num_steps=5, bias=2.0, global_steps=1)
    early, late = plan.spec(Pass(0, 1, 0)), plan.spec(Pass(0, 1, 4))
    assert late.window == (Frames(Pass(0, 1, 3), 0, 5),) and late.frees == (Pass(0, 1, 3),)
    assert (late.predicted, late.position, late.steps, late.texts, late.expert) == (range(5), 5, (4,), (0,), 0)
    assert late.scopes == (Scope((2, 3, 4, 10, 11, 12), 0.0), Scope((0, 4, 8, 12, 16), -2.0))
    assert early.scopes == (late.scopes[0], Scope((0, 4, 8, 12, 16), 2.0))
    assert not late.reads and not late.keeps and not late.drops
    assert plan.layout.seen_latents == 5 + 6 + 5


def test_the_ends_of_the_video_and_halos_over_several_clips():
    plan = ClipsPlan(layout_of(7, 3, halo=4), num_steps=1)  # 2, 2 and 3 frames
    assert plan.spec(Pass(0, 0, 0)).scopes == (Scope((2, 3, 4, 5), 0.0),)
    assert plan.spec(Pass(0, 1, 0)).scopes == (Scope((0, 1, 4, 5, 6), 0.0),)
    assert plan.exchange(0) == {1: ((0, 1), (2, 3)), 2: ((0, 1), (4, 5))}
    assert ClipsPlan(layout_of(7, 1, halo=4), 1).spec(Pass(0, 0, 0)).scopes == ()


def test_what_is_sent_is_what_is_awaited_and_all_that_is_needed():
    numbers = random.Random(0)
    for _ in range(300):
        plan = random_plan(numbers)
        lanes = range(plan.num_stages)
        exchanges = [plan.exchange(lane) for lane in lanes]
        for lane in lanes:
            own, had = set(plan.layout.own(lane)), set(plan.layout.own(lane))
            for other, (sent, received) in exchanges[lane].items():
                assert set(sent) <= own and exchanges[other][lane] == (received, sent) and (sent or received)
                had |= set(received)
            seen = {frame for scope in plan.spec(Pass(0, lane, 0)).scopes for frame in scope.frames}
            assert seen <= had == seen | own


def test_every_clip_sees_the_same_sampled_frames():
    assert layout_of(20, 4, sampled=5).sampled_frames() == layout_of(20, 1, sampled=5).sampled_frames() == (0, 4, 8, 12, 16)
    assert layout_of(3, 1, sampled=5).sampled_frames() == (0, 1, 2)


def test_lanes_meet_and_the_schedule_ends():
    numbers = random.Random(1)
    for _ in range(100):
        plan = random_plan(numbers)
        schedule = check_schedule(schedule_with_messages(plan))
        assert [str(one) for one in whole_schedule(plan).rows] == [str(one) for one in schedule.rows]
        costs = [numbers.randint(1, 5) for _ in range(plan.num_stages)]
        trace = simulate(schedule, lambda action: costs[action.lane] if action.kind == "F" else 0)
        assert trace.end == plan.num_steps * max(costs)  # the slowest clip holds all up in each step
        assert sum(pass_costs(plan)) == plan.num_steps * plan.num_stages


def test_a_small_schedule_as_text():
    plan = ClipsPlan(layout_of(5, 2), num_steps=2, decode=THREAD)
    assert str(whole_schedule(plan)) == (
        "clips 2 of 5 latent frames, steps 2, decode thread\n"
        "stage 0: 0F0.0 0S0.0 0F0.1 0S0.1\n"
        "stage 1: 1F1.0 1S1.0 1F1.1 1S1.1\n"
        "decode : 2D0.1 2D1.1\n"
    )
    assert time_grid(whole_schedule(plan)) == "stage 0 | 0.0 0.1\nstage 1 | 1.0 1.1"
    assert plan.needs(Action(0, "F", Pass(0, 0, 1))) == [Action(0, "S", Pass(0, 0, 0)), Action(1, "S", Pass(0, 1, 0))]
    at_end = whole_schedule(ClipsPlan(layout_of(5, 2), 2, decode=AT_END))
    inline = whole_schedule(ClipsPlan(layout_of(5, 2), 2, decode=INLINE))
    assert [str(one) for one in at_end.rows[1]] == [str(one) for one in inline.rows[1]] == "1F1.0 1S1.0 1F1.1 1S1.1 1D0.1 1D1.1".split()


def test_a_run_that_is_stopped_has_finished_nothing():
    plan, progress = ClipsPlan(layout_of(5, 2), num_steps=9), Progress(ClipsPlan(layout_of(5, 2), num_steps=9))
    progress.stop_after(6)
    assert list(progress.waves()) == list(range(7)) and progress.was_stopped
    assert plan.finished(7) == 0 and plan.finished(9) == 2
    assert plan.started(0) == 0 and plan.started(1) == 2


def test_the_strategy():
    config = STRATEGY.settled(DualParalConfig(strategy="video_infinity", global_steps=0.5), 3)
    assert config.clips == 3
    plan = STRATEGY.plan(config, 10, 4, Lanes(3, INLINE, split_guidance=True), (0, 2))
    assert plan == ClipsPlan(ClipLayout(4, 0, 10, clips=3, halo=4, sampled=8), 4, 1.0, 2, INLINE, (0, 2))
    assert [plan.spec(Pass(0, 0, step)).expert for step in range(4)] == [0, 0, 1, 1]
    assert STRATEGY.identity(config) == dict(
        strategy="video_infinity", clips=3, halo_latents=4, global_latents=8, scope_bias=1.0, global_steps=0.5
    )


@pytest.mark.parametrize("settings, message", [
    (dict(clips=0), "clips is 0: give a whole number from 1 to 4096"),
    (dict(halo_latents=-1), "halo_latents is -1"),
    (dict(global_latents=2.5), "global_latents is 2.5"),
    (dict(scope_bias=float("nan")), "scope_bias is nan"),
    (dict(global_steps=1.5), "global_steps is 1.5: give a number from 0 to 1"),
    (dict(block_latents=4), "block_latents is 4 and strategy is video_infinity, which has no block_latents"),
    (dict(checkpoint="x"), "checkpoint is x and strategy is video_infinity: all clips are finished together"),
    (dict(videos_in_flight=2), "videos_in_flight is 2 and strategy is video_infinity: every process is busy"),
    (dict(stage_layers=(1, 3)), r"stage_layers is 1,3 and strategy is video_infinity: every process has all layers"),
    (dict(expert_offload=True), "expert_offload is given and strategy is video_infinity"),
])
def test_settings_that_do_not_suit_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        DualParalConfig(strategy="video_infinity", **settings)


def test_numbers_that_do_not_suit_are_refused():
    with pytest.raises(ValueError, match="clips is 2 and there are 3 processes"):
        STRATEGY.settled(ClipsSettings(clips=2), 3)
    with pytest.raises(ValueError, match="the video has 3 latent frames and there are 4 clips"):
        ClipsPlan(layout_of(3, 4), 2)
    with pytest.raises(ValueError, match="num_frames is 0, for a video without end"):
        STRATEGY.plan(ClipsSettings(clips=2), None, 2, Lanes(2, NO_DECODE, False))
    with pytest.raises(ValueError, match="decode is 'here'"):
        ClipsPlan(layout_of(3, 2), 2, decode="here")
    with pytest.raises(ValueError, match="halo_latents is 3 and strategy is dualparal, which has no halo_latents"):
        DualParalConfig(halo_latents=3)
