"""How long the actions of a plan take on a device, and how many bytes its messages have.

Knows: a model's and a run's sizes, counted operations (cost.py), a device's rates. Must not know: torch, flags, which degrees are good.

What is done one after the other is added up: products, attention, elementwise work, and what Ulysses, ring and Video-Infinity exchange
within a layer, as the code does it. Messages between stages travel beside the work; the simulation says how much of that shows.
Not counted: loading, encoding the prompts, the scheduler's step, writing the mp4, and other traffic on a link.
"""

from functools import cached_property, lru_cache

from .actions import BOTH, DECODE, FORWARD, LOAD
from .cost import StagePart, forward_operations, shape_of
from .schedule import INLINE, STAGES, THREAD

# Bytes that the elementwise parts of a layer read and write, in hidden states of the layer: counted for WanTransformerBlock (diffusers
# 0.42.1) in bfloat16, eager, with the ffn of 1.3B and 14B: 191 and 185 (tests/plan/test_durations.py counts again). Compiled, by the fusions that one expects: an
# estimate, not measured.
EAGER, COMPILED = 188, 40
_FLOAT = 4  # bytes of a float32


class Durations:
    """Of one ``plan`` (a PipelinePlan) of a model (ModelNumbers) in a run (RunNumbers) on DeviceProfiles all alike.

    ``decode_operations``: of the VAE's decoder, for each pixel of a latent frame (models.numbers.decode_operations). ``is_compiled``:
    whether layers are.
    """

    def __init__(self, model, run, plan, device, decode_operations, is_compiled=False):
        self._model, self._run, self._plan, self._device = model, run, plan, device
        self._decode_operations, self._touched = decode_operations, COMPILED if is_compiled else EAGER
        self._shape = lru_cache(maxsize=None)(lambda one: shape_of(plan, one))
        self._pass_seconds = lru_cache(maxsize=None)(self._pass_seconds)

    def seconds(self, action):
        """Of an Action; nothing for a scheduler's step, and for handing over a message."""
        if action.kind == FORWARD:
            branches = self._run.own_branches if action.branch == BOTH else 1
            return branches * self._pass_seconds(action.lane, self._shape(action.one))
        if action.kind == DECODE:
            return self._decode_seconds(action.block)
        if action.kind == LOAD:
            return self._layers(action.lane) * self._model.layer_bytes / self._device.host_per_s
        return 0.0

    def message_seconds(self, send):
        """Of a SEND's message, from its start to its arrival."""
        return self._device.link_s + self.message_bytes(send) / self._device.link_per_s if self._leaves(send) else 0.0

    def message_bytes(self, send):
        """Of a SEND's message, from one rank: hidden states to the next stage, latents in float32 to the first one."""
        if send.peer == send.lane + 1:
            branches = self._run.own_branches if send.branch == BOTH else 1
            return branches * self._hidden(self._shape(send.one).window)
        return self._plan.layout.own_latents(send.block) * self._latent_frame // self._run.shards

    def exchanged_bytes(self, action):
        """That a rank sends to others of its stage in a FORWARD, for Ulysses, ring and Video-Infinity."""
        branches = self._run.own_branches if action.branch == BOTH else 1
        return branches * self._layers(action.lane) * sum(self._exchange(self._shape(action.one)))

    def _leaves(self, send):
        """Whether its receiver is another process: the decode lane is the last stage's own."""
        return send.peer < self._plan.num_stages

    # A pass.

    def _pass_seconds(self, lane, shape):
        """Of one branch."""
        layers = self._layers(lane)
        is_whole = self._plan.lanes_are != STAGES
        part = StagePart(layers, lane == 0 or is_whole, lane == self._plan.num_stages - 1 or is_whole)
        operations = forward_operations(self._model, part, shape, self._frame_tokens, self._run.text_tokens)
        work = operations.matrix / self._matrix_per_s + operations.attention / self._device.attention_per_s
        touched = self._touched * self._hidden(shape.window) / self._device.memory_per_s
        return work / self._run.shards + layers * (touched + self._device.layer_s + self._exchange_seconds(shape))

    @property
    def _matrix_per_s(self):
        is_float8 = self._run.layer_share < 1 and self._device.float8_per_s
        return self._device.float8_per_s if is_float8 else self._device.matrix_per_s

    def _exchange_seconds(self, shape):
        sent = self._exchange(shape)
        return sum(self._device.link_s + size / self._device.link_per_s for size in sent if size)

    def _exchange(self, shape):
        """Bytes that a rank sends in a layer: of Q, K, V and the output by Ulysses (xfuser, usp.py), of K and V, with what was kept, to all others by
        ring (it gathers them, plan/memory), and Video-Infinity's K and V."""
        hidden, run = self._hidden(shape.window), self._run
        ulysses = [hidden * (run.ulysses - 1) // run.ulysses] * 4 if run.ulysses > 1 else []
        ring = [2 * self._hidden(shape.seen) * (run.ring - 1)] if run.ring > 1 else []
        return [*ulysses, *ring, 2 * self._hidden(shape.fetched)]

    @property
    def _frame_tokens(self):
        return (self._run.height // self._model.pixels_per_token) * (self._run.width // self._model.pixels_per_token)

    def _hidden(self, latent_frames):
        """Bytes of a rank's share of hidden states, of one branch."""
        return latent_frames * self._frame_tokens // self._run.shards * self._model.dim * self._model.number_bytes

    def _layers(self, lane):
        return self._run.stage_layers[lane]

    # Decoding.

    @cached_property
    def _latent_frame(self):
        pixels = self._run.height * self._run.width // self._model.pixels_per_latent**2
        return self._model.channels * pixels * _FLOAT

    def _decode_seconds(self, block):
        """Of one block; where all ranks decode, their share of it, and the exchange at the tiles' rims is not counted."""
        operations = self._plan.layout.given_latents(block) * self._run.height * self._run.width * self._decode_operations
        is_half = self._model.vae_number_bytes < _FLOAT
        ranks = self._run.shards * self._plan.num_stages * self._run.guidance_ranks if self._run.parallel_vae else 1
        return operations / (self._device.decode_half_per_s if is_half else self._device.decode_per_s) / ranks


def decode_place(decode, device):
    """Where ``decode`` (plan.schedule) is to be simulated: a thread that shares a busy device takes its time from the passes, as within the last stage."""
    return INLINE if decode == THREAD and not device.decodes_beside else decode
