"""xfuser on the CPU over gloo: Ulysses, Ring and both against plain attention, in real processes."""

import sys

import pytest
import torch
import torch.nn.functional as F
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config

HEADS, TOKENS, HEAD_DIM = 4, 16, 8


def usp(rank, ulysses, ring):
    """This rank's part of USP's result for the same q, k, v on all ranks, and of plain attention's."""
    import torch.distributed as dist
    from xfuser.core.distributed import get_sequence_parallel_rank, initialize_runtime_state
    from xfuser.model_executor.layers.usp import USP

    from dualparal_testing.small_wan import small_pipeline

    config = engine_config(ulysses_degree=ulysses, ring_degree=ring, attention_backend="SDPA_FLASH" if ring > 1 else None)
    initialize_runtime_state(small_pipeline(), config)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, TOKENS, HEAD_DIM, generator=generator) for _ in range(3))
    mine = slice(*(TOKENS // dist.get_world_size() * (get_sequence_parallel_rank() + n) for n in (0, 1)))
    ours = USP(*(x[:, :, mine].contiguous() for x in (q, k, v)))
    return ours.numpy(), F.scaled_dot_product_attention(q, k, v)[:, :, mine].numpy()


@pytest.mark.processes
@pytest.mark.parametrize("ulysses, ring", [(2, 1), (1, 2), (2, 2)])
def test_sequence_parallel_attention(ulysses, ring):
    for ours, plain in run_ranks(usp, ulysses * ring, ulysses, ring):
        assert abs(ours - plain).max() < 1e-6


def test_nothing_is_patched_where_there_is_an_accelerator(monkeypatch):
    import wrapt

    from xdualparal.compat import host

    monkeypatch.setattr(host, "_enabled", False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(wrapt, "register_post_import_hook", lambda *_: pytest.fail("patched"))
    host.enable_host_platform()
    assert host._enabled is False


def test_too_late_is_said(monkeypatch):
    from xdualparal.compat import host

    monkeypatch.setattr(host, "_enabled", False)
    monkeypatch.setitem(sys.modules, "xfuser", object())
    monkeypatch.delitem(sys.modules, "xfuser.envs", raising=False)
    if torch.accelerator.is_available():
        pytest.skip("does nothing where there is an accelerator")
    with pytest.raises(RuntimeError, match="before the first import"):
        host.enable_host_platform()


def test_the_clock_that_stands_in_for_cuda_events():
    from xdualparal.compat.host import _HostTorch

    patched = _HostTorch(torch)
    start, end = patched.cuda.Event(enable_timing=True), patched.cuda.Event(enable_timing=True)
    start.record(), patched.cuda.synchronize(), patched.cuda.empty_cache(), end.record(), end.synchronize()
    assert start.elapsed_time(end) >= 0
    assert patched.Tensor is torch.Tensor and torch.cuda.Event is not type(start)
