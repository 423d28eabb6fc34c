"""How much memory every rank of a run needs, by arithmetic.

Knows: sizes and counts as numbers. Must not know: torch, models, flags.

The rules follow what the code allocates, part by part; each names where. "Hidden states" are those of a rank's share of the
largest window, (1, tokens, dim) in the transformer's dtype. Rules of activations and of decoding were measured with torch's
allocator on a CPU (tests/engine/test_memory.py measures them again). What is not counted: Python and its libraries, an accelerator's
context and NCCL's buffers.
"""

from dataclasses import dataclass, fields
from itertools import product

from .messages import MAX_PENDING_SENDS
from .schedule import AT_END, NO_DECODE, THREAD
from .waiting import AHEAD

_FLOAT = 4  # bytes of a float32
# Latents that a block's scheduler keeps beside the block's own: UniPC of order 2, Wan's own, has two predictions and the last
# sample (diffusers 0.42.1, schedulers/scheduling_unipc_multistep.py). DPM++ has two, Euler none.
SCHEDULER_HISTORY = 3


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank, by part.

    ``text_encoder``: before the transformer is there. ``weights``: of the transformer. ``loading``: beside them, the largest
    tensor as it is stored. ``vae``: its weights. ``text``: projected text and its K/V, and each step's conditioning.
    ``activations``: within a pass. ``context``: kept K/V, and the memory in which they are joined with a window's. ``messages``:
    hidden states that come, wait and leave. ``latents``: of blocks in flight with their schedulers' memory, and of finished
    ones. ``vae_memory``: what the VAE remembers from block to block. ``decoding``: a block on its way to frames.
    ``decodes_beside``: whether that happens while passes are computed. ``offloaded``: all experts' layers, where they wait on the
    host; ``total`` does not count them, nor ``kept_on_host``: cached context K/V that wait there. ``quantized_away``: of ``weights``, what is gone when passes are computed.
    """

    text_encoder: int
    weights: int
    loading: int
    vae: int
    text: int
    activations: int
    context: int
    messages: int
    latents: int
    vae_memory: int
    decoding: int
    decodes_beside: bool
    offloaded: int = 0
    kept_on_host: int = 0
    quantized_away: int = 0

    @property
    def host(self):
        """Bytes in the host's memory beside an accelerator's."""
        return self.offloaded + self.kept_on_host

    def phases(self):
        """{name of a phase: bytes at its peak}."""
        stays = self.weights + self.vae + self.text + self.context + self.messages + self.latents + self.vae_memory
        stays -= self.quantized_away
        at_once = self.activations + self.decoding if self.decodes_beside else max(self.activations, self.decoding)
        return {"encoding": self.text_encoder, "loading": self.weights + self.loading + self.vae, "passes": stays + at_once}

    @property
    def total(self):
        """The peak: the largest phase's."""
        return max(self.phases().values())

    def parts(self):
        """{part: bytes} of the parts that are not empty."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("decodes_beside", "quantized_away")}
        return {name: size for name, size in named.items() if size}


def memory_of_ranks(model, run):
    """A RankMemory for each rank of one replica (ModelNumbers, RunNumbers), in xDiT's order of ranks: shards of a frame change fastest,
    then stages, then guidance branches. The first one encodes prompts, the last one decodes."""
    places = list(product(range(run.guidance_ranks), range(len(run.stage_layers)), range(run.shards)))
    return [_of_rank(model, run, place[1], place == places[0], place == places[-1]) for place in places]


def _of_rank(model, run, stage, encodes, gives):
    is_first, is_last = stage == 0, stage == len(run.stage_layers) - 1
    decodes = run.decode != NO_DECODE and (gives or run.parallel_vae)
    pixels = run.decoded_pixels if decodes else 0  # the VAE remembers something of each tile
    return RankMemory(
        text_encoder=model.text_encoder_bytes if encodes and run.encoder_on_device else 0,
        weights=_weights(model, run, stage), loading=model.largest_bytes, vae=model.vae_bytes if is_last or run.parallel_vae else 0,
        text=_text(model, run, stage), **_of_a_pass(model, run, stage), latents=_latents(model, run, is_first, is_last, gives),
        vae_memory=round(pixels * model.vae_memory_bytes) * (run.videos if run.decode != AT_END else 1),
        decoding=_decoding(model, run) if decodes else 0, decodes_beside=run.decode == THREAD and not run.parallel_vae,
        offloaded=model.experts * run.stage_layers[stage] * model.layer_bytes if run.expert_offload else 0,
        kept_on_host=run.kept_entries * _kept(model, run, stage) + run.anchor_entries * _anchor(model, run, stage) if run.kept_on_host else 0,
        quantized_away=round(model.experts * run.stage_layers[stage] * model.layer_bytes * (1 - run.layer_share)),
    )


def _weights(model, run, stage):
    """Of all experts; with offload the experts' layers share the memory of one's (engine/residency.py)."""
    layers = run.stage_layers[stage]
    beside = model.shared_bytes + (model.embedding_bytes if stage == 0 else 0)
    beside += model.head_bytes if stage == len(run.stage_layers) - 1 else 0
    return (1 if run.expert_offload else model.experts) * layers * model.layer_bytes + model.experts * beside


def _text(model, run, stage):
    """engine/stage.Expert: the projected text and, for each layer, its K and V; for each step, and a finished frame, 7 vectors."""
    a_branch = run.text_tokens * model.dim * model.number_bytes * (1 + 2 * run.stage_layers[stage])
    return run.videos * model.experts * run.own_branches * a_branch + model.experts * (run.steps + 1) * 7 * model.dim * model.number_bytes


def _tokens(model, run, latent_frames):
    """On one rank."""
    frame = (run.height // model.pixels_per_token) * (run.width // model.pixels_per_token)
    return latent_frames * frame // run.shards


def _hidden(model, run, window):
    return _tokens(model, run, window) * model.dim * model.number_bytes


def _of_a_pass(model, run, stage):
    """{part: bytes} at the fullest pass. Where context is cached block 0 has a larger window than the others, of B latent frames, and
    its passes are done before the K/V of as many passes wait as will: its own come as it reads others for the last time."""
    is_first, is_last = stage == 0, stage == len(run.stage_layers) - 1
    kinds, others = [(run.window_latents, 0)], run.window_latents
    if run.kept_entries:
        others = min(run.layout.block_latents, run.window_latents)
        kinds = [(run.window_latents, run.kept_entries - 1), (others, run.kept_entries)]
    passes = [
        dict(
            activations=_activations(model, run, is_first, window), context=_context(model, run, stage, entries),
            messages=_messages(model, run, is_first, is_last, window, others),
        ) for window, entries in kinds
    ]
    return max(passes, key=lambda parts: sum(parts.values()))


def _activations(model, run, is_first, window):
    """Of one branch: branches are computed one after the other. Measured: to 1 % in float32 and bfloat16.

    Always there: the block's input, which its caller holds, rotary tables in float32, and on the first stage the embedding, which
    is each branch's input. The largest of what a WanTransformerBlock (diffusers 0.42.1) and xDiT's processor hold besides:

    - norm of keys: normalised hidden states, projected Q, K and V, normalised Q; with three float32 tensors of them.
    - RoPE of keys: the same, normalised K, and what is rotated of Q and K; with three float32 halves of the products.
    - feed-forward: hidden states, the cross-attention's output, normalised hidden states, and the inner ones before and after
      the activation.
    - its end: the same with its output, and three float32 tensors of the sum.

    Where frames of a window have timesteps of their own, 7 vectors a token are always there, and a block's 6 in float32, of which
    there are two copies for a moment before the rest comes.
    """
    hidden, tokens = _hidden(model, run, window), _tokens(model, run, window)
    in_float, inner = tokens * model.dim * _FLOAT, tokens * model.ffn_dim * model.number_bytes
    always = (2 if is_first else 1) * hidden + 2 * tokens * model.head_dim * _FLOAT
    if run.frame_timesteps:
        always += 7 * hidden + 6 * in_float
    norm, rope = 5 * hidden + 3 * in_float, 7 * hidden + 1.5 * in_float
    feed_forward, end = 3 * hidden + 2 * inner, 4 * hidden + 3 * in_float
    conversion = 6 * in_float if run.frame_timesteps and model.number_bytes < _FLOAT else 0
    return round(always + max(norm, rope, feed_forward, end, conversion, _ring(model, run, hidden)))


def _ring(model, run, hidden):
    """Ring attention, torch.distributed.tensor.experimental's _templated_ring_attention: normalised hidden states, Q, K, V, the
    output and what the kernel holds; this rank's keys and values behind each other, and those of all ranks gathered; gloo
    gathers into memory of its own first."""
    if run.ring == 1:
        return 0
    gathered = run.ring * (2 if run.on_host else 1)
    return 6 * hidden + (1 + gathered) * 2 * _keys(model, run)


def _keys(model, run):
    """K of one layer, of all that a pass sees."""
    return _hidden(model, run, run.window_latents + run.context_latents + run.seen_anchors)


def _context(model, run, stage, entries):
    """engine/context_store: K and V of C latent frames for each layer, branch and video, and one layer's K and V of window and
    context joined, which stay. A layer's old ones go before its new ones come. Experts share it: a pass has one expert.

    Cached context: the same of the previous block, ``entries`` times; of those on the host (engine/kept_kv) the layers
    that come, AHEAD and the one that computes, and up to 4 tensors that leave. Likewise anchors: of the video's first latent frames, of each step."""
    if not run.context_latents and not run.seen_anchors:
        return 0
    frames = _tokens(model, run, run.context_latents) * model.dim * model.number_bytes
    kept = run.videos * run.own_branches * run.stage_layers[stage] * 2 * frames
    lasting, anchors = entries * _kept(model, run, stage), run.anchor_entries * _anchor(model, run, stage)
    if run.kept_on_host:
        share = (AHEAD + 1 + 2) / (run.own_branches * run.stage_layers[stage])
        lasting, anchors = min(lasting, share * _kept(model, run, stage)), min(anchors, share * _anchor(model, run, stage))
    return round(kept + lasting + anchors + 2 * _keys(model, run))


def _kept(model, run, stage):
    """Cached K/V of one pass: of C latent frames for each layer and branch. A scale for each head in float8 is next to nothing."""
    return _key_values(model, run, stage, run.layout.context_latents, run.kept_bytes)


def _anchor(model, run, stage):
    """The same of the video's first latent frames."""
    return _key_values(model, run, stage, run.seen_anchors, run.anchor_bytes)


def _key_values(model, run, stage, latent_frames, number_bytes):
    return run.own_branches * run.stage_layers[stage] * 2 * _tokens(model, run, latent_frames) * model.dim * number_bytes


def _messages(model, run, is_first, is_last, window, others):
    """Hidden states of the branches: engine/p2p posts the next receive in the middle of a pass, which uses those before; a sender
    keeps up to MAX_PENDING_SENDS messages, and of a pass with two branches the first one's result waits for the second. ``window``, ``others``: latent frames of this pass's
    messages, and of those before and after it."""
    own, other = (run.own_branches * _hidden(model, run, latents) for latents in (window, others))
    comes = 0 if is_first else own + other
    leaves = 0 if is_last else own + (MAX_PENDING_SENDS - 1) * other + (run.own_branches - 1) * _hidden(model, run, window)
    return comes + leaves


def _latents(model, run, is_first, is_last, gives):
    """engine/blocks and engine/noise, in float32: on the first stage the blocks in flight and the finished one before them; on the
    last one those that have done a step, with what their schedulers remember (a stage alone has one copy of them); on both a
    window of noise, whole. Finished blocks wait whole where they are decoded. Of an image beside the latents the first stage has the latents, and a window
    with them."""
    frame = model.channels * (run.height * run.width // model.pixels_per_latent ** 2) * _FLOAT
    whole = frame * run.window_latents  # block 0 is longer than the others
    others = frame * min(run.layout.block_latents, run.window_latents)
    stepped, finished = whole + max(0, run.blocks_in_flight - 2) * others, MAX_PENDING_SENDS * others
    if run.layout.latent_frames and (run.decode == AT_END or run.parallel_vae):
        finished = frame * run.layout.latent_frames
    overlap = frame * run.layout.overlap_latents if is_last else 0  # waits for the next block
    copies = (1 if is_first and not is_last else 0) + (1 + SCHEDULER_HISTORY if is_last else 0)
    beside = (2 * others + _condition(model, run, frame)) // run.shards if is_first else 0
    return (copies * stepped + overlap) // run.shards + beside + (is_first + is_last) * whole + (finished if gives else 0)


def _condition(model, run, frame):
    """engine/video.Video.condition and engine/blocks.BlockStore.window; ``frame``: of latents."""
    if not model.condition_channels:
        return 0
    kept = model.condition_latents if run.layout.latent_frames is None else min(model.condition_latents, run.layout.latent_frames)
    beside = frame * run.window_latents * model.condition_channels // model.channels
    return run.videos * frame * kept + 2 * beside + frame * run.window_latents  # what is joined, and joined


def _decoding(model, run):
    """models/wan_vae: what the decoder holds while it makes one latent frame's frames, and the frames of a block, which are
    joined and brought to another range: once while they are made, three times at the end."""
    height, width = (min(sizes) for sizes in zip((run.height, run.width), run.tile or (run.height, run.width)))
    latents = run.layout.latent_frames if run.parallel_vae and run.layout.latent_frames else run.layout.own_latents(0)
    frames = latents * model.frames_per_latent * run.height * run.width * 3 * model.vae_number_bytes
    ranks = run.shards * len(run.stage_layers) * run.guidance_ranks if run.parallel_vae else 1
    is_small = run.on_host and height <= model.vae_small_rows
    work = height * width * (model.vae_small_work_bytes if is_small else model.vae_work_bytes)
    return round(max(work / ranks + frames, 3 * frames))


def fullest(memories):
    """(number of the rank that needs most, its RankMemory); of equal ones the first."""
    return max(enumerate(memories), key=lambda one: (one[1].total, -one[0]))
