"""Counted operations against torch's own count of what a run computes."""

import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import CASES, SIZE, Case, engine_config
from dualparal_testing.small_wan import small_pipeline
from torch.utils import flop_counter

from xdualparal import DualParalPipeline
from xdualparal.engine.stage import StageRun
from xdualparal.models.numbers import UMT5_XXL, model_numbers
from xdualparal.models.wan import WanFamily
from xdualparal.plan.actions import Pass
from xdualparal.plan.cost import StagePart, forward_operations, layer_operations, shape_of
from xdualparal.plan.layout import Layout
from xdualparal.plan.memory_numbers import ModelNumbers
from xdualparal.strategies.dualparal import DualParalPlan

FRAME_TOKENS, TEXT_TOKENS = (SIZE // 16) ** 2, 512
COUNTED = [case for case in CASES if case.name in ("more blocks than steps", "no guidance", "last block shorter than the context")]
COUNTED += [Case("cached", num_frames=77, num_steps=3, cached=True), Case("cached, stagger 2", num_frames=77, num_steps=4, stagger=2, cached=True)]


def numbers(config):
    return ModelNumbers(**model_numbers(WanFamily(), dict(config), {}, UMT5_XXL, torch.float32, torch.float32))


def counted(rank, stages, case):
    """[(operations by torch's count, by ours)] of this rank's FORWARDs."""
    pipe, pairs, forward = small_pipeline(), [], StageRun.forward
    # torch 2.13's table has no formula for the CPU's kernel.
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: flop_counter.sdpa_flop_count(q, k, v)}
    pipeline = DualParalPipeline(pipe, engine_config(stages), case.config())
    text_tokens = case.arguments()["prompt_embeds"].shape[1]
    part = StagePart(len(pipeline.stage.layers), pipeline.stage.is_first, pipeline.stage.is_last)

    def watched(self, action, spec, *args, **kwargs):
        with flop_counter.FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
            result = forward(self, action, spec, *args, **kwargs)
        branches = 2 if case.guidance_scale > 1 and not action.branch else 1
        model, plan = numbers(pipeline.stage.config), pipeline.run.plan
        ours = branches * forward_operations(model, part, shape_of(plan, action.one), FRAME_TOKENS, text_tokens).total
        if part.embeds:  # the branches share the embedding
            ours -= (branches - 1) * 2 * spec.window_latents * FRAME_TOKENS * 64 * model.dim
        pairs.append((counter.get_total_flops(), ours))
        return result

    StageRun.forward = watched
    pipeline(**case.arguments())
    return pairs


@pytest.mark.processes
@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.name)
def test_operations_are_what_torch_counts(case):
    for pairs in run_ranks(counted, 2, 2, case):
        assert pairs and all(theirs == ours for theirs, ours in pairs), pairs


def test_a_cached_context_saves_its_part_of_the_window():
    """B = 8, C = 8: half of the linear work of a middle block, over the same keys."""
    plans = [DualParalPlan(9, 4, 1, layout=Layout(8, 8), context=context) for context in ("recomputed", "cached")]
    middle = Pass(0, 2, 1)
    assert [shape_of(plan, middle)[:2] for plan in plans] == [(16, 24), (8, 24)]


def test_a_layer_of_14b_by_hand():
    """480 x 832, 12 latent frames of 1,560 tokens that see 16."""
    model = numbers(dict(num_layers=40, num_attention_heads=40, attention_head_dim=128, ffn_dim=13824))
    tokens, seen = 12 * 1560, 16 * 1560
    by_hand = 12 * tokens * 5120**2 + 4 * tokens * (seen + 512) * 5120 + 4 * tokens * 5120 * 13824
    assert layer_operations(model, tokens, seen, 512).total == by_hand
