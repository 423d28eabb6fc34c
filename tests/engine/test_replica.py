"""What the replicas of a command tell each other."""

import time
from datetime import timedelta

import pytest
import torch.distributed as dist
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config

LIMIT_S = 3


def wait_for_a_slow_replica(rank, method):
    """What ``method`` gives on this rank, of two replicas, where the second comes later than the world's group waits; or the error."""
    from xdualparal.engine.replica import Replica

    dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT_S))
    replica = Replica(engine_config(1, data_parallel_degree=2).parallel_config)
    if rank == 1:
        time.sleep(3 * LIMIT_S)
    if method == "replica":
        return replica.gather_from_all_replicas({rank})
    with pytest.raises(RuntimeError):
        dist.all_gather_object([None, None], {rank})
    return "gave up"


@pytest.mark.processes
@pytest.mark.parametrize("method, result", [("replica", [{0}, {1}]), ("the world's group", "gave up")])
def test_a_replica_waits_longer_for_another_one_than_the_worlds_group_does(method, result):
    assert run_ranks(wait_for_a_slow_replica, 2, method) == [result] * 2
