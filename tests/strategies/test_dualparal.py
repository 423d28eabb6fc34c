"""What DualParal's passes see and leave, against the rules of DESIGN section 2, and over all sizes of the issue."""

import itertools
import random
from dataclasses import replace

import pytest
from dualparal_testing.layouts import random_expert_starts, random_layout, with_videos

from xdualparal.plan.actions import FORWARD, STEP, Pass, parse_action
from xdualparal.plan.layout import Layout
from xdualparal.plan.passes import Frames, Kept, KVKey, PassSpec
from xdualparal.plan.progress import Progress
from xdualparal.plan.schedule import whole_schedule
from xdualparal.plan.simulate import replay
from xdualparal.strategies.base import Lanes
from xdualparal.strategies.dualparal import DEFAULT_LAYOUT, DualParal, DualParalPlan, parse_schedule
from xdualparal.strategies.dualparal_settings import CACHED, CONTEXTS, DualParalSettings

LAYOUT = Layout(block_latents=8, context_latents=4)


def spec_of(block, step, **sizes):
    """The spec of a pass of a plan of 4 blocks and 5 steps."""
    return DualParalPlan(4, 5, 2, layout=LAYOUT, **sizes).spec(Pass(0, block, step))


def test_a_pass_in_the_middle():
    spec, head = spec_of(1, 2), KVKey(Pass(0, 2, 1), "head")
    assert spec.window == (Frames(Pass(0, 0, 2), 8, 4), Frames(Pass(0, 1, 1), 0, 8))  # block 0 owns 12
    assert (spec.predicted, spec.position, spec.steps, spec.texts, spec.window_latents) == (range(4, 12), 8, (2,), (0,), 12)
    assert spec.reads == spec.drops == (head,)
    assert spec.keeps == (Kept(KVKey(Pass(0, 1, 2), "head"), 4, 4),)
    assert spec.frees == (Pass(0, 1, 1),)


def test_block_0_and_the_newest():
    first, newest = spec_of(0, 0), spec_of(3, 4)
    assert first.window == (Frames(Pass(0, 0, -1), 0, 12),) and first.predicted == range(12)
    assert (first.position, first.reads, first.keeps) == (0, (), ())
    assert newest.reads == newest.keeps == () and newest.position == 24
    assert newest.window[0] == Frames(Pass(0, 2, 4), 4, 4)  # finished: as it stands after the last step
    assert newest.frees == (Pass(0, 2, 4), Pass(0, 3, 3))


def test_with_a_stagger_neighbours_are_further_apart():
    spec = spec_of(1, 2, stagger=2)
    assert spec.window[0].one == Pass(0, 0, 3) and spec.reads == (KVKey(Pass(0, 2, 0), "head"),)
    assert spec_of(1, 1, stagger=2).reads == ()  # block 2 has not begun


def test_cached_context_is_of_the_same_step():
    """The window is the own frames, at their own position; the last C are kept for the next block, but not of the last one."""
    spec, tail, head = spec_of(1, 2, context=CACHED), KVKey(Pass(0, 0, 2), "tail"), KVKey(Pass(0, 2, 1), "head")
    assert spec.window == (Frames(Pass(0, 1, 1), 0, 8),)
    assert (spec.predicted, spec.position) == (range(8), 12)
    assert spec.reads == spec.drops == (tail, head) and spec.reads_before == 1
    assert spec.keeps == (Kept(KVKey(Pass(0, 1, 2), "head"), 0, 4), Kept(KVKey(Pass(0, 1, 2), "tail"), 4, 4, lasts=True))
    assert spec.frees == (Pass(0, 1, 1),)
    first, last = spec_of(0, 0, context=CACHED), spec_of(3, 4, context=CACHED)
    assert first.reads == () and first.keeps == (Kept(KVKey(Pass(0, 0, 0), "tail"), 8, 4, lasts=True),)
    assert last.keeps == () and last.reads == (KVKey(Pass(0, 2, 4), "tail"),) and last.frees == (Pass(0, 3, 3),)


@pytest.mark.parametrize("blocks, steps, stagger, videos", [(40, 8, 1, 1), (40, 8, 3, 2), (3, 8, 2, 3), (1, 8, 1, 1)])
def test_as_many_entries_of_cached_context_live_as_designed(blocks, steps, stagger, videos):
    """DESIGN section 2: W * min(T, (K - 1) * D)."""
    plan = DualParalPlan(blocks, steps, 2, stagger, layout=LAYOUT, context=CACHED).side_by_side((0,) * videos)
    most = max(len(plan.live(wave).keys) for wave in range(plan.num_waves))
    assert most == videos * min(steps, (blocks - 1) * stagger) == videos * plan.most_kept


def test_anchors_are_of_the_same_step_and_stand_before_what_is_seen():
    """They are kept by block 0 and dropped by the last block; the next context is read after them."""
    anchor, head = KVKey(Pass(0, 0, 2), "anchor"), KVKey(Pass(0, 2, 1), "head")
    spec = spec_of(1, 2, anchor_latents=2)
    assert spec.reads == (anchor, head) and spec.drops == (head,) and (spec.reads_before, spec.moves) == (1, (6,))  # from 0, 1 to 6, 7; the window is 8 to 20
    assert spec_of(0, 2, anchor_latents=2).keeps == (Kept(anchor, 0, 2, lasts=True),) and spec_of(0, 2, anchor_latents=2).moves == ()
    assert spec_of(3, 2, anchor_latents=2).drops == (anchor,) and spec_of(3, 2, anchor_latents=2).moves == (22,)
    cached = spec_of(2, 2, context=CACHED, anchor_latents=1)
    assert cached.reads == (anchor, KVKey(Pass(0, 1, 2), "tail"), KVKey(Pass(0, 3, 1), "head")) and (cached.reads_before, cached.moves) == (2, (15,))
    assert DualParalPlan(1, 5, 2, layout=LAYOUT, anchor_latents=2).spec(Pass(0, 0, 1)).keeps == ()


@pytest.mark.parametrize("blocks, stagger", [(40, 1), (40, 3), (None, 2)])
def test_anchors_of_all_steps_live(blocks, stagger):
    plan = DualParalPlan(blocks, 8, 2, stagger, layout=LAYOUT, anchor_latents=1)
    assert [len([key for key in plan.live(wave).keys if key.part == "anchor"]) for wave in (8, 20, 39)] == [8, 8, 8]


def test_anchors_print_and_parse_back():
    schedule = whole_schedule(DualParalPlan(4, 5, 2, context=CACHED, anchor_latents=2))
    assert parse_schedule(str(schedule)) == schedule


def test_half_passes_need_the_whole_pass_that_left_their_cached_context():
    """5 blocks in flight on 3 stages: waves 3 to 5 are whole, those before and after are split."""
    plan = DualParalPlan(5, 5, 3, split_guidance=True, layout=LAYOUT, context=CACHED)
    assert parse_action("1F1.2") in plan.needs(parse_action("1F2.2")) and parse_action("0F3.2") in plan.needs(parse_action("0F4.2c"))
    assert {parse_action("2F0.2c"), parse_action("2F0.2u")} <= set(plan.needs(parse_action("2F1.2")))


def test_cached_context_prints_and_parses_back():
    schedule = whole_schedule(DualParalPlan(4, 5, 2, context=CACHED, expert_starts=(0, 2), swaps_experts=True))
    assert parse_schedule(str(schedule)) == schedule
    with pytest.raises(ValueError, match="context_timestep is true and context is cached.*leave one of them out"):
        DualParalSettings(context=CACHED, context_timestep="true")


def test_kv_never_cross_experts():
    plan = DualParalPlan(4, 5, 2, layout=LAYOUT, expert_starts=(0, 2))
    assert [plan.spec(Pass(0, 1, step)).expert for step in range(5)] == [0, 0, 1, 1, 1]
    at_boundary, noisier = plan.spec(Pass(0, 1, 2)), plan.spec(Pass(0, 2, 1))
    assert at_boundary.reads == noisier.keeps == ()
    assert at_boundary.window == spec_of(1, 2).window  # latents do cross
    for step in (1, 3, 4):
        assert plan.spec(Pass(0, 1, step)).reads == spec_of(1, step).reads != ()
    assert parse_schedule(str(whole_schedule(plan))).plan == replace(plan, layout=DEFAULT_LAYOUT)
    for wrong in ((), (1,), (0, 3, 2)):
        with pytest.raises(ValueError, match="expert_starts is"):
            replace(plan, expert_starts=wrong)


def test_a_video_is_alone_beside_others():
    """Each pass of a video side by side with others sees and leaves what it does alone, and follows its own text."""
    alone, together = DualParalPlan(4, 5, 2, layout=LAYOUT), DualParalPlan(4, 5, 2, layout=LAYOUT).side_by_side([0, 0, 3])
    for block, step in itertools.product(range(4), range(5)):
        spec, own = alone.spec(Pass(0, block, step)), together.spec(Pass(2, block, step))
        assert own.texts == (2,) and own == as_video(spec, 2)


def as_video(value, video):
    """``value``, a PassSpec or a part of one, with the passes of video 0 as another one's."""
    if isinstance(value, Pass):
        return value._replace(video=video)
    if isinstance(value, PassSpec):
        changed = {name: as_video(getattr(value, name), video) for name in ("window", "reads", "keeps", "drops", "frees")}
        return replace(value, texts=(video,), **changed)
    if isinstance(value, tuple):
        parts = [as_video(one, video) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def test_a_resumed_video_joins_the_others_at_its_wave():
    plan = DualParalPlan(3, 4, 2, layout=LAYOUT).side_by_side([2, 4])
    assert [[str(one) for one in plan.passes(wave)] for wave in range(2, 5)] == [
        ["2.0", "1.1", "0.2"], ["2.1", "1.2", "0.3"], ["2.2", "1:2.2", "1.3", "1:1.3"],
    ]
    assert {one for one in plan.live(2).latents if one.video} == {Pass(1, 0, 3), Pass(1, 1, 2), Pass(1, 2, 1)}


def test_without_context_nothing_is_shared():
    plan = DualParalPlan(4, 5, 2, layout=Layout(8, 0))
    for block, step in itertools.product(range(4), range(5)):
        spec = plan.spec(Pass(0, block, step))
        assert spec.window == (Frames(Pass(0, block, step - 1), 0, 8),) and spec.position == 8 * block
        assert spec.reads == spec.keeps == ()


def test_the_strategy_makes_a_plan():
    plan = DualParal().plan(DualParalSettings(4, 2, stagger=2), 21, 5, Lanes(3, "thread", True))
    assert plan == DualParalPlan(5, 5, 3, 2, True, "thread", layout=Layout(4, 2, 21))
    assert DualParal().plan(DualParalSettings(), None, 5, Lanes(1, "none", False)).num_blocks is None
    assert DualParal().identity(DualParalSettings(4, 2)) == dict(
        strategy="dualparal", block_latents=4, context_latents=2, stagger=1, fresh_noise=0.0, context_timestep="own", context_noise=None, given_noise=None, anchor_latents=None, context="recomputed", context_dtype="model",
    )


# Over sizes: stages 1 to 4, blocks 1 to 15, steps 1 to 12, stagger 1 to 5, split, videos 1 to 3, resumed, each from another wave.

def random_plan(numbers):
    steps, blocks = numbers.randint(1, 12), numbers.randint(1, 15)
    plan = DualParalPlan(
        blocks, steps, numbers.randint(1, 4), numbers.randint(1, min(5, steps)), numbers.random() < 0.5,
        "none", layout=random_layout(numbers, blocks), expert_starts=random_expert_starts(numbers, steps),
        swaps_experts=numbers.random() < 0.5, context=numbers.choice(CONTEXTS),
    )
    return with_videos(numbers, plan)


@pytest.mark.parametrize("seed", range(8))
def test_stores_that_believe_the_specs_always_have_what_is_read(seed):
    """Carried out in an order that the schedule allows, from any wave on: all that a pass reads is there, what is live at
    the start is all that was needed of before, and at the end nothing is left but the last block's latents."""
    numbers = random.Random(seed)
    for _ in range(40):
        plan = random_plan(numbers)
        progress = Progress(plan)
        if numbers.random() < 0.5:
            progress = Progress(plan, numbers.randrange(progress.first, plan.num_waves))
        first = progress.first
        live = plan.live(first)
        assert all(plan.wave_of(one) < max(first, plan.first_wave(one.video)) for one in live.latents) 
        assert all(plan.wave_of(key.one) < max(first, plan.first_wave(key.one.video)) for key in live.keys)
        assert live.keys == () or plan.context == CACHED
        carry_out(plan, whole_schedule(plan, progress), live)


@pytest.mark.parametrize("seed", range(2))
def test_in_a_wave_the_passes_of_an_expert_stand_together(seed):
    numbers = random.Random(seed)
    for plan in (random_plan(numbers) for _ in range(40)):
        for wave in range(plan.num_waves):
            experts = [plan.spec(one).expert for one in plan.passes(wave)]
            assert experts == sorted(experts)


def carry_out(plan, schedule, live):
    """``live``: what the stores have at the start. K/V are of a guidance branch each, "c" or "u"."""
    latents, given, used = set(live.latents), set(live.latents), set()
    kept = [set(itertools.product(live.keys, "cu")) for _ in range(plan.num_stages)]
    for span in replay(schedule):
        action = span.action
        if action.kind == STEP:
            latents.add(action.one)
        if action.kind != FORWARD:
            continue
        spec, branches = plan.spec(action.one), plan.branches_of(action.one)
        assert set(spec.drops) <= set(spec.reads) and set(itertools.product(spec.reads, action.branch or "cu")) <= kept[action.lane]
        kept[action.lane] -= set(itertools.product(spec.drops, action.branch or "cu"))
        kept[action.lane] |= set(itertools.product((one.key for one in spec.keeps), action.branch or "cu"))
        assert all(0 <= one.first and one.first + one.count <= spec.window_latents for one in spec.keeps)
        if action.lane == 0:
            read = {frames.one for frames in spec.window if frames.one.step >= 0}
            assert read <= latents
            used |= read
            if action.branch == branches[-1]:
                latents -= set(spec.frees)
    assert all(not keys for keys in kept)
    assert given <= used  # nothing was live in vain
    unread = {one for one in latents if one not in used}
    finished = {Pass(video, block, plan.num_steps - 1) for video in range(plan.videos) for block in range(plan.num_blocks)}
    newest = {one for one in finished if one.block == plan.num_blocks - 1}
    assert latents == unread and unread <= (newest if plan.layout.context_latents and plan.context != CACHED else finished)


@pytest.mark.parametrize("seed", range(4))
def test_windows_tile_the_video(seed):
    """Predicted frames of all blocks together are all latent frames, once, at their absolute positions."""
    numbers = random.Random(seed)
    for _ in range(40):
        plan = random_plan(numbers)
        for video, step in itertools.product(range(plan.videos), range(plan.num_steps)):
            positions = []
            for block in range(plan.num_blocks):
                spec = plan.spec(Pass(video, block, step))
                positions += [spec.position + frame for frame in spec.predicted]
                assert spec.window_latents <= plan.layout.window_latents
            assert positions == list(range(plan.layout.first_latent(plan.num_blocks)))
