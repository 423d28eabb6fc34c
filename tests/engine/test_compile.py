"""torch.compile on the stages' blocks."""

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import OFFLOADED, Case, engine_config
from dualparal_testing.small_skyreels import DFCase
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline

pytestmark = pytest.mark.processes
ONE_WINDOW = Case("one window", num_frames=21, num_steps=1)
MANY = Case("with and without a next context", num_frames=85, num_steps=3)
SHORT = Case("with a short last block", num_frames=77, num_steps=3)
OF_SKYREELS = DFCase("SkyReels-V2", num_frames=77, num_steps=3)


def compiled_graphs(rank):
    """How many graphs were compiled after one window, and after a video with windows of every kind."""
    from torch._dynamo.testing import CompileCounter

    counter, counts = CompileCounter(), []
    engine = engine_config(1)
    pipeline = DualParalPipeline(small_pipeline(), engine, MANY.config())
    pipeline.compile(backend=counter)
    for case in (ONE_WINDOW, MANY, SHORT, ONE_WINDOW, SHORT):
        pipeline(**case.arguments())
        counts.append(counter.frame_count)
    return counts


def test_one_compilation_for_all_windows_of_a_size():
    [[after_one_window, after_all, with_short, again, short_again]] = run_ranks(compiled_graphs, 1)
    assert after_one_window == after_all > 0
    assert with_short == again == short_again == 2 * after_one_window


def latents(rank, case, stages, **degrees):
    """The latents of the compiled pipeline, by torch.compile's default backend."""
    pipeline = DualParalPipeline(case.pipeline(), engine_config(stages, **degrees), case.config())
    pipeline.compile()
    output = pipeline(**case.arguments())
    return torch._dynamo.utils.counters["stats"]["unique_graphs"], None if output is None else output.frames.numpy()


@pytest.mark.parametrize("case, stages, ulysses", [(SHORT, 1, 1), (SHORT, 2, 2), (OFFLOADED[0], 2, 1), (OF_SKYREELS, 1, 1)])
def test_compiled_is_the_sequential_program(case, stages, ulysses):
    *_, (graphs, compiled) = run_ranks(latents, stages * ulysses, case, stages, ulysses_degree=ulysses)
    expected = case.sequential().numpy()
    assert graphs > 0
    assert np.abs(compiled - expected).max() / np.abs(expected).max() <= 1e-5
