"""How long stages wait by arithmetic, against the simulation of the whole schedule."""

import random
from dataclasses import replace

import pytest

from xdualparal.plan import advice
from xdualparal.plan.advice import Degrees, Job
from xdualparal.plan.schedule import whole_schedule
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.dualparal import DualParalPlan


def job(blocks, steps, stagger=1, **changes):
    """A Job on a model with 16 layers and 4 heads."""
    settings = dict(prompts=1, guided=False, most_stages=16, shards=(1, 2, 4)) | changes
    return Job(lambda stages, split, videos: DualParalPlan(blocks, steps, stages, stagger, split, videos=videos), **settings)


def random_plan(draw):
    """Also with more blocks than can be in flight together, and with fewer."""
    steps = draw.randint(1, 9)
    return DualParalPlan(
        draw.randint(1, 14), steps, draw.randint(1, 9), draw.randint(1, steps), draw.random() < 0.5, videos=draw.randint(1, 3)
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_end_is_that_of_the_simulation(seed):
    plan = random_plan(random.Random(seed))
    assert advice.end(plan) == pytest.approx(simulate(whole_schedule(plan)).end), plan


@pytest.mark.parametrize("steps, stages, percents", [  # DESIGN section 2: 32 blocks, 1, 2 and 4 videos side by side
    (4, 2, (2.3, 0.4, 0.2)), (4, 4, (10.5, 2.7, 0.6)), (4, 8, (54.8, 10.8, 2.8)), (8, 4, (5.5, 1.3, 0.3)), (8, 8, (19.7, 5.7, 1.4)),
])
def test_the_table_of_few_steps(steps, stages, percents):
    waiting = [job(32, steps, prompts=videos).waiting(Degrees(stages, videos=videos)) for videos in (1, 2, 4)]
    assert tuple(round(100 * share, 1) for share in waiting) == percents


def test_guidance_is_split_unless_each_branch_has_its_own_ranks():
    guided = job(32, 4, guided=True)
    assert round(100 * guided.waiting(Degrees(8)), 1) == 20.2  # DESIGN section 2
    assert round(100 * guided.waiting(Degrees(8, branches=2)), 1) == 54.8


@pytest.mark.parametrize("seed", range(8))
def test_an_endless_video_is_the_limit_of_long_ones(seed):
    draw = random.Random(seed)
    endless = replace(random_plan(draw), num_blocks=None)
    videos = endless.videos
    waiting = [
        job(blocks, endless.num_steps, endless.stagger, prompts=videos).waiting(Degrees(endless.num_stages, videos=videos))
        for blocks in (None, 10**3, 10**6)
    ]
    assert waiting[2] == pytest.approx(waiting[0], abs=1e-5) and waiting[1] >= waiting[2] - 1e-9 >= waiting[0] - 2e-9


def test_videos_without_end_are_all_in_flight():
    """Four stages keep four blocks busy with one video alone, but the other one would never begin."""
    assert job(None, 4).waiting(Degrees(4)) == 0
    assert job(None, 4, prompts=2).waiting(Degrees(4)) == 1
    assert job(None, 4, prompts=2, most_videos=2).better(Degrees(16, videos=2))[0] == Degrees(8, shards=2, videos=2)


def test_many_passes_are_estimated(monkeypatch):
    """Near enough to tell 4 % from 15: DESIGN section 2 has 3.8 and 17.7 % for 50 steps on 8 stages; fewer blocks than stages, too."""
    cases = [(32, 50, 1, 8), (32, 50, 5, 8), (None, 50, 1, 8), (5, 50, 1, 8), (None, 4, 1, 8)]
    exact = [job(*case[:3]).waiting(Degrees(case[3])) for case in cases]
    monkeypatch.setattr(advice, "MOST_PASSES", 0)
    estimated = [job(*case[:3]).waiting(Degrees(case[3])) for case in cases]
    assert estimated == pytest.approx(exact, abs=0.03) and estimated != exact
    assert job(10**6, 1000).waiting(Degrees(8)) < 1e-6


def test_replicas_wait_for_the_one_with_most_videos():
    """Five prompts on two replicas, two videos side by side: 3 and 2, so one replica makes two, then one."""
    def end(videos):
        return simulate(whole_schedule(DualParalPlan(6, 4, 3, videos=videos))).end

    share = job(6, 4, prompts=5).waiting(Degrees(3, replicas=2, videos=2))
    assert share == pytest.approx(1 - 5 * 6 * 4 / (2 * (end(2) + end(1))))


def test_alternatives_keep_the_processes_and_the_limits():
    given = Degrees(8, shards=2)
    found = set(job(32, 4, prompts=2, guided=True, most_videos=2).alternatives(given))
    assert {one.processes for one in found} == {16} and given in found
    assert {name: {getattr(one, name) for one in found} for name in Degrees._fields} == dict(
        stages={1, 2, 4, 8, 16}, shards={1, 2, 4}, branches={1, 2}, replicas={1, 2}, videos={1, 2}
    )
    assert not any(one.replicas * one.videos > 2 for one in found)
    alone = set(job(32, 4, most_stages=4, shards=(1, 2)).alternatives(given))
    assert not alone  # 16 processes and no place for them
    assert set(job(32, 4, most_stages=4).alternatives(given)) == {Degrees(4, 4)}


def test_the_better_degrees():
    """Half the waiting at least, and as many stages as that allows."""
    few_steps = job(32, 4)
    degrees, waiting = few_steps.better(Degrees(8))
    assert degrees == Degrees(4, shards=2) and round(100 * waiting, 1) == 10.5
    assert few_steps.better(Degrees(16))[0] == Degrees(4, shards=4)  # 8 stages still wait 54.8 % of 77.4
    assert job(32, 4, prompts=2, most_videos=2).better(Degrees(8))[0] == Degrees(8, videos=2)
    assert job(32, 4, shards=(1,)).better(Degrees(8)) is None
    assert job(32, 4, allows=lambda degrees: degrees.stages < 4).better(Degrees(8))[0] == Degrees(2, shards=4)
    assert job(1, 4, guided=True).better(Degrees(2))[0] == Degrees(1, branches=2)
