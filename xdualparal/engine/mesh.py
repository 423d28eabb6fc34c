"""A rank's place in xDiT's process groups, and the tensors that it shares with them.

Knows: xDiT's process groups. Must not know: the model, schedules, or what the tensors mean.
"""

import torch
import torch.distributed as dist
from xfuser.core.distributed import (
    get_cfg_group,
    get_model_replica_group,
    get_pp_group,
    get_ring_parallel_rank,
    get_ring_parallel_world_size,
    get_runtime_state,
    get_sp_group,
    get_ulysses_parallel_rank,
    get_ulysses_parallel_world_size,
    get_world_group,
    initialize_runtime_state,
)
from xfuser.core.distributed import group_coordinator
from xfuser.core.distributed.runtime_state import runtime_state_is_initialized

from .p2p import NO_TIMEOUT, connect, edge_options_maker
from .replica import Replica, ranks_of


class Mesh(Replica):
    """A rank's pipeline, sequence parallel and guidance groups. Makes xDiT's groups if the caller has not.

    Every process of the world must build it, with the same ``engine_config``.
    """

    def __init__(self, wan_pipeline, engine_config):
        parallel = engine_config.parallel_config
        super().__init__(parallel)
        if not runtime_state_is_initialized():
            initialize_runtime_state(wan_pipeline, engine_config)
        # More than one patch would wake PipeFusion's stale K/V paths, which are not ours (DESIGN section 3).
        get_runtime_state().num_pipeline_patch = 1
        self.pipeline, self._sequence, self._guidance = get_pp_group(), get_sp_group(), get_cfg_group()
        self._replica = get_model_replica_group()
        pipelines = ranks_of("pp", parallel)
        backend = dist.get_backend()
        self._edges = group_coordinator.make_edge_groups(pipelines, backend, NO_TIMEOUT, edge_options_maker(backend))
        connect(self._edges, self.device)

    @property
    def stage(self):
        """(index of this rank's stage, number of stages)."""
        return self.pipeline.rank_in_group, self.pipeline.world_size

    @property
    def shard(self):
        """(index of this rank's part of every latent frame, number of parts)."""
        return self._sequence.rank_in_group, self._sequence.world_size

    @property
    def ulysses(self):
        """(index of this rank's part of the attention heads, number of parts)."""
        return get_ulysses_parallel_rank(), get_ulysses_parallel_world_size()

    @property
    def ring(self):
        """(index of this rank's part of the tokens in attention, number of parts)."""
        return get_ring_parallel_rank(), get_ring_parallel_world_size()

    @property
    def branch(self):
        """(index of the guidance branch that this rank computes, number of ranks that share the branches)."""
        return self._guidance.rank_in_group, self._guidance.world_size

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

    @property
    def lanes(self):
        """(process group, global rank of each lane) of this rank's pipeline."""
        return self.pipeline.device_group, self.pipeline.ranks

    def share_in_replica(self, tensor):
        """``tensor`` as it is on the output rank, on every rank of its replica."""
        if self._replica.world_size > 1:
            dist.broadcast(tensor, src=self._replica.ranks[-1], group=self._replica.device_group)
        return tensor

    def join_shards(self, parts):
        """The parts of all ranks of the sequence parallel group side by side, along the last dimension."""
        return self._sequence.all_gather(parts.contiguous(), dim=-1)

    def largest_of_ring(self, numbers):
        """The largest of each of ``numbers`` on the ranks that share the tokens in attention."""
        if self._sequence.ring_world_size > 1:
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self._sequence.ring_group)
        return numbers

    def join_branches(self, prediction):
        """Both branches' predictions, (branches, ...), where they are computed on two ranks."""
        return self._guidance.all_gather(prediction.contiguous(), dim=0)

    def synchronize(self):
        """Waits for what the current thread has given to this rank's device."""
        if self.device.type != "cpu":
            torch.accelerator.current_stream(self.device).synchronize()
