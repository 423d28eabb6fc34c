"""Chunks and full attention in real processes over gloo, against diffusers' own pipeline."""

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SEED, Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.engine.noise import noise_blocks
from xdualparal.plan.layout import Layout

BAR = 1e-5  # relative, float32
CHUNKS = Case("chunks of 4, 4, 4 and 3 latent frames", num_frames=57, num_steps=9)
FULL = Case("full", num_frames=45, num_steps=3)
CONFIGS = [(CHUNKS, DualParalConfig(strategy="chunks", chunk_latents=4)), (FULL, DualParalConfig(strategy="full"))]


def latents(rank, stages, degrees):
    """The latents of both strategies; None off the output rank."""
    engine, made = engine_config(stages, **degrees), []
    for case, config in CONFIGS:
        output = DualParalPipeline(small_pipeline(), engine, config)(**case.arguments())
        made.append(None if output is None else output.frames.numpy())
    return made


def ordinary(case, num_frames, noise):
    """The ordinary pipeline's latents of a video that begins with ``noise``."""
    arguments = case.arguments() | dict(num_frames=num_frames, latents=noise)
    return small_pipeline()(**arguments).frames.numpy()


def chunks_alone():
    """Every chunk's latents, made as a video of its own."""
    noises = noise_blocks(Layout(4, 0, 15), (16, 4, 4), torch.Generator().manual_seed(SEED), fresh=1.0)
    return np.concatenate([ordinary(CHUNKS, 4 * noise.shape[2] - 3, noise) for noise in noises], axis=2)


def difference(a, b):
    """The largest difference relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.processes
def test_chunks_and_full_attention_are_what_the_ordinary_pipeline_makes():
    alone, whole = chunks_alone(), ordinary(FULL, FULL.num_frames, None)
    by_stages = {}
    for stages, degrees in ((1, {}), (2, {}), (4, {}), (1, dict(ulysses_degree=2)), (1, dict(use_cfg_parallel=True))):
        *_, made = run_ranks(latents, stages * 2 ** len(degrees), stages, degrees)
        for one, right in zip(made, (alone, whole), strict=True):
            assert one.shape == right.shape and difference(one, right) <= BAR, (stages, degrees)
        if not degrees:
            by_stages[stages] = made
    for stages in (2, 4):
        assert all(map(np.array_equal, by_stages[stages], by_stages[1]))
