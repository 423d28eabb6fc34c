"""Runs that are ended on the way."""

from itertools import islice

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.plan.progress import Course
from xdualparal.plan.schedule import Plan
from xdualparal.engine.stop import LEAD_WAVES, StopSign, waves_to_go


class Store(dict):
    """As torch.distributed's, in one process."""

    def add(self, key, amount):
        """The counter after ``amount`` was added."""
        self[key] = self.get(key, 0) + amount
        return self[key]


def test_any_rank_asks_and_one_decides():
    store = Store()
    first, second = StopSign(store, "run", True, 5), StopSign(store, "run", False, 5)
    assert first.last_wave(7) is None and second.last_wave(7) is None
    second.ask()
    assert second.last_wave(8) is None  # it has said so; the first has not looked yet
    assert first.last_wave(8) == 8 + 5 == second.last_wave(9) == first.last_wave(9)


@pytest.mark.parametrize("steps, stagger", [(50, 1), (30, 1), (10, 1), (50, 5), (50, 50), (3, 2), (1, 1)])
def test_nobody_waits_for_messages_that_will_not_be(steps, stagger):
    """In whatever wave it is decided: what the first stage has begun to let in by then belongs to waves that are done."""
    plan = Plan(None, steps, 2, stagger)
    to_go = waves_to_go(plan)
    trips = [plan.wave_of(a.block, a.step) for a in islice(Course(plan).round_trips(), 12000)]
    for decided in range(3 * steps):
        used = sum(wave <= decided for wave in trips)  # a rank that is a wave ahead has used all of this wave's
        assert trips[used + plan.messages_ahead - 1] < decided + to_go


def test_a_tenth_of_the_steps_is_nearly_done():
    assert waves_to_go(Plan(None, 100, 2, 100)) == 10
    assert waves_to_go(Plan(1, 3, 2)) >= LEAD_WAVES


ENDLESS = Case("", num_frames=0, num_steps=5)


def endless(rank, degrees, blocks):
    """The latents of an endless video that one rank stops when ``blocks`` blocks are finished."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(**degrees), ENDLESS.config())
    parts = []
    for segment in pipeline.stream(**ENDLESS.arguments()):
        parts.append(segment)
        if len(parts) == blocks:
            pipeline.stop()
    return (torch.cat(parts, dim=2).numpy() if parts else None), pipeline.was_stopped


@pytest.mark.processes
@pytest.mark.parametrize("degrees", [dict(stages=1), dict(stages=3), dict(stages=2, ulysses_degree=2), dict(stages=2, use_cfg_parallel=True)])
def test_an_endless_video_begins_as_a_long_one(degrees):
    """It is stopped by the output rank, and what it gives is, to the bit for equal degrees, the beginning of a longer video."""
    processes = np.prod([int(n) + (name == "use_cfg_parallel") for name, n in degrees.items()])
    results = run_ranks(endless, processes, degrees, 3)
    latents, _ = results[-1]
    assert all(was_stopped for _, was_stopped in results)
    assert latents.shape[2] >= ENDLESS.config().first_latent(3)
    longer = Case("", num_frames=600, num_steps=5).sequential().numpy()[:, :, :latents.shape[2]]
    assert np.abs(latents - longer).max() / np.abs(longer).max() <= 1e-5
