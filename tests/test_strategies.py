"""Chunks and full attention in real processes over gloo, against diffusers' own pipeline."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SEED, Case, engine_config, left_after_one
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.engine.noise import noise_blocks
from xdualparal.plan.layout import Layout

BAR = 1e-5  # relative, float32
CHUNKS = Case("chunks of 4, 4, 4 and 3 latent frames", num_frames=57, num_steps=9)
FULL = Case("full", num_frames=45, num_steps=3)
OVERLAPPING = Case("chunks of 5, 5 and 4 latent frames, of which 2 are common", num_frames=37, num_steps=9)
CONFIGS = [
    (CHUNKS, DualParalConfig(strategy="chunks", chunk_latents=4)), (FULL, DualParalConfig(strategy="full")),
    (OVERLAPPING, DualParalConfig(strategy="chunks", chunk_latents=5, chunk_overlap_latents=2)),
]


def latents(rank, stages, degrees):
    """The latents of all CONFIGS; None off the output rank."""
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


def chunks_blended():
    """Latent frames 0 to 10 of chunks that begin at 0, 3 and 6: frames 3, 4 and 6, 7 are two chunks'."""
    generator = torch.Generator().manual_seed(SEED)
    noises = noise_blocks(Layout(5, 0, 14), (16, 4, 4), generator, fresh=1.0)  # 5, 5 and 4 frames
    one, two, three = (ordinary(OVERLAPPING, 4 * noise.shape[2] - 3, noise) for noise in noises)
    pieces = [one[:, :, :3]]
    for older, newer in ((one, two), (two, three)):
        pieces.append((2 * older[:, :, 3:4] + newer[:, :, 0:1]) / 3)
        pieces.append((older[:, :, 4:5] + 2 * newer[:, :, 1:2]) / 3)
        pieces.append(newer[:, :, 2:3] if newer is two else newer[:, :, 2:])
    return np.concatenate(pieces, axis=2)


def difference(a, b):
    """The largest difference relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


def left_and_resumed(rank, folder):
    """(a video of 5 chunks that overlap, the same made by a run that is left after the first one and by one that goes on, kept chunks)."""
    config, arguments = CONFIGS[2][1], replace(OVERLAPPING, num_frames=65).arguments
    whole = DualParalPipeline(small_pipeline(), engine_config(1), config)(**arguments()).frames.numpy()
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), replace(config, checkpoint=folder, checkpoint_waves=1))
    parts, kept = left_after_one(pipeline, arguments)
    return whole, np.concatenate([part.numpy() for part in parts], axis=2), kept


@pytest.mark.processes
def test_chunks_that_overlap_are_resumed_to_the_same_bits(tmp_path):
    [(whole, made, kept)] = run_ranks(left_and_resumed, 1, str(tmp_path / "checkpoint"))
    assert kept == 1 and np.array_equal(whole, made)


def left_when_all_is_done(rank, folder):
    """(frames of a video whose frames are made at the end, those of a run that is left after the first block's and of one that goes on, kept blocks)."""
    config = DualParalConfig(block_latents=4, context_latents=2, decode="end")
    arguments = lambda: Case("left", num_frames=57, num_steps=3).arguments() | dict(output_type="np")  # noqa: E731
    whole = DualParalPipeline(small_pipeline(), engine_config(2), config)(**arguments())
    pipeline = DualParalPipeline(small_pipeline(), engine_config(2), replace(config, checkpoint=folder, checkpoint_waves=1000))
    parts, kept = left_after_one(pipeline, arguments)
    return whole and (whole.frames[0], np.concatenate(parts), kept)


@pytest.mark.processes
def test_a_run_that_is_left_when_all_passes_are_done_is_resumed(tmp_path):
    """It only decodes what the caller has not got."""
    *_, (whole, made, kept) = run_ranks(left_when_all_is_done, 2, str(tmp_path / "checkpoint"))
    assert kept == 1 and np.array_equal(whole, made)


@pytest.mark.processes
def test_chunks_and_full_attention_are_what_the_ordinary_pipeline_makes():
    right_ones = chunks_alone(), ordinary(FULL, FULL.num_frames, None), chunks_blended()
    by_stages = {}
    for stages, degrees in ((1, {}), (2, {}), (4, {}), (1, dict(ulysses_degree=2)), (1, dict(use_cfg_parallel=True))):
        *_, made = run_ranks(latents, stages * 2 ** len(degrees), stages, degrees)
        for one, right in zip(made, right_ones, strict=True):
            assert one.shape == right.shape and difference(one, right) <= BAR, (stages, degrees)
        if not degrees:
            by_stages[stages] = made
    for stages in (2, 4):
        assert all(map(np.array_equal, by_stages[stages], by_stages[1]))
