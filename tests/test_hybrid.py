"""DualParal with xDiT's other degrees against the sequential program, in real processes over gloo."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import STOCHASTIC_CASES, Case, engine_config, latents_of_cases
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline

pytestmark = pytest.mark.processes
BAR = 1e-5  # relative, float32; the issue's
MOST_PROCESSES = 8
CASE = Case("hybrid", num_frames=57, num_steps=4)
OTHERS = [replace(CASE, name="cached context", cached=True), replace(CASE, name="goes on from a video", continued=3), replace(CASE, name="an image, which is an anchor", has_image=True, anchors=1)]
TABLE = [
    degrees for degrees in itertools.product((1, 2, 4), (1, 2), (1, 2), (1, 2)) if np.prod(degrees) <= MOST_PROCESSES
]


@pytest.fixture(scope="module")
def expected():
    """The sequential program's latents, by the case's name."""
    return {case.name: case.sequential().numpy() for case in (CASE, *OTHERS)}


@pytest.mark.parametrize("stages, ulysses, ring, cfg", TABLE)
def test_every_combination_is_the_sequential_program(expected, stages, ulysses, ring, cfg):
    *others, last = run_ranks(
        latents_of_cases, stages * ulysses * ring * cfg, stages, [CASE, *OTHERS], ulysses_degree=ulysses, ring_degree=ring,
        use_cfg_parallel=cfg == 2, attention_backend="SDPA_FLASH" if ring > 1 else None,
    )
    assert all(other["hybrid"] is None for other in others)
    for name, sequential in expected.items():
        assert np.abs(last[name] - sequential).max() / np.abs(sequential).max() <= BAR


@pytest.mark.parametrize("stages", [1, 2])
def test_guidance_on_two_ranks_gives_the_same_bits(stages):
    cases = [CASE, *OTHERS, *STOCHASTIC_CASES]
    *_, one_rank = run_ranks(latents_of_cases, stages, stages, cases)
    *_, two_ranks = run_ranks(latents_of_cases, 2 * stages, stages, cases, use_cfg_parallel=True)
    assert all(np.array_equal(two_ranks[case.name], one_rank[case.name]) for case in cases)


def test_noise_of_steps_is_shared_by_the_ranks_of_a_frame():
    *_, last = run_ranks(latents_of_cases, 4, 2, STOCHASTIC_CASES, ulysses_degree=2)
    for case in STOCHASTIC_CASES:
        expected = case.sequential().numpy()
        assert np.abs(last[case.name] - expected).max() / np.abs(expected).max() <= BAR


def test_uneven_stages_give_the_same_bits():
    *_, even = run_ranks(latents_of_cases, 2, 2, [CASE])
    *_, uneven = run_ranks(latents_of_cases, 2, 2, [replace(CASE, stage_layers=(3, 1))])
    assert np.array_equal(uneven["hybrid"], even["hybrid"])


def replicas(rank):
    """The two prompts' latents, each from its own replica of two stages."""
    from xfuser.core.distributed import get_data_parallel_rank

    config = engine_config(2, data_parallel_degree=2)
    pipeline = DualParalPipeline(small_pipeline(), config, CASE.config())
    arguments = CASE.arguments()
    if get_data_parallel_rank() == 1:
        names = ("prompt_embeds", "negative_prompt_embeds")
        arguments.update(zip(names, (arguments[name] for name in reversed(names))))
    output = pipeline(**arguments)
    return None if output is None else output.frames.numpy()


def test_replicas_are_independent(expected):
    _, first, _, second = run_ranks(replicas, 4)
    alone = expected[CASE.name]
    assert np.abs(first - alone).max() / np.abs(alone).max() <= BAR
    assert np.abs(second - alone).max() / np.abs(alone).max() > 100 * BAR


def too_small(rank):
    """The message for a frame of one token on two ranks."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1, ulysses_degree=2), CASE.config())
    with pytest.raises(ValueError) as caught:
        pipeline(**CASE.arguments() | dict(height=16, width=16))
    return str(caught.value)


def test_a_frame_that_cannot_be_shared_is_refused():
    for message in run_ranks(too_small, 2):
        assert "has 1 tokens, which 2 ranks" in message and "give a product of 1" in message


def one_branch(rank):
    """The message for guidance that is off on two ranks."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1, use_cfg_parallel=True), CASE.config())
    with pytest.raises(ValueError) as caught:
        pipeline(**CASE.arguments() | dict(guidance_scale=1.0))
    return str(caught.value)


def test_guidance_that_is_off_on_two_ranks_is_refused():
    assert all("there is one branch" in message for message in run_ranks(one_branch, 2))
