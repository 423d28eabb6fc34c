"""Predicted latency against that of real processes.

The passes of the small model are paced: each takes as long as the arithmetic says, some 0.4 s, of which the computing
needs a tenth.
What is tested is all the rest: that processes wait for each other where the schedule says so. What passes themselves take here is measured by
``examples/measure_plan.py``, not by a test.
"""

import time
from dataclasses import replace

import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SIZE, Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.engine.stage import StageRun
from xdualparal.models.numbers import UMT5_XXL, model_numbers
from xdualparal.models.wan import WanFamily
from xdualparal.plan.device import DeviceProfile
from xdualparal.plan.durations import Durations
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.pricing import trace_of
from xdualparal.plan.recorded import read_trace
from xdualparal.strategies.table import lane_layers

pytestmark = pytest.mark.alone
CASE = Case("paced", num_frames=77, num_steps=4)


def slow_device(processes):
    """So slow in products that a pass takes about 0.4 seconds on each of the processes that share it; links take next to nothing, as here."""
    return DeviceProfile("slow", 10**10, 2e7 / processes, 2e8 / processes, 1e15, 1e15, 1e12, 1e11, 1e11, link_s=1e-3)


def durations(pipeline, plan, stages, ulysses):
    config = pipeline.stage.config
    model = ModelNumbers(**model_numbers(WanFamily(), dict(config), {}, UMT5_XXL, torch.float32, torch.float32))
    layers = [len(layers) for layers in lane_layers(CASE.config(), config.num_layers, stages)]
    run = RunNumbers(SIZE, SIZE, 2, plan.layout, CASE.num_steps, tuple(layers), text_tokens=8, ulysses=ulysses)
    return Durations(model, run, plan, slow_device(stages * ulysses), 1.0)


def paced(rank, stages, ulysses, file):
    """Makes the video with passes that take as long as they should. Returns the seconds that it should take, by arithmetic."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(stages, ulysses_degree=ulysses), CASE.config())
    pipeline(**CASE.arguments())  # connects, and has torch make all that it makes once
    pipeline.config, forward, known = replace(CASE.config(), trace=str(file)), StageRun.forward, []

    def slow(self, action, spec, *args, **kwargs):
        if not known:
            known.append(durations(pipeline, pipeline.run.plan, stages, ulysses))
        end = time.monotonic() + known[0].seconds(action)
        result = forward(self, action, spec, *args, **kwargs)
        time.sleep(max(0.0, end - time.monotonic()))
        return result

    StageRun.forward = slow
    pipeline(**CASE.arguments())
    return trace_of(pipeline.run.plan, known[0]).end


@pytest.mark.processes
@pytest.mark.parametrize("stages, ulysses", [(1, 1), (2, 1), (4, 1), (2, 2)])
def test_latency_is_as_predicted(tmp_path, stages, ulysses):
    file = tmp_path / "trace.json"
    predicted = run_ranks(paced, stages * ulysses, stages, ulysses, file)[0]
    recorded = read_trace(file)
    print(f"{stages} stages, Ulysses {ulysses}: predicted {predicted:.2f} s, measured {recorded.end - recorded.start:.2f} s")
    assert 0.85 < (recorded.end - recorded.start) / predicted < 1.15
