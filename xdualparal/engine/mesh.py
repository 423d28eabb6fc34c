"""A rank's place in xDiT's process groups, and what it shares with them.

Knows: xDiT's process groups. Must not know: the model, schedules, or what the tensors mean.
"""

import torch
import torch.distributed as dist
from xfuser.core.distributed import (
    get_cfg_group,
    get_model_replica_group,
    get_pp_group,
    get_runtime_state,
    get_sp_group,
    get_world_group,
    init_distributed_environment,
    initialize_runtime_state,
    is_dp_last_group,
)
from xfuser.core.distributed import group_coordinator
from xfuser.core.distributed.runtime_state import runtime_state_is_initialized
from xfuser.core.distributed.utils import RankGenerator

from .p2p import NO_TIMEOUT, connect, edge_options_maker


class Mesh:
    """A rank's pipeline, sequence parallel and guidance groups. Makes xDiT's groups if the caller has not.

    Every process of the world must build it, with the same ``engine_config``.
    """

    def __init__(self, wan_pipeline, engine_config):
        init_distributed_environment()  # a caller may have started torch.distributed, which xDiT does not notice
        if not runtime_state_is_initialized():
            initialize_runtime_state(wan_pipeline, engine_config)
        # More than one patch would wake PipeFusion's stale K/V paths, which are not ours (DESIGN section 3).
        get_runtime_state().num_pipeline_patch = 1
        self.pipeline, self._sequence, self._guidance = get_pp_group(), get_sp_group(), get_cfg_group()
        self._replica, self.device = get_model_replica_group(), self.pipeline.device
        parallel = engine_config.parallel_config
        pipelines = _all_ranks("pp", parallel)
        backend = dist.get_backend()
        self._edges = group_coordinator.make_edge_groups(pipelines, backend, NO_TIMEOUT, edge_options_maker(backend))
        connect(self._edges, self.device)
        # xDiT's CPU groups wait for 30 minutes; who has no passes left may wait longer for the last rank's decoding.
        self._patient = _own_group(_all_ranks("tp-sp-pp-cfg", parallel), NO_TIMEOUT)

    @property
    def stage(self):
        """(index of this rank's stage, number of stages)."""
        return self.pipeline.rank_in_group, self.pipeline.world_size

    @property
    def shard(self):
        """(index of this rank's part of every latent frame, number of parts)."""
        return self._sequence.rank_in_group, self._sequence.world_size

    @property
    def branch(self):
        """(index of the guidance branch that this rank computes, number of ranks that share the branches)."""
        return self._guidance.rank_in_group, self._guidance.world_size

    @property
    def is_output(self):
        """Whether this rank gives its replica's video: the last one of all its groups, as in xDiT."""
        return is_dp_last_group()

    @property
    def is_last_of_all(self):
        """Whether this is the last process, the one that prints."""
        return get_world_group().is_last_rank

    @property
    def in_last_pipeline(self):
        """Whether the last process is in this rank's pipeline."""
        return self.pipeline.ranks[-1] == get_world_group().ranks[-1]

    def edge_in(self):
        """(process group, global rank) of the edge from the stage before; the first one's is the last stage."""
        ranks, me = self.pipeline.ranks, self.pipeline.rank_in_group
        return self._edges[ranks[me - 1], ranks[me]], ranks[me - 1]

    def edge_out(self):
        """(process group, global rank) of the edge to the next stage; the last one's is the first stage."""
        ranks, me = self.pipeline.ranks, self.pipeline.rank_in_group
        after = ranks[(me + 1) % len(ranks)]
        return self._edges[ranks[me], after], after

    def share_along_pipeline(self, tensor):
        """``tensor`` as it is on the first stage, on every stage."""
        if self.pipeline.world_size > 1:
            dist.broadcast(tensor, src=self.pipeline.ranks[0], group=self.pipeline.device_group)
        return tensor

    def share_in_replica(self, tensor):
        """``tensor`` as it is on the output rank, on every rank of its replica."""
        if self._replica.world_size > 1:
            dist.broadcast(tensor, src=self._replica.ranks[-1], group=self._replica.device_group)
        return tensor

    def share_object(self, value):
        """``value`` as it is on the output rank, on every rank of its replica. Tensors must be on the CPU."""
        holder = [value]
        if self._replica.world_size > 1:
            dist.broadcast_object_list(holder, src=self._replica.ranks[-1], group=self._replica.cpu_group)
        return holder[0]

    def on_output_rank(self, function):
        """What ``function()`` gives on the output rank, None on the others. Every rank of the replica must call it; all raise
        ValueError where it raises that or OSError."""
        result, error = None, None
        if self.is_output:
            try:
                result = function()
            except (ValueError, OSError) as problem:
                error = str(problem)
        error = self.share_object(error)
        if error is not None:
            raise ValueError(error)
        return result

    def gather_objects(self, value):
        """The ``value`` of every rank of the replica, in their order, on the output rank; None on the others."""
        if self._replica.world_size == 1:
            return [value]
        values = [None] * self._replica.world_size if self.is_output else None
        dist.gather_object(value, values, dst=self._replica.ranks[-1], group=self._patient)
        return values

    @property
    def decides(self):
        """Whether this is the rank that decides for its replica: its first one."""
        return self._replica.ranks[0] == dist.get_rank()

    @property
    def has_rank_0(self):
        """Whether the world's first process is in this replica."""
        return 0 in self._replica.ranks

    @property
    def is_shared(self):
        """Whether several processes make this replica's video."""
        return self._replica.world_size > 1

    @property
    def replica_name(self):
        """A name for this rank's replica, another one for each."""
        return f"replica {self._replica.ranks[0]}"

    def join_shards(self, parts):
        """The parts of all ranks of the sequence parallel group side by side, along the last dimension."""
        return self._sequence.all_gather(parts.contiguous(), dim=-1)

    def join_branches(self, prediction):
        """Both branches' predictions, (branches, ...), where they are computed on two ranks."""
        return self._guidance.all_gather(prediction.contiguous(), dim=0)

    def synchronize(self):
        """Waits for what the current thread has given to this rank's device."""
        if self.device.type != "cpu":
            torch.accelerator.current_stream(self.device).synchronize()


def _own_group(all_ranks, timeout):
    """This rank's group over gloo; every process must call it with the same lists of ranks."""
    groups = {rank: group for ranks in all_ranks for group in [dist.new_group(ranks, timeout, "gloo")] for rank in ranks}
    return groups[dist.get_rank()]


def _all_ranks(kind, parallel):
    """The global ranks of every group of a kind in the world, in xDiT's order (xfuser/core/distributed/parallel_state.py)."""
    generator = RankGenerator(
        parallel.tp_degree, parallel.sp_degree, parallel.pp_degree, parallel.cfg_degree, parallel.dp_degree,
        parallel.fs_degree, "tp-sp-pp-cfg-dp",
    )
    return generator.get_ranks(kind)
