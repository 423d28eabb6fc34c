"""What the memory of a run depends on, as numbers.

Knows: sizes and counts of a model and of a run. Must not know: torch, models, flags, or how memory follows (memory.py).
"""

from dataclasses import dataclass

from .layout import Layout
from .schedule import THREAD
from .waiting import most_kept


@dataclass(frozen=True)
class ModelNumbers:
    """What memory depends on of a model. Bytes are of weights as loaded, of one expert.

    ``number_bytes``: of a number of the transformer. ``layer_bytes``, ``shared_bytes`` (condition embedder and tables, on every
    stage), ``embedding_bytes``, ``head_bytes``: of weights. ``largest_bytes``: of the largest tensor as it is stored.
    ``channels``: of latents; ``condition_channels``: that stand beside them, of which the first ``condition_latents`` latent frames are kept.
    ``pixels_per_token``: along a side. ``vae_memory_bytes``, ``vae_work_bytes``: a pixel of a frame, see models/wan_vae.py; on a CPU
    ``vae_small_work_bytes`` where a frame has at most ``vae_small_rows`` rows.
    """

    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    channels: int
    pixels_per_token: int
    pixels_per_latent: int
    frames_per_latent: int
    experts: int
    number_bytes: int
    layer_bytes: int
    shared_bytes: int
    embedding_bytes: int
    head_bytes: int
    largest_bytes: int
    text_encoder_bytes: int
    vae_bytes: int
    vae_memory_bytes: float
    vae_work_bytes: float
    vae_small_work_bytes: float
    vae_small_rows: int
    vae_number_bytes: int
    condition_channels: int = 0
    condition_latents: int = 0

    @property
    def dim(self):
        """Of hidden states."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class RunNumbers:
    """What memory depends on of a run. ``height``, ``width``: pixels. ``branches``: of guidance. ``layout``: with the video's
    length. ``stage_layers``: how many layers each stage has. ``ulysses``, ``ring``, ``guidance_ranks``: degrees. ``decode``: as in
    plan.schedule. ``parallel_vae``: all ranks decode together, at the end. ``tile``: (height, width) of the VAE's tiles in
    pixels, and ``tile_stride``, or None. ``encoder_on_device``: whether prompts are encoded where the passes are computed.
    ``expert_offload``: whether an expert that is not in use waits elsewhere. ``on_host``: whether a CPU computes, and ranks talk over gloo.
    ``layer_share``: how much of a layer's bytes is left when it is quantized, once it is loaded. ``frame_timesteps``: whether frames of
    a window have timesteps of their own. ``kept_bytes``: of a number of cached context K/V, which wait on the host where
    ``kept_on_host``; 0: the context is recomputed. ``anchor_latents``: of the video's first latent frames, whose K/V of each step wait likewise,
    ``anchor_bytes`` a number.
    """

    height: int
    width: int
    branches: int
    layout: Layout
    steps: int
    stage_layers: tuple[int, ...]
    stagger: int = 1
    videos: int = 1
    text_tokens: int = 512
    ulysses: int = 1
    ring: int = 1
    guidance_ranks: int = 1
    decode: str = THREAD
    parallel_vae: bool = False
    tile: tuple[int, int] | None = None
    tile_stride: tuple[int, int] | None = None
    encoder_on_device: bool = True
    expert_offload: bool = False
    on_host: bool = False
    layer_share: float = 1.0
    frame_timesteps: bool = False
    kept_bytes: int = 0
    anchor_latents: int = 0
    anchor_bytes: int = 0
    kept_on_host: bool = False

    @property
    def shards(self):
        """Into how many parts each latent frame is cut."""
        return self.ulysses * self.ring

    @property
    def decoded_pixels(self):
        """Of a frame as the VAE has them: tiles overlap (diffusers, AutoencoderKLWan.tiled_decode)."""
        if self.tile is None or max(self.height - self.tile[0], self.width - self.tile[1]) <= 0:
            return self.height * self.width
        sides = zip((self.height, self.width), self.tile, self.tile_stride)
        rows, columns = (sum(min(tile, length - start) for start in range(0, length, stride)) for length, tile, stride in sides)
        return rows * columns

    @property
    def own_branches(self):
        """Guidance branches that a rank computes."""
        return self.branches // self.guidance_ranks

    @property
    def window_latents(self):
        """Latent frames of the largest window: block 0 is one, and with the context before them others are as large."""
        return self.layout.own_latents(0)

    @property
    def context_latents(self):
        """Latent frames of the next block that a pass attends to."""
        return self.layout.seen_latents - self.window_latents

    @property
    def kept_entries(self):
        """How many passes' K/V wait for the next blocks' passes at a time, of all videos (DESIGN section 2)."""
        if not self.kept_bytes:
            return 0
        return self.videos * most_kept(self.steps, self.layout.num_blocks, self.stagger)

    @property
    def anchor_entries(self):
        """How many passes' K/V of the videos' first latent frames wait at a time: of each step."""
        return self.videos * self.steps if self.seen_anchors else 0

    @property
    def seen_anchors(self):
        """Latent frames of the video's first ones that a pass of a later block sees."""
        return self.anchor_latents if self.layout.num_blocks != 1 else 0

    @property
    def blocks_in_flight(self):
        """Of all videos."""
        at_once = -(-self.steps // self.stagger)
        blocks = self.layout.num_blocks
        return self.videos * (at_once if blocks is None else min(at_once, blocks))
