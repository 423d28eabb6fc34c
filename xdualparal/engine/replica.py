"""The processes that make one video together, and what they tell each other on the host.

Knows: which ranks are a replica, and a process group over gloo that waits as long as it takes. Must not know: stages, what is
told. It needs no group of xDiT's, so that it can be there before a model is loaded.
"""

from io import BytesIO

import torch
import torch.distributed as dist
from xfuser.core.distributed import get_world_group, init_distributed_environment
from xfuser.core.distributed.utils import RankGenerator

from .p2p import NO_TIMEOUT


class Replica:
    """This rank's replica, one of ``count``; ``ranks``: its global ranks; ``device``: this rank's. Every process of the world must build it, with the same ``parallel``, xDiT's ParallelConfig."""

    def __init__(self, parallel):
        init_distributed_environment()  # a caller may have started torch.distributed, which xDiT does not notice
        # xDiT's CPU groups wait for 30 minutes: for the last decoding, or for a slow encoding, it may take longer.
        self.ranks, self._patient = _own_group(ranks_of("tp-sp-pp-cfg", parallel))
        self.device, self.count = get_world_group().device, parallel.dp_degree
        self._all = dist.new_group(timeout=NO_TIMEOUT, backend="gloo") if self.count > 1 else self._patient

    @property
    def decides(self):
        """Whether this is the rank that decides for its replica and encodes its prompts: its first one."""
        return self.ranks[0] == dist.get_rank()

    @property
    def is_output(self):
        """Whether this rank gives its replica's video: the last one, which is the last of all its groups, as in xDiT."""
        return self.ranks[-1] == dist.get_rank()

    @property
    def number(self):
        """Which one of ``count`` replicas this is, from 0: xDiT numbers their ranks one replica after the other."""
        return self.ranks[0] // len(self.ranks)

    @property
    def has_rank_0(self):
        """Whether the world's first process is in this replica."""
        return 0 in self.ranks

    @property
    def is_shared(self):
        """Whether several processes make this replica's video."""
        return len(self.ranks) > 1

    @property
    def replica_name(self):
        """A name for this rank's replica, another one for each."""
        return f"replica {self.ranks[0]}"

    def share_object(self, value):
        """``value`` as it is on the output rank, on every rank. Tensors must be on the CPU."""
        return self._as_on(self.ranks[-1], value)

    def on_output_rank(self, function):
        """What ``function()`` gives on the output rank, None on the others. Every rank must call it; all raise ValueError where
        it raises that or OSError."""
        result, error = _tried(function, (ValueError, OSError)) if self.is_output else (None, None)
        _raise(self.share_object(error))
        return result

    def from_first_rank(self, function):
        """What ``function()`` gives on the first rank, on every rank, which must all call it; all raise ValueError where it raises
        that. Tensors must be on the CPU."""
        result, error = self._as_on(self.ranks[0], _tried(function, ValueError) if self.decides else None)
        _raise(error)
        return result

    def send(self, value, rank):
        """Sends ``value``, whose tensors are on the CPU, to the global ``rank`` of the replica, which must ``receive`` it."""
        buffer = BytesIO()
        torch.save(value, buffer)  # send_object_list cannot take float8
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        dist.send(torch.tensor([len(content)]), dst=rank, group=self._patient)
        dist.send(content, dst=rank, group=self._patient)

    def receive(self, rank):
        """What the global ``rank`` of the replica sends next."""
        size = torch.empty(1, dtype=torch.int64)
        dist.recv(size, src=rank, group=self._patient)
        content = torch.empty(size.item(), dtype=torch.uint8)
        dist.recv(content, src=rank, group=self._patient)
        return torch.load(BytesIO(content.numpy()), weights_only=True)

    def gather_objects(self, value):
        """The ``value`` of every rank, in their order, on the output rank; None on the others."""
        if not self.is_shared:
            return [value]
        values = [None] * len(self.ranks) if self.is_output else None
        dist.gather_object(value, values, dst=self.ranks[-1], group=self._patient)
        return values

    def gather_from_all_replicas(self, value):
        """The ``value`` of every process of all replicas, in their order, on each. Waits for the slowest replica, which may have a whole
        video more to make: the world's own group gives up after 30 minutes with gloo, after 10 with NCCL."""
        values = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._all)
        return values

    def _as_on(self, rank, value):
        holder = [value]
        if self.is_shared:
            dist.broadcast_object_list(holder, src=rank, group=self._patient)
        return holder[0]


def _tried(function, kinds):
    """(what ``function()`` gives, None), or (None, the text of an error that is one of ``kinds``)."""
    try:
        return function(), None
    except kinds as problem:
        return None, str(problem)


def _raise(error):
    if error is not None:
        raise ValueError(error)


def _own_group(all_ranks):
    """(this rank's ranks, their group over gloo); every process must call it with the same lists of ranks."""
    groups = {rank: (ranks, group) for ranks in all_ranks for group in [dist.new_group(ranks, NO_TIMEOUT, "gloo")] for rank in ranks}
    return groups[dist.get_rank()]


def ranks_of(kind, parallel):
    """The global ranks of every group of a kind in the world, in xDiT's order (xfuser/core/distributed/parallel_state.py)."""
    generator = RankGenerator(
        parallel.tp_degree, parallel.sp_degree, parallel.pp_degree, parallel.cfg_degree, parallel.dp_degree,
        parallel.fs_degree, "tp-sp-pp-cfg-dp",
    )
    return generator.get_ranks(kind)
