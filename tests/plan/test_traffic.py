"""Counted bytes against those that real processes send."""

from collections import Counter

import pytest
import torch
import torch.distributed._functional_collectives as collectives
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SIZE, Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.engine.mesh import Mesh
from xdualparal.models.numbers import UMT5_XXL, model_numbers
from xdualparal.models.wan import WanFamily
from xdualparal.plan.actions import SEND
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.traffic import Traffic
from xdualparal.strategies.table import lane_layers

CASE, CACHED = Case("recomputed", num_frames=77, num_steps=4), Case("cached", num_frames=77, num_steps=4, cached=True)
FIFO = DualParalConfig(strategy="fifo", fifo_window_latents=4, fifo_lookahead_latents=2)
CLIPS = DualParalConfig(strategy="video_infinity", halo_latents=2, global_latents=3)


def counted(degree):
    """A Counter that from now on counts what this rank sends in collectives: of the groups of ``degree`` ranks that are tested."""
    sent, to_all, gather, join = Counter(), collectives.all_to_all_single, collectives.all_gather_single, Mesh.join_branches

    def counting(name, function, share):
        def called(tensor, *args, **kwargs):
            sent[name] += int(tensor.nbytes * share)
            return function(tensor, *args, **kwargs)
        return called

    def joined(self, prediction):
        sent["exchanged"] += prediction.nbytes * (self.branch[1] - 1)
        return join(self, prediction)

    collectives.all_to_all_single = counting("exchanged", to_all, (degree - 1) / degree)
    collectives.all_gather_single = counting("exchanged", gather, degree - 1)
    Mesh.join_branches = joined
    return sent


def bytes_of(rank, stages, configs, degrees):
    """For each config (what was sent over edges and in collectives, what is predicted: over edges, in a stage, what comes from other clips), as measured."""
    sent, engine, found = counted(2), engine_config(stages, attention_backend="SDPA_FLASH", **degrees), []
    for config in configs:
        pipeline = DualParalPipeline(small_pipeline(), engine, config)
        before = sent["exchanged"]
        pipeline(**CASE.arguments())
        run = pipeline.run
        found.append(((run.edges.bytes_sent - clip_bytes(run), sent["exchanged"] - before), predicted(pipeline, stages, run.stage.index, **degrees)))
    return found


def clip_bytes(run):
    """Of the latents of a finished clip, in float32, which goes to the last lane: no part of the plan."""
    goes = run.config.strategy == "video_infinity" and not run.stage.index
    return goes and run.plan.layout.own_latents(0) * 16 * (SIZE // 8) ** 2 * 4


def predicted(pipeline, stages, lane, ulysses_degree=1, ring_degree=1, use_cfg_parallel=False):
    plan, config = pipeline.run.plan, pipeline.stage.config
    model = ModelNumbers(**model_numbers(WanFamily(), dict(config), {}, UMT5_XXL, torch.float32, torch.float32))
    layers = tuple(len(layers) for layers in lane_layers(pipeline.config, config.num_layers, stages))
    run = RunNumbers(
        SIZE, SIZE, 2, plan.layout, CASE.num_steps, layers, ulysses=ulysses_degree, ring=ring_degree, guidance_ranks=1 + use_cfg_parallel,
    )
    traffic, actions = Traffic(model, run, plan), schedule_with_messages(plan).stages[lane]
    over_edges = sum(traffic.message_bytes(one) if one.kind == SEND else traffic.gathered_bytes(one) for one in actions)
    return over_edges, sum(map(traffic.exchanged_bytes, actions))


@pytest.mark.processes
def test_stages_queue_and_clips():
    """What a clip exchanges is counted where it comes; here it is sent by the other one."""
    first, second = run_ranks(bytes_of, 2, 2, (CASE.config(), CACHED.config(), FIFO, CLIPS), {})
    for *pipelined, clips in (first, second):
        assert all(sent == predicted and sent[0] > 0 for sent, predicted in pipelined), pipelined
        assert clips[0][1] == clips[1][0] == 0
    assert first[-1][0][0] == second[-1][1][1] > 0 and second[-1][0][0] == first[-1][1][1] > 0


@pytest.mark.processes
@pytest.mark.parametrize("degrees", [dict(ulysses_degree=2), dict(ring_degree=2), dict(use_cfg_parallel=True)], ids=str)
def test_in_a_stage(degrees):
    for rank in run_ranks(bytes_of, 2, 1, (CASE.config(), CACHED.config(), FIFO), degrees):
        assert all(sent == predicted and sent[1] > 0 for sent, predicted in rank), rank
