"""One stage's layers."""

import pytest
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.engine import stage

CASE = Case("", num_frames=77, num_steps=2)


@pytest.mark.parametrize("number, calls, expected", [(0, 1, [0]), (2, 5, [2]), (4, 3, [])])
def test_a_function_is_called_once_at_its_number(number, calls, expected):
    called, done = [], []
    function = stage._at_number(number, lambda: called.append(len(done)))
    for _ in range(calls):
        function()
        done.append(1)
    assert called == expected


def layers_done_at_half(rank, stages, guidance_scale):
    """For each pass: how many layers were done when the middle was announced, and how many in all."""
    made, announced, forward = [], [], stage.StageRun.forward

    def watched(self, action, spec, inputs, at_half, then):
        made.append(0)

        def half():
            announced.append(made[-1])
            at_half()

        return forward(self, action, spec, inputs, half, then)

    stage.StageRun.forward = watched
    pipeline = DualParalPipeline(small_pipeline(), engine_config(stages), CASE.config())
    for block in pipeline.pipe.transformer.blocks:
        block.register_forward_hook(lambda *_: made.__setitem__(-1, made[-1] + 1))
    pipeline(**CASE.arguments() | dict(guidance_scale=guidance_scale))
    return announced, made


@pytest.mark.processes
@pytest.mark.parametrize("stages, guidance_scale, half, whole", [(1, 5.0, 4, 8), (2, 1.0, 1, 2), (4, 1.0, 0, 1)])
def test_the_middle_of_a_pass_is_announced(stages, guidance_scale, half, whole):
    """4 layers over the stages, one or two branches."""
    for announced, made in run_ranks(layers_done_at_half, stages, stages, guidance_scale):
        assert set(made) == {whole} and announced == [half] * len(made) and made
