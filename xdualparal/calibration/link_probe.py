"""Measures how fast two processes of this machine send tensors to each other over gloo.

Knows: torch.distributed. Must not know: devices, what is sent in a run.
"""

import multiprocessing
import signal
import statistics
import tempfile
import time
from pathlib import Path

_SIZES, _REPEATS, _LIMIT_S = (1, 1 << 24), 7, 120


def gloo_link():
    """(bytes a second one way, seconds of an empty message). Raises RuntimeError where two processes cannot talk."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="xdualparal-link-") as folder:
        results = context.Queue()
        ranks = [context.Process(target=_rank, args=(rank, str(Path(folder, "store")), results), daemon=True) for rank in range(2)]
        _start_unheard(ranks)
        patience_s = 0  # of this process, when it is interrupted
        try:
            small, large = results.get(timeout=_LIMIT_S)
            patience_s = 10
        except Exception as error:
            raise RuntimeError(f"two processes of this machine cannot talk over gloo ({type(error).__name__})") from error
        finally:
            for rank in ranks:
                rank.join(patience_s)
                rank.kill()
                rank.join()
    return _SIZES[1] / max(large - small, 1e-9), small


def _start_unheard(processes):
    """Starts them so that Ctrl-C, which a terminal sends to all, ends only this process, and not with a stack from each."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _rank(rank, store, results):
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    medians = [statistics.median(_there_and_back(rank, torch.empty(size, dtype=torch.uint8)) / 2 for _ in range(_REPEATS)) for size in _SIZES]
    if rank == 0:
        results.put(medians)
    torch.distributed.destroy_process_group()


def _there_and_back(rank, message):
    from torch.distributed import recv, send

    start = time.perf_counter()
    for turn in ((send, recv) if rank == 0 else (recv, send)):
        turn(message, 1 - rank)
    return time.perf_counter() - start
