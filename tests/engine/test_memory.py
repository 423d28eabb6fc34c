"""plan/memory.py's rules against what torch's allocator gives in a run, rank by rank.

Not where ranks share a pass (Ulysses, ring, guidance ranks): gloo's threads free what such ranks exchange, which the profiler does
not see. examples/measure_memory.py measures those as processes.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from dualparal_testing.allocated import Allocated
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config
from dualparal_testing.small_skyreels import small_df_pipeline
from dualparal_testing.small_wan import TEXT_DIM, small_pipeline, small_transformer, texts

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.models.numbers import UMT5_XXL, model_numbers
from xdualparal.models.skyreels import SkyReelsDFFamily
from xdualparal.models.wan import WanFamily
from xdualparal.plan.layout import Layout
from xdualparal.plan.memory import memory_of_ranks
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.partition import layer_ranges
from xdualparal.plan.schedule import NO_DECODE

SIZE, STEPS, FRAMES = 256, 3, 77
HEAD_DIM = 48  # of 4 heads: hidden states are larger than latents, as in real models
CONFIG = DualParalConfig(block_latents=4, context_latents=2)


@dataclass(frozen=True)
class Run:
    """What is run."""

    stages: int = 1
    guidance_scale: float = 5.0
    dtype: torch.dtype = torch.float32
    ffn_dim: int = 512
    context_timestep: str = "own"
    context: str = "recomputed"
    context_dtype: str = "model"
    is_skyreels: bool = False
    anchor_latents: int = 0

    def pipeline(self):
        """The small pipeline that is run."""
        sizes = dict(attention_head_dim=HEAD_DIM, ffn_dim=self.ffn_dim)
        if self.is_skyreels:
            pipe = small_df_pipeline(**sizes)
            pipe.transformer.to(self.dtype)
            return pipe
        pipe = small_pipeline()
        pipe.register_modules(transformer=small_transformer(**sizes).to(self.dtype))
        return pipe

    @property
    def config(self):
        """The settings."""
        return replace(CONFIG, context_timestep=self.context_timestep, context=self.context, context_dtype=self.context_dtype, anchor_latents=self.anchor_latents)

    def predicted(self):
        """A RankMemory for each rank."""
        config = dict(
            num_attention_heads=4, attention_head_dim=HEAD_DIM, text_dim=TEXT_DIM, freq_dim=32, ffn_dim=self.ffn_dim, num_layers=4
        )
        model = ModelNumbers(**model_numbers(SkyReelsDFFamily() if self.is_skyreels else WanFamily(), config, {}, UMT5_XXL, self.dtype, torch.float32))
        layers = tuple(len(one) for one in layer_ranges(4, CONFIG, self.stages))
        run = RunNumbers(
            SIZE, SIZE, 2 if self.guidance_scale > 1 else 1, Layout(4, 2, 1 + (FRAMES - 1) // 4), STEPS, layers,
            text_tokens=8, decode=NO_DECODE, on_host=True, frame_timesteps=self.context_timestep == "true",
            kept_bytes=(1 if self.context_dtype == "float8" else self.dtype.itemsize) if self.context == "cached" else 0,
            anchor_latents=self.anchor_latents, anchor_bytes=self.dtype.itemsize,
        )
        return memory_of_ranks(model, run)


def allocated(rank, run):
    """The most bytes that a rank's run takes from torch's allocator."""
    positive, negative = texts()
    pipeline = DualParalPipeline(run.pipeline(), engine_config(run.stages), run.config)
    arguments = dict(
        prompt_embeds=positive, negative_prompt_embeds=negative, height=SIZE, width=SIZE, num_frames=FRAMES,
        num_inference_steps=STEPS, guidance_scale=run.guidance_scale, generator=torch.Generator().manual_seed(1),
    )
    with Allocated() as memory:
        for _ in pipeline.stream(**arguments, output_type="latent"):
            pass
    return memory.peak


RUNS = {
    "one stage": Run(),
    "one stage, no guidance": Run(guidance_scale=1.0),
    "one stage, bfloat16": Run(dtype=torch.bfloat16),
    "one stage, wide feed-forward": Run(ffn_dim=1600),
    "one stage, true timesteps": Run(context_timestep="true"),
    "one stage, true timesteps, bfloat16": Run(dtype=torch.bfloat16, context_timestep="true"),
    "one stage, SkyReels-V2": Run(context_timestep="true", is_skyreels=True),
    "one stage, SkyReels-V2, bfloat16": Run(dtype=torch.bfloat16, context_timestep="true", is_skyreels=True),
    "one stage, SkyReels-V2, the window's timestep": Run(is_skyreels=True),
    "one stage, cached context": Run(context="cached"),
    "one stage, cached context, float8": Run(context="cached", context_dtype="float8"),
    "one stage, anchors": Run(anchor_latents=2),
    "two stages, cached context": Run(2, context="cached"),
    "two stages": Run(2),
    "two stages, bfloat16": Run(2, dtype=torch.bfloat16),
    "two stages, no guidance": Run(2, guidance_scale=1.0),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", RUNS)
def test_a_run_takes_what_was_predicted(name):
    run = RUNS[name]
    measured = run_ranks(allocated, run.stages, run)
    for memory, bytes_taken in zip(run.predicted(), measured, strict=True):
        expected = replace(memory, weights=0, vae=0, text_encoder=0, loading=0).total
        assert bytes_taken == pytest.approx(expected, rel=0.05)
