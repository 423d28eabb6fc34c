"""How long the actions of a plan take on a device.

Knows: counted operations (cost.py) and bytes (traffic.py), a device's rates. Must not know: torch, flags, which degrees are good.

What is done one after the other is added up: products, attention, elementwise work, what Ulysses exchanges within a layer, and predictions of other ranks, as
the code does it. K and V of other ranks, for ring and Video-Infinity, travel beside attention over the own ones, and cached ones beside all of a pass, from the
host and to it (layers_with_copies). Messages between stages travel beside the work; the simulation says how much of that shows.
Not counted: loading, encoding the prompts, the scheduler's step, ring's and Video-Infinity's merging of their parts of attention, cached K/V that become
float8, the gathering of a finished block's latents, writing the mp4, and other traffic on a link. A video's first latent frame, which makes one frame, is decoded as if it made four.
"""

from functools import lru_cache

from .actions import DECODE, FORWARD, LOAD
from .cost import Operations, StagePart, attention_operations, forward_operations, layer_operations
from .placement import GUIDANCE, RING, ULYSSES
from .schedule import INLINE, STAGES, THREAD
from .traffic import FLOAT_BYTES, Traffic
from .waiting import AHEAD

# Bytes that the elementwise parts of a layer read and write, in hidden states of the layer: counted for WanTransformerBlock (diffusers
# 0.42.1) in bfloat16, eager, with the ffn of 1.3B and 14B: 191 and 185 (tests/plan/test_durations.py counts again). Compiled, by the fusions that one expects: an
# estimate, not measured.
EAGER, COMPILED = 188, 40
_NEIGHBOURS = 2  # clips that most of a clip's K and V come from


class Durations(Traffic):
    """Of one ``plan`` (a PipelinePlan) of a model (ModelNumbers) in a run (RunNumbers) on DeviceProfiles all alike, on nodes as ``placement`` has them.

    What is exchanged takes as long as its slowest link needs: a rank's own to the others, and where the ranks are on several nodes the network of the node
    that most leaves, which its ranks share.

    ``decode_operations``: of the VAE's decoder, for each pixel of a latent frame (models.numbers.decode_operations). ``is_compiled``:
    whether layers are.
    """

    def __init__(self, model, run, plan, device, decode_operations, is_compiled=False, placement=None):
        super().__init__(model, run, plan, placement)
        self._device, self._decode_operations, self._touched = device, decode_operations, COMPILED if is_compiled else EAGER
        self._pass_seconds = lru_cache(maxsize=None)(self._pass_seconds)

    def seconds(self, action):
        """Of an Action; of a scheduler's step that of getting others' predictions; nothing for handing over a message."""
        if action.kind == FORWARD:
            return self._branches(action) * self._pass_seconds(action.lane, self._shape(action.one)) + self.waiting_seconds(action)
        if action.kind == DECODE:
            return self._decode_seconds(action.block)
        return self.host_bytes(action) / self._device.host_per_s if action.kind == LOAD else self.waiting_seconds(action)

    def waiting_seconds(self, action):
        """Of those the ones in which a rank waits for the predictions of the other guidance branch, and of other lanes."""
        lanes = self._at_once(action.lane)
        guided = self._sending_seconds(self._guided(action), self._to_group(GUIDANCE, lanes))
        return guided + self._sending_seconds(self.gathered_bytes(action), self._round_all(lanes))

    def message_seconds(self, send):
        """Of a SEND's message, from its start to its arrival."""
        return self._sending_seconds(self.message_bytes(send), self._to_next((send.lane,))) if self._leaves(send) else 0.0

    def _leaves(self, send):
        """Whether its receiver is another process: the decode lane is the last stage's own."""
        return send.peer < self._plan.num_stages

    def _sending_seconds(self, size, route):
        """Of ``size`` bytes from each rank, on a Route."""
        if not size:
            return 0.0
        own = size / self._device.among(route.beside)
        if not route.leaving:
            return self._device.link_s + own
        return max(self._device.link_s, self._device.network_s) + max(own, size * route.busiest / self._device.network_per_s)

    # A pass.

    def _pass_seconds(self, lane, shape):
        """Of one branch."""
        is_whole = self._plan.lanes_are != STAGES
        ends = StagePart(0, lane == 0 or is_whole, lane == self._plan.num_stages - 1 or is_whole)
        copies_s = (size / self._device.host_per_s for size in self._copied(shape))
        layers_s = layers_with_copies(self._layers(lane), self._layer_seconds(lane, shape), *copies_s)
        return layers_s + self._work_seconds(forward_operations(self._model, ends, shape, self._frame_tokens, self._run.text_tokens))

    def _layer_seconds(self, lane, shape):
        tokens, seen = shape.window * self._frame_tokens, shape.seen * self._frame_tokens
        work = self._work_seconds(layer_operations(self._model, tokens, seen, self._run.text_tokens))
        touched = self._touched * self._hidden(shape.window) / self._device.memory_per_s
        lanes = self._at_once(lane)
        to_clips = self._to_clips(shape, lanes)
        to_clips = to_clips._replace(beside=min(_NEIGHBOURS + 1, to_clips.beside))
        exchanges = sum(self._sending_seconds(size, self._to_group(ULYSSES, lanes)) for size in self._ulysses(shape))
        exchanges += self._beside_own(shape, self._sending_seconds(self._ring(shape), self._to_group(RING, lanes)), seen / self._run.ring)
        exchanges += self._beside_own(shape, self._sending_seconds(self._fetched(shape), to_clips), tokens)
        return work + touched + self._device.layer_s + exchanges

    def _beside_own(self, shape, seconds, own_keys):
        """What shows of an exchange of K and V of ``seconds``: it begins before attention over the ``own_keys``, tokens, and is needed after it."""
        own = Operations(0, attention_operations(self._model, shape.window * self._frame_tokens, own_keys))
        return max(0.0, seconds - self._work_seconds(own))

    def _work_seconds(self, operations):
        """Of a rank's share of Operations."""
        return (operations.matrix / self._matrix_per_s + operations.attention / self._device.attention_per_s) / self._run.shards

    @property
    def _matrix_per_s(self):
        is_float8 = self._run.layer_share < 1 and self._device.float8_per_s
        return self._device.float8_per_s if is_float8 else self._device.matrix_per_s

    # Decoding.

    def _decode_seconds(self, block):
        """Of one block; where all ranks decode, their share of it, and the exchange at the tiles' rims is not counted."""
        operations = self._plan.layout.given_latents(block) * self._run.decoded_pixels * self._decode_operations
        is_half = self._model.vae_number_bytes < FLOAT_BYTES
        ranks = self._run.shards * self._plan.num_stages * self._run.guidance_ranks if self._run.parallel_vae else 1
        return operations / (self._device.decode_half_per_s if is_half else self._device.decode_per_s) / ranks


def layers_with_copies(layers, layer_s, comes_s, leaves_s):
    """Seconds until as many ``layers`` are computed and their copies done: of each ``layer_s`` of computing, ``comes_s`` of K/V that it
    needs from the host's memory, and ``leaves_s`` of its own on the way there.

    As in engine/kept_kv.HostShelf: one stream makes all copies, in both directions, in the order in which the layers ask for them, which is AHEAD
    layers before they need them. A layer's own leave when those that it needs are there, beside its computing.
    """
    copied, computed, arrivals = 0.0, 0.0, []
    for number in range(-AHEAD, layers):
        if number + AHEAD < layers:
            copied = max(copied, computed) + comes_s
            arrivals.append(copied)
        if number >= 0:
            started = max(computed, arrivals[number])
            copied, computed = max(copied, started) + leaves_s, started + layer_s
    return max(copied, computed)


def decode_place(decode, device):
    """Where ``decode`` (plan.schedule) is to be simulated: a thread that shares a busy device takes its time from the passes, as within the last stage."""
    return INLINE if decode == THREAD and not device.decodes_beside else decode
