"""xDiT on a machine without an accelerator, over gloo.

Knows: what xfuser 0.7.0 assumes about its platform, place by place. Must not know: DualParal.
"""

import sys
import time

import torch
import wrapt

from .backports import must_work_around


HOST_PLATFORM, SEQUENCE_PARALLEL = "a CPU host platform", "yunchang's process groups on the CPU"
FLASH_ATTENTION, RUNNER = "flash attention on the CPU", "a runner for every device"


def enable_host_platform():
    """Makes xfuser import and run on the CPU, Ulysses and ring attention included.

    Call it before the first import of ``xfuser``. Does nothing where torch finds an accelerator, and leaves alone what
    the installed xfuser can do itself. Raises RuntimeError when xfuser is imported already, without this.
    """
    if torch.accelerator.is_available() or _is_enabled():
        return
    if "xfuser.envs" in sys.modules and has_host_platform(sys.modules["xfuser.envs"]):
        return
    if "xfuser" in sys.modules:
        raise RuntimeError("xfuser is imported already: call enable_host_platform() before the first import of it")
    for module, patch in _PATCHES.items():
        wrapt.register_post_import_hook(patch, module)
    sys.modules[__name__]._enabled = True


_enabled = False


def _is_enabled():
    return _enabled


def has_host_platform(envs):
    """Whether xfuser, by its module ``envs``, knows what to do without an accelerator."""
    try:
        return envs.get_torch_distributed_backend() == "gloo"
    except NotImplementedError:
        return False


def _patch_envs(envs):
    """Without an accelerator ``get_device_version`` and the backend raise; a CUDA build of torch says CUDA."""
    if not must_work_around(HOST_PLATFORM, has_host_platform(envs)):
        return
    envs._is_cuda = envs._is_hip = lambda: False
    envs.get_device_version = lambda: None
    envs.get_torch_distributed_backend = lambda: "gloo"
    envs.PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True


def _patch_usp(usp):
    """usp.py takes yunchang's process groups only where there is an accelerator."""
    if not must_work_around(SEQUENCE_PARALLEL, usp.PROCESS_GROUP is not None):
        return
    from yunchang.globals import PROCESS_GROUP

    usp.PROCESS_GROUP = PROCESS_GROUP


def _patch_attention(attention_backend):
    """Ring attention needs the log-sum-exp; of torch's CPU kernels this one returns it."""
    backend = attention_backend.AttentionBackendType.SDPA_FLASH
    if not must_work_around(
        FLASH_ATTENTION, _runs_on_the_cpu(attention_backend.ATTENTION_FUNCTION_REGISTRY[backend])
    ):
        return
    attention_backend.ATTENTION_FUNCTION_REGISTRY[backend] = _flash_attention_for_cpu


def _runs_on_the_cpu(attention):
    one = torch.ones(1, 1, 1, 8)
    try:
        return attention(one, one, one, 0.0, False)[1] is not None
    except (NotImplementedError, RuntimeError):
        return False


def _flash_attention_for_cpu(query, key, value, dropout_p, is_causal, attention_kwargs=None):
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p=dropout_p, is_causal=is_causal
    )


def _patch_runner(module):
    """xDiT's runner measures with CUDA events and synchronises CUDA; here the clock and nothing."""
    if not must_work_around(RUNNER, hasattr(module, "synchronize")):
        return
    module.torch = _HostTorch(torch)


class _HostEvent:
    """torch.cuda.Event on a device that is never behind."""

    def __init__(self, enable_timing=False):
        self._time = None

    def record(self):
        """Remembers the time."""
        self._time = time.perf_counter()

    def synchronize(self):
        """Nothing is under way."""

    def elapsed_time(self, end):
        """Milliseconds from this event to ``end``."""
        return (end._time - self._time) * 1000


class _HostCuda(wrapt.ObjectProxy):
    Event = _HostEvent

    def synchronize(self, *_):
        """Nothing is under way."""

    def empty_cache(self):
        """There is no cache."""


class _HostTorch(wrapt.ObjectProxy):
    cuda = _HostCuda(torch.cuda)


_PATCHES = {
    "xfuser.envs": _patch_envs,
    "xfuser.model_executor.layers.usp": _patch_usp,
    "xfuser.core.distributed.attention_backend": _patch_attention,
    "xfuser.model_executor.models.runner_models.base_model": _patch_runner,
    "xfuser.runner": _patch_runner,
}
