"""DualParal with xDiT's other degrees against the sequential program, in real processes over gloo."""

import itertools

import numpy as np
import pytest
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, latents_of_cases

pytestmark = pytest.mark.processes
BAR = 1e-5  # relative, float32; the issue's
MOST_PROCESSES = 8
CASE = Case("hybrid", num_frames=57, num_steps=4)
TABLE = [
    degrees for degrees in itertools.product((1, 2, 4), (1, 2), (1, 2), (1, 2)) if np.prod(degrees) <= MOST_PROCESSES
]


@pytest.fixture(scope="module")
def expected():
    """The sequential program's latents."""
    return CASE.sequential().numpy()


@pytest.mark.parametrize("stages, ulysses, ring, cfg", TABLE)
def test_every_combination_is_the_sequential_program(expected, stages, ulysses, ring, cfg):
    *others, last = run_ranks(
        latents_of_cases, stages * ulysses * ring * cfg, stages, [CASE], ulysses_degree=ulysses, ring_degree=ring,
        use_cfg_parallel=cfg == 2, attention_backend="SDPA_FLASH" if ring > 1 else None,
    )
    assert all(other["hybrid"] is None for other in others)
    assert np.abs(last["hybrid"] - expected).max() / np.abs(expected).max() <= BAR
