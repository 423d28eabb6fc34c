"""Runs that are ended on the way."""

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.engine.stop import StopSign, waves_to_finish
from xdualparal.plan.layout import Layout


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


def test_a_tenth_of_the_steps_is_nearly_done():
    assert waves_to_finish(100, 2) == 10
    assert waves_to_finish(3, 2) == 3 and waves_to_finish(1, 4) == 12


def test_a_store_that_is_gone_ends_its_own_run_and_is_said_once_elsewhere(caplog):
    class Gone:
        """Rank 0 has ended."""

        def add(self, key, amount):
            """It cannot be reached."""
            raise torch.distributed.DistNetworkError("gone")

    sign = StopSign(Gone(), "another replica's", True, 5, keeps_store=False)
    assert sign.last_wave(1) is None and sign.last_wave(2) is None
    assert caplog.text.count("can no longer be stopped early") == 1
    with pytest.raises(torch.distributed.DistNetworkError):
        StopSign(Gone(), "run", True, 5).last_wave(1)


ENDLESS = Case("", num_frames=0, num_steps=5)


def endless(rank, degrees, blocks):
    """The latents of an endless video that one rank stops when ``blocks`` blocks are finished."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(**degrees), ENDLESS.config())
    parts, run = [], pipeline.stream(**ENDLESS.arguments())
    for segment in run:
        parts.append(segment)
        if len(parts) == blocks:
            run.stop()
    return (torch.cat(parts, dim=2).numpy() if parts else None), run.outcome.value


@pytest.mark.processes
@pytest.mark.parametrize("degrees", [dict(stages=1), dict(stages=3), dict(stages=2, ulysses_degree=2), dict(stages=2, use_cfg_parallel=True)])
def test_an_endless_video_begins_as_a_long_one(degrees):
    """It is stopped by the output rank, and what it gives is, to the bit for equal degrees, the beginning of a longer video."""
    processes = np.prod([int(n) + (name == "use_cfg_parallel") for name, n in degrees.items()])
    results = run_ranks(endless, processes, degrees, 3)
    latents, _ = results[-1]
    assert all(outcome == "stopped" for _, outcome in results)
    assert latents.shape[2] >= Layout(ENDLESS.block, ENDLESS.context).first_latent(3)
    longer = Case("", num_frames=600, num_steps=5).sequential().numpy()[:, :, :latents.shape[2]]
    assert np.abs(latents - longer).max() / np.abs(longer).max() <= 1e-5
