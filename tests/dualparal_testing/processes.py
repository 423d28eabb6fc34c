"""Real processes over gloo: started, given a time limit, always reaped."""

import multiprocessing
import os
import socket
import sys
import time
import traceback
from multiprocessing.forkserver import ensure_running

LIMIT_S = 480  # a busy machine takes half of it for all cases of tests/test_pipeline.py


def free_port():
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run_ranks(function, world_size, *args, start_method="forkserver", **options):
    """``function(rank, *args, **options)`` in ``world_size`` processes; what each returned, in rank order.

    ``start_method``: "spawn" where a fork will not do, for GPUs. ``function`` must be importable. Raises AssertionError with the traceback of a rank that failed, or when
    one is still running after LIMIT_S seconds.
    """
    context = forkserver_context() if start_method == "forkserver" else multiprocessing.get_context(start_method)
    results, port = context.Queue(), free_port()
    ranks = [
        context.Process(target=_rank, args=(function, rank, world_size, port, results, args, options)) for rank in range(world_size)
    ]
    for rank in ranks:
        rank.start()
    try:
        return _collect(results, ranks)
    finally:
        for rank in ranks:
            rank.join(5)
            rank.kill()
            rank.join()


def forkserver_context():
    """For forks of a server that has imported all that is heavy. The server finds modules where this process does."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dualparal_testing.preload"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ensure_running()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    return context


def _collect(results, ranks):
    returned, end = {}, time.monotonic() + LIMIT_S
    while len(returned) < len(ranks):
        rank, value, failure = results.get(timeout=max(0.1, end - time.monotonic()))
        assert failure is None, f"rank {rank}:\n{failure}"
        returned[rank] = value
    return [returned[rank] for rank in range(len(ranks))]


def _rank(function, rank, world_size, port, results, args, options):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    import torch

    torch.set_num_threads(1)
    try:
        results.put((rank, function(rank, *args, **options), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
