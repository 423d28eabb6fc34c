"""How many bytes the ranks of a run send to each other, and to the host's memory and back.

Knows: the sizes of a model and of a run, and what a pass sees and leaves. Must not know: how fast anything is, torch, flags.
"""

from collections import Counter
from functools import cached_property, lru_cache

from .actions import BOTH, DECODE, FORWARD, LOAD, RECV, SEND, STEP
from .cost import shape_of
from .placement import GUIDANCE, RING, ULYSSES, Placement
from .schedule import CLIPS, STAGES, WINDOWS

FLOAT_BYTES = 4


def alike(plan, action, shape):
    """A value that is equal for actions of ``plan`` of which all the numbers of Traffic and Durations are equal: what they depend on. ``shape(one)``: the
    PassShape of a pass."""
    if action.kind == RECV:
        return action.lane, action.kind
    if action.kind in (DECODE, LOAD):
        return action.lane, action.kind, plan.layout.given_latents(action.block)
    where = (action.block, action.step if action.kind == STEP else None) if plan.lanes_are == WINDOWS else plan.layout.own_latents(action.block)
    return action.lane, action.kind, action.branch, action.peer, shape(action.one), where


class Traffic:
    """Of one ``plan`` (a PipelinePlan) of a model (ModelNumbers) in a run (RunNumbers): bytes of one rank of each lane. ``placement``: a Placement of the
    ranks on nodes, by default all on one."""

    def __init__(self, model, run, plan, placement=None):
        self._model, self._run, self._plan = model, run, plan
        self._placement = placement or Placement(plan.num_stages, run.ulysses, run.ring, run.guidance_ranks)
        self._shape = lru_cache(maxsize=None)(lambda one: shape_of(plan, one))
        self._to_group, self._to_next, self._round_all = map(lru_cache(maxsize=None), (self._placement.to_group, self._placement.to_next, self._placement.round_all))

    def message_bytes(self, send):
        """Of a SEND's message: hidden states to the next stage, latents in float32 to the first one."""
        if send.peer == send.lane + 1:
            return self._branches(send) * self._hidden(self._shape(send.one).window)
        return self._plan.layout.own_latents(send.block) * self._latent_frame // self._run.shards

    def exchanged_bytes(self, action):
        """That a rank sends to others of its stage: for Ulysses, ring and Video-Infinity in a FORWARD, and its prediction to the other guidance branch's."""
        if action.kind != FORWARD:
            return self._guided(action)
        shape = self._shape(action.one)
        in_a_layer = sum(self._ulysses(shape)) + self._ring(shape) + self._fetched(shape)
        return self._branches(action) * self._layers(action.lane) * in_a_layer + self._guided(action)

    def gathered_bytes(self, action):
        """That each lane sends to the next one in a STEP of FIFO-Diffusion's queue, round the ring in which a gather passes on what has come: the predictions
        of as many latent frames as the lane with the most has, in float32 (engine/fifo.py)."""
        if action.kind != STEP or self._plan.lanes_are != WINDOWS:
            return 0
        lanes = range(self._plan.num_stages)
        most = max(sum(self._shape(one).predicted for one in self._plan.passes_of_lane(lane, action.step)) for lane in lanes)
        return most * self._latent_frame // self._run.shards * (len(lanes) - 1)

    def network_bytes(self, action):
        """{node: bytes that leave it for others in this action, of all ranks of its lane}."""
        leaving, lanes = Counter(), (action.lane,)
        for size, route in self._sent(action, lanes) if self._placement.per_node else ():
            leaving.update({node: size * share for node, share in route.leaving.items() if size})
        return leaving

    def crosses(self, edge):
        """Whether the edge (stage, the next one) leads from a node to another, in any replica or guidance branch."""
        return bool(self._to_next(edge[:1]).leaving)

    def _sent(self, action, lanes):
        """Yields (bytes of a rank, their Route) of all that the ranks of an action's lane send."""
        if action.kind == SEND and action.peer < self._plan.num_stages:
            yield self.message_bytes(action), self._to_next(lanes)
        if action.kind == FORWARD:
            shape, times = self._shape(action.one), self._branches(action) * self._layers(action.lane)
            yield times * sum(self._ulysses(shape)), self._to_group(ULYSSES, lanes)
            yield times * self._ring(shape), self._to_group(RING, lanes)
            yield times * self._fetched(shape), self._to_clips(shape, lanes)
        if action.kind in (FORWARD, STEP):
            yield self._guided(action), self._to_group(GUIDANCE, lanes)
            yield self.gathered_bytes(action), self._round_all(lanes)

    def _to_clips(self, shape, lanes):
        """Of what a pass of ``shape`` fetches, from clips of ``lanes``."""
        exchange = self._plan.exchange if self._plan.lanes_are == CLIPS else lambda lane: {}
        return self._placement.to_clips(lanes, exchange, max(1, shape.fetched))

    def _at_once(self, lane):
        """The lanes that do the same as ``lane`` at the same time: stages are at other passes, clips and windows meet."""
        return (lane,) if self._plan.lanes_are == STAGES else tuple(range(self._plan.num_stages))

    def _guided(self, action):
        """Of the prediction of one guidance branch, in the transformer's numbers, where another rank has the other: a pass's, when it is finished."""
        finishes = FORWARD if self._plan.lanes_are == WINDOWS else STEP
        if self._run.guidance_ranks == 1 or action.kind != finishes:
            return 0
        return self._shape(action.one).predicted * self._latent_frame // FLOAT_BYTES * self._model.number_bytes // self._run.shards

    def host_bytes(self, action):
        """That come from the host's memory or go there: cached K/V in a FORWARD, an expert's layers in a LOAD."""
        if action.kind == FORWARD:
            return self._branches(action) * self._layers(action.lane) * sum(self._copied(self._shape(action.one)))
        return self._layers(action.lane) * self._model.layer_bytes if action.kind == LOAD else 0

    # In one layer, of one branch.

    def _ulysses(self, shape):
        """Bytes of each of the exchanges, one after the other: of Q, K, V and the output (xfuser, usp.py)."""
        others, ranks = self._run.ulysses - 1, self._run.ulysses
        return [self._hidden(shape.window) * others // ranks] * 4 if others else []

    def _ring(self, shape):
        """Of K and V, with what was kept, to all others: what is called ring attention gathers them in its first step (torch 2.13,
        torch.distributed.tensor.experimental, whose way of rotating xDiT leaves as it is; tests/contract)."""
        return 2 * self._hidden(shape.seen) * (self._run.ring - 1)

    def _fetched(self, shape):
        """Video-Infinity's K and V, as many as come."""
        return 2 * self._hidden(shape.fetched)

    def _copied(self, shape):
        """(bytes that come from the host, bytes that go there) of K and V that last for waves."""
        if not self._run.kept_on_host:
            return 0, 0
        a_frame = 2 * (self._frame_tokens // self._run.shards) * self._model.dim * (self._run.kept_bytes or self._run.anchor_bytes)
        return shape.kept_read * a_frame, shape.kept_left * a_frame

    # Sizes.

    def _branches(self, action):
        return self._run.own_branches if action.branch == BOTH else 1

    def _layers(self, lane):
        return self._run.stage_layers[lane]

    @property
    def _frame_tokens(self):
        return (self._run.height // self._model.pixels_per_token) * (self._run.width // self._model.pixels_per_token)

    def _hidden(self, latent_frames):
        """Bytes of a rank's share of hidden states, of one branch."""
        return latent_frames * self._frame_tokens // self._run.shards * self._model.dim * self._model.number_bytes

    @cached_property
    def _latent_frame(self):
        """Bytes of a latent frame in float32."""
        pixels = self._run.height * self._run.width // self._model.pixels_per_latent**2
        return self._model.channels * pixels * FLOAT_BYTES
