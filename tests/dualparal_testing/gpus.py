"""Ranks on as many GPUs as there are: NCCL where each has its own; gloo where several share one, which NCCL refuses."""

import os

import pytest
import torch

# In the environment: tries the tests themselves on a machine without GPU.
ON_CPU = "XDUALPARAL_GPU_TESTS_ON_CPU"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available() and ON_CPU not in os.environ, reason="there is no GPU")


def num_gpus():
    """How many GPUs there are, at least 1."""
    return max(1, torch.cuda.device_count())


def take_gpu(rank, world_size):
    """Before xDiT is imported, in a rank's process: chooses its GPU, and gloo where ranks share one."""
    os.environ["LOCAL_RANK"] = str(rank % num_gpus())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    from xdualparal import enable_host_platform

    enable_host_platform()
    import xfuser.envs

    if world_size > num_gpus():
        xfuser.envs.get_torch_distributed_backend = lambda: "gloo"


def on_gpu(rank, world_size, function, *args, **options):
    """``function(rank, ...)`` in one of the processes that processes.run_ranks starts."""
    take_gpu(rank, world_size)
    return function(rank, *args, **options)
