"""Attention backends: the dense ones give the sequential program's result, the others are refused by name."""

import numpy as np
import pytest
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, latents_of_cases

from xdualparal.compat.backends import check_backend

CASE = Case("backend", num_frames=57, num_steps=4)


@pytest.mark.processes
@pytest.mark.parametrize("backend", ["SDPA", "sdpa_math", "SDPA_FLASH"])
def test_dense_backends(backend):
    *_, last = run_ranks(latents_of_cases, 2, 2, [CASE], attention_backend=backend)
    expected = CASE.sequential().numpy()
    assert np.abs(last["backend"] - expected).max() / np.abs(expected).max() <= 1e-5


def test_every_backend_of_xdit_is_known_as_dense_or_refused():
    from xfuser.core.distributed.attention_backend import AttentionBackendType

    refused = {name for name in AttentionBackendType.__members__ if refusal(name, on_cpu=False)}
    words = ("Sparge", "Sparse", "VSA", "Flex")
    assert refused == {name for name, kind in AttentionBackendType.__members__.items() if any(w in kind.value for w in words)}


def refusal(name, on_cpu):
    """The message, or None."""
    try:
        return check_backend(name, on_cpu)
    except ValueError as error:
        return str(error)


def test_messages():
    assert "aiter_vsa picks keys" in refusal("aiter_vsa", on_cpu=False)
    assert "CUDNN has no kernel for the CPU: give one of SDPA, SDPA_MATH, SDPA_FLASH" in refusal("CUDNN", on_cpu=True)
    assert refusal(None, on_cpu=True) is None and refusal("FLASH_3", on_cpu=False) is None
