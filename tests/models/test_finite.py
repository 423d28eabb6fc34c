"""NaNs and infinities are found wherever they are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xdualparal.models import finite

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


@given(
    dtype=st.sampled_from(DTYPES), shape=st.lists(st.integers(0, 5), max_size=4), where=st.integers(0, 10**6),
    bad=st.sampled_from([None, float("nan"), float("inf"), float("-inf")]), piece=st.integers(1, 9), turned=st.booleans(),
)
def test_is_finite(dtype, shape, where, bad, piece, turned):
    tensor = torch.ones(shape)
    if bad is not None and tensor.numel():
        tensor.view(-1)[where % tensor.numel()] = bad
    tensor = tensor.to(dtype)
    tensor = tensor.T if turned and tensor.dim() == 2 else tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finite, "_PIECE", piece)
        assert finite.is_finite(tensor) == bool(tensor.double().isfinite().all())


def test_whole_numbers_are_finite():
    assert finite.is_finite(torch.arange(5)) and finite.is_finite(torch.tensor([True]))


def test_a_modules_weight_is_named():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    assert finite.not_finite(module) is None
    module[1].running_var[1] = float("nan")  # a buffer
    assert finite.not_finite(module) == "1.running_var"
    assert finite.not_finite(module.to("meta")) is None
