"""Which passes chunks and full attention have, and whose settings are refused."""

from types import SimpleNamespace

import pytest

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.models.wan import WanFamily
from xdualparal.plan.actions import Pass
from xdualparal.plan.check import check_schedule
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.strategies.base import Lanes
from xdualparal.strategies.table import STRATEGIES, strategy_of

LANES = Lanes(2, "thread", True)


def test_full_is_one_pass_a_step():
    config = DualParalConfig(strategy="full")
    plan = strategy_of(config).plan(config, 30, 5, LANES)
    assert [plan.passes(wave) for wave in range(plan.num_waves)] == [[Pass(0, 0, step)] for step in range(5)]
    assert plan.spec(Pass(0, 0, 2)).window_latents == 30
    with pytest.raises(ValueError, match="num_frames is 0, .* and strategy is full"):
        strategy_of(config).plan(config, None, 5, LANES)


@pytest.mark.parametrize("latent_frames, own", [(15, [4, 4, 4, 3]), (16, [4] * 4), (3, [3])])
def test_chunks_see_themselves_only(latent_frames, own):
    config = DualParalConfig(strategy="chunks", chunk_latents=4)
    plan = strategy_of(config).plan(config, latent_frames, 50, LANES)
    passes = [one for wave in range(plan.num_waves) for one in plan.passes(wave)]
    assert len(passes) == 50 * len(own)
    for one in passes:
        spec = plan.spec(one)
        assert [frames.one.block for frames in spec.window] == [one.block] and spec.window_latents == own[one.block]
        assert spec.reads == spec.keeps == ()
    check_schedule(schedule_with_messages(plan))


def test_chunks_overlap():
    config = DualParalConfig(strategy="chunks", chunk_latents=5, chunk_overlap_latents=2)
    plan = strategy_of(config).plan(config, 10, 20, LANES)
    assert [(plan.spec(one).position, plan.spec(one).window_latents) for one in (Pass(0, n, 3) for n in range(3))] == [(0, 5), (3, 5), (6, 4)]
    check_schedule(schedule_with_messages(plan))


@pytest.mark.parametrize("steps, most", [(50, 9), (4, 4), (1, 1)])
def test_memory_does_not_grow_with_the_number_of_chunks(steps, most):
    config = DualParalConfig(strategy="chunks", chunk_latents=4)
    plan = strategy_of(config).plan(config, None, steps, LANES)
    assert max(len(plan.passes(wave)) for wave in range(200)) == most


@pytest.mark.parametrize("given, part", [
    (dict(strategy="chunks", block_latents=4), "block_latents is 4 and strategy is chunks, which has no block_latents: leave it out, or choose dualparal"),
    (dict(strategy="full", stagger=2), "stagger is 2 and strategy is full"),
    (dict(chunk_latents=4), "chunk_latents is 4 and strategy is dualparal, .* choose chunks"),
    (dict(strategy="chunks", chunk_latents=0), "chunk_latents is 0: give a whole number from 1 to 1024"),
    (dict(strategy="chunks", chunk_latents=5, chunk_overlap_latents=3), "chunk_overlap_latents is 3: give a whole number from 0 to 2"),
    (dict(chunk_overlap_latents=3), "chunk_overlap_latents is 3 and strategy is dualparal"),
])
def test_settings_of_another_strategy_are_refused(given, part):
    with pytest.raises(ValueError, match=part):
        DualParalConfig(**given)


@pytest.mark.parametrize("config, way_out", [
    (DualParalConfig(block_latents=20), ", or lower block_latents or context_latents"),
    (DualParalConfig(strategy="chunks", chunk_latents=22), ", or lower chunk_latents"),
    (DualParalConfig(strategy="full"), "expect worse motion"),
    (DualParalConfig(strategy="dualparal"), None),
])
def test_the_warning_on_length_names_the_strategys_own_settings(config, way_out, caplog):
    pipeline, strategy = warning_pipeline(config), strategy_of(config)
    pipeline._warn_of_length(strategy.plan(config, 100, 5, LANES))
    assert caplog.text.strip().endswith(way_out) if way_out else not caplog.text


def warning_pipeline(config, **place):
    """As much of a pipeline as warns of length, on the first rank unless ``place`` says where."""
    pipeline = object.__new__(DualParalPipeline)
    pipeline.mesh, pipeline.family = SimpleNamespace(**dict(decides=True, has_rank_0=True) | place), WanFamily()
    pipeline.strategy, pipeline._warned_latents, pipeline.trained_latents = strategy_of(config), 0, pipeline.family.facts.trained_latents
    return pipeline


def test_the_warning_on_length_is_given_once_and_for_longer_passes_again(caplog):
    """Not for each video, and not by each replica: those of a command are alike."""
    config = DualParalConfig(strategy="full")
    plans = {latents: strategy_of(config).plan(config, latents, 5, LANES) for latents in (21, 30, 40)}
    pipeline, other_replica = warning_pipeline(config), warning_pipeline(config, has_rank_0=False)
    for latents in (21, 30, 30, 40, 30):
        pipeline._warn_of_length(plans[latents])
        other_replica._warn_of_length(plans[latents])
    assert [record.args[0] for record in caplog.records] == [30, 40]


def test_the_defaults_of_every_strategy_are_accepted():
    for name in STRATEGIES:
        config = DualParalConfig(strategy=name)
        assert strategy_of(config).identity(config)["strategy"] == name
