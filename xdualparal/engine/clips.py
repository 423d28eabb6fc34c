"""A run of clips on its rank: messages between lanes, and how the finished clips come together.

Knows: that every lane has a clip, and xDiT's pipeline group. Must not know: the model, or what a clip's passes see (its plan says
so).
"""

import time

import torch
import torch.distributed as dist
from xfuser.core.distributed import get_ulysses_parallel_world_size

from ..plan.actions import FORWARD, Pass
from ..plan.schedule import THREAD
from .exchange_store import ExchangeStore
from .executor import Edges


class Link:
    """Messages between the lanes of a pipeline, started together and taken together: in every layer each lane's.

    ``group``: the pipeline's process group; ``ranks``: the global rank of each lane; ``device``: of the messages. What is sent
    stays until it has left.
    """

    def __init__(self, group, ranks, device):
        self._group, self._ranks, self._device = group, ranks, device
        self._works, self._sending, self._coming = [], [], {}  # tensors must live until they have left
        self.bytes_sent, self.waited_s = 0, 0.0

    def start(self, to_send, to_come, dtype):
        """Starts sending ``to_send``, {lane: tensor}, and receiving ``to_come``, {lane: shape} of ``dtype``."""
        self.finish()
        buffers = {lane: torch.empty(shape, dtype=dtype, device=self._device) for lane, shape in to_come.items()}
        operations = [self._operation(dist.isend, tensor.contiguous(), lane) for lane, tensor in to_send.items()]
        operations += [self._operation(dist.irecv, buffer, lane) for lane, buffer in buffers.items()]
        works = dist.batch_isend_irecv(operations) if operations else []
        self.bytes_sent += sum(tensor.nbytes for tensor in to_send.values())
        # NCCL gives one work for all.
        self._works, self._sending, self._coming = list(works), operations, buffers

    def _operation(self, kind, tensor, lane):
        return dist.P2POp(kind, tensor, self._ranks[lane], self._group)

    def take(self):
        """{lane: tensor} of what was to come. Waits until it is there."""
        self.finish()
        buffers, self._coming = self._coming, {}
        return buffers

    def finish(self):
        """Waits until all that was sent has left, and all has come."""
        start = time.monotonic()
        while self._works:
            self._works.pop().wait()
        self._sending = []
        self.waited_s += time.monotonic() - start


class ClipLanes:
    """What ``run`` (session.GroupRun), of clips, needs on this rank besides a stage that has all layers.

    ``context``: see exchange_store. ``edges``: for what was sent.
    """

    def __init__(self, run):
        self._run, self._lane, shard = run, run.stage.index, run.videos[0].shard
        self._link = Link(*run.mesh.lanes, run.device)
        self.context = ExchangeStore(
            run.stage.attentions, shard.frame_tokens, get_ulysses_parallel_world_size(), self._link, run.plan.exchange(self._lane)
        )
        self.edges = Edges(outgoing={"lanes": self._link})

    def finish(self, one, latents):
        """Takes the own finished clip's latents, this rank's part. On the last lane it returns {clip: whole latents} of all, else
        {}. What is waited in all passes is no work of theirs: the meter is told."""
        run, last = self._run, self._run.plan.num_stages - 1
        run.meter.waited_within(FORWARD, self._link.waited_s)
        parts = run.meter.waits("for the other clips", self._gathered, last, latents)
        wholes = {clip: run.finish(Pass(one.video, clip, one.step), part) for clip, part in enumerate(parts)}
        if run.plan.decode == THREAD:
            for clip, whole in wholes.items():
                run.decoder.add(run.plan.decode_action(clip), whole)
        return wholes

    def _gathered(self, last, latents):
        """[each clip's latents] on the lane ``last``, nothing on the others."""
        if self._lane != last:
            self._link.start({last: latents}, {}, latents.dtype)
            self._link.finish()
            return []
        shapes = {clip: (*latents.shape[:2], self._run.plan.layout.own_latents(clip), *latents.shape[3:]) for clip in range(last)}
        self._link.start({}, shapes, latents.dtype)
        return [*self._link.take().values(), latents]

    def decode(self, action, wholes):
        """Hands the clip of a DECODE to the decoder."""
        self._run.decoder.add(action, wholes[action.block])
