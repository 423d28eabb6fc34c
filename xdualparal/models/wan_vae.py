"""Decodes the latents of Wan's VAE piece by piece.

Knows: Wan's causal VAE, its feature cache, how many latent frames back that reaches, and its tiles. Must not know:
blocks in flight, files, processes.
Facts are from diffusers 0.42.1, models/autoencoders/autoencoder_kl_wan.py.
"""

import math
from typing import NamedTuple

import torch

from .finite import is_finite


class StreamingDecoder:
    """Decodes a video's latents piece by piece, to the same bits as ``vae.decode`` of all of them.

    It uses tiles where ``AutoencoderKLWan._decode`` does. The VAE is causal: each causal convolution of its decoder
    caches its last two input frames. ``AutoencoderKLWan.decode`` has one cache, cleared for each video and each tile;
    this keeps one for each tile from piece to piece, of constant size. So tiles save less memory than there: the default
    VAE caches 9458 bytes per pixel of a frame in float32 (measured, 64 x 64 pixels), for up to (256 / 192)**2 = 1.8
    times the pixels where tiles overlap.
    """

    def __init__(self, vae):
        self._vae = vae
        self._memories = {}  # by a tile's first row and column, in latents
        vae.clear_cache()

    @torch.no_grad()
    def decode(self, latents):
        """Decodes the next latent frames of the video.

        ``latents``: (1, channels, latent frames, height, width), as the transformer predicts them. Returns
        (1, 3, frames, height, width) in -1..1, the VAE's dtype: 1 frame for the video's first latent frame, 4 for
        each other one. Raises FloatingPointError when the VAE makes a NaN or an infinity.
        """
        cuts = _cuts(self._vae, *latents.shape[-2:])
        frames = _joined(self._vae, self._decode_tiles(unnormalised(self._vae, latents), *cuts), *cuts)
        if self._vae.config.patch_size is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            frames = unpatchify(frames, patch_size=self._vae.config.patch_size)
        check_frames(frames)  # before an infinity becomes a number
        return frames.clamp(-1.0, 1.0)

    @torch.no_grad()
    def warm_up(self, latents):
        """Fills the cache, to resume a video: ``decode`` then gives the same bits as after decoding all before.

        ``latents``: the last latent frames before those that ``decode`` gets next, in its form: at least
        ``memory_latents(vae)``, or all that there are. Takes as long as decoding them. Raises ValueError for a decoder
        that is in the middle of a video.
        """
        if self._memories:
            raise ValueError("this decoder is in the middle of a video: warm up a new one, or close it first")
        cuts = _cuts(self._vae, *latents.shape[-2:])
        for n in range(latents.shape[2]):  # one by one: no more than one latent frame's frames are ever held
            self._decode_tiles(unnormalised(self._vae, latents[:, :, n:n + 1]), *cuts)

    def _decode_tiles(self, latents, down, right):
        """Decodes each tile; returns rows of tiles' frames, not yet blended."""
        height, width = latents.shape[-2:]
        return [
            [
                self._decode_tile((top, left), latents[..., top:top + down.size, left:left + right.size])
                for left in range(0, width, right.stride)
            ]
            for top in range(0, height, down.stride)
        ]

    def _decode_tile(self, place, latents):
        return torch.cat([self._decode_one(place, latent) for latent in latents.split(1, dim=2)], dim=2)

    def _decode_one(self, place, latent):
        is_first = place not in self._memories
        memory = self._memories.setdefault(place, [None] * self._vae._conv_num)
        # One by one, so that the bits do not depend on the pieces: on a CPU, several at once are rounded differently at some
        # sizes (measured in float32: 2 x 2 latents, and 44 x 80 of 48 channels; not 44 x 80 of 16).
        latent = self._vae.post_quant_conv(latent)
        return self._vae.decoder(latent, feat_cache=memory, feat_idx=[0], first_chunk=is_first)

    def close(self):
        """Drops the cache; the next latents are the first ones of another video."""
        self._memories.clear()


def memory_latents(vae):
    """Returns how many latent frames ``vae``'s decoder looks back: its cache depends on no earlier ones.

    Each causal convolution looks back its kernel's length less one, in frames of its input; a ``time_conv``
    (WanResample) makes several frames of one thereafter. Their order among the modules is that of the data. A start
    leaves zeros at a ``time_conv`` in place of one latent frame's: the convolutions before it look back further, so
    it adds nothing. AutoencoderKLWan's default, Wan2.1's, gives 38.
    """
    frames, frames_per_latent = 0, 1
    for name, conv in vae.decoder.named_modules():
        if isinstance(conv, torch.nn.Conv3d):
            frames += conv.kernel_size[0] - 1
            made = conv.out_channels // conv.in_channels if name.endswith("time_conv") else 1
            frames, frames_per_latent = frames * made, frames_per_latent * made
    return math.ceil(frames / frames_per_latent)


def encoder_memory_latents(vae):
    """Returns how many latent frames ``vae``'s encoder looks back: a latent frame depends on no earlier latent frame's frames.

    As ``memory_latents``, the other way round: from the last convolution to the first, and a ``time_conv`` halves the frames.
    AutoencoderKLWan's default, Wan2.1's, gives 28.
    """
    frames = 0  # that are looked back to, at the rate of the convolution
    for name, conv in reversed([*vae.encoder.named_modules()]):
        if isinstance(conv, torch.nn.Conv3d):
            frames = frames * conv.stride[0] + conv.kernel_size[0] - 1
    return math.ceil(frames / vae.config.scale_factor_temporal)


class DecoderSizes(NamedTuple):
    """Numbers for each pixel of a frame. ``remembered``: in the cache. ``held``: the most besides, within one latent frame.
    ``held_if_small``: the same on a CPU in float32, where frames have at most ``small_rows`` rows of pixels."""

    remembered: float
    held: float
    held_if_small: float
    small_rows: int


# Tensors of the last level's width, of all frames that one latent frame makes, that are there at once: a residual block's input,
# the normalised one with the cached frames before it, joined, padded and in the convolution's own layout, and the result. Measured
# with torch's allocator on a CPU: 7.6 (default VAE, float32), 7.1 (bfloat16), 7.1 to 7.8 (demo VAE), 7.7 and 7.8 (in Wan2.2-TI2V-5B's form,
# whose last level begins with twice the width: decoder_base_dim 64, 128 and 192 pixels).
_HELD_TENSORS = 7.8
# Convolutions of few numbers are not oneDNN's (torch, aten/src/ATen/native/Convolution.cpp, use_mkldnn: up to 20480 in all but the
# innermost dimension): torch unfolds the input, 3 x 3 x 3 times as many numbers, beside 6.3 tensors as above (measured, demo VAE).
_SMALL, _HELD_IF_SMALL = 20480, 27 + 6.3


def decoder_sizes(vae):
    """The DecoderSizes of ``vae``, which needs no weights.

    Each causal convolution with a kernel over time caches two frames of its input, whatever the frame rate there, at its level's
    size; its order among the modules is that of the data, but a ``time_conv`` comes before the resampling beside it.
    AutoencoderKLWan's default, Wan2.1's, gives 9458 bytes remembered in float32, as measured.
    """
    levels = len(vae.config.dim_mult) - 1
    pixels, before, remembered = [4.0 ** -levels] * 2 + [0.0]
    for name, module in vae.decoder.named_modules():
        if isinstance(module, torch.nn.Upsample):
            before, pixels = pixels, pixels * 4
        elif isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1:
            remembered += 2 * module.in_channels * (before if name.endswith("time_conv") else pixels)
    width, frames, patch = vae.decoder.conv_out.in_channels, vae.config.scale_factor_temporal, vae.config.patch_size or 1
    held, small = (tensors * frames / patch**2 for tensors in (_HELD_TENSORS * _last_width(vae.decoder), _HELD_IF_SMALL * width))
    small_rows = (_SMALL // (width * (frames + 2)) - 2) * patch  # with two cached frames, padded by a pixel
    return DecoderSizes(remembered / patch**2, held, max(held, small), small_rows)


def _last_width(decoder):
    """Channels of the widest input of the last level's convolutions; with shortcuts around levels it begins with the one before's."""
    width = 0
    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Upsample):
            width = 0
        elif isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1 and not name.endswith("time_conv"):
            width = max(width, module.in_channels)
    return width


@torch.no_grad()
def decoder_operations(vae):
    """Operations of decoding one latent frame, not a video's first, for each pixel of a frame. ``vae``: on the meta device. Counted by torch.

    Attention over a frame grows faster than the pixels do: the count is that of 128 x 128 pixels, for Wan2.1's VAE 33.8 million, less than
    1 % below that of 480 x 832 (tests/models/test_numbers.py).
    """
    from torch.utils.flop_counter import FlopCounterMode

    size = 128 // vae.config.scale_factor_spatial
    decoder, latent = StreamingDecoder(vae), torch.empty(1, vae.config.z_dim, 1, size, size, device="meta")
    for _ in range(2):  # the first one makes fewer frames
        with FlopCounterMode(display=False) as counter:
            decoder._decode_one((0, 0), latent)
    return counter.get_total_flops() / (size * vae.config.scale_factor_spatial) ** 2


class _Cut(NamedTuple):
    """How height or width is cut into tiles. ``size`` of a tile and ``stride`` from one to the next: in latents.

    In pixels of the decoder's output, before unpatchify: ``blend``, over which a tile is blended with the one before,
    ``kept`` of each tile and ``total`` of all joined; None: all.
    """

    size: int
    stride: int
    blend: int = 0
    kept: int | None = None
    total: int | None = None


def _cuts(vae, height, width):
    """Returns the cuts of (height, width) latents, as AutoencoderKLWan._decode makes them."""
    down = _cut(vae, height, vae.tile_sample_min_height, vae.tile_sample_stride_height)
    right = _cut(vae, width, vae.tile_sample_min_width, vae.tile_sample_stride_width)
    if vae.use_tiling and (height > down.size or width > right.size):
        return down, right
    return _Cut(height, height), _Cut(width, width)


def _cut(vae, length, size, stride):
    """Cuts ``length`` latents into tiles of ``size`` pixels, ``stride`` apart, as AutoencoderKLWan.tiled_decode does."""
    scale, patch = vae.spatial_compression_ratio, vae.config.patch_size or 1
    kept = stride // patch
    return _Cut(size // scale, stride // scale, size // patch - kept, kept, length * scale // patch)


def _joined(vae, rows, down, right):
    """Joins rows of tiles to (1, channels, frames, height, width). Changes the tiles: ``vae`` blends in place."""
    for above, row in zip([None] + rows, rows):
        for n, tile in enumerate(row):
            if above is not None:
                vae.blend_v(above[n], tile, down.blend)
            if n > 0:
                vae.blend_h(row[n - 1], tile, right.blend)
    rows = [torch.cat([tile[..., :down.kept, :right.kept] for tile in row], dim=-1) for row in rows]
    return torch.cat(rows, dim=-2)[..., :down.total, :right.total]


def unnormalised(vae, latents):
    """Scales latents as the transformer predicts them, (1, channels, frames, height, width), to those ``vae`` decodes."""
    latents = latents.to(vae.device, vae.dtype)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents / (1.0 / std) + mean  # in this form, for the same bits as the ordinary pipeline


def normalised(vae, latents):
    """Scales latents that ``vae`` encodes to those that the transformer predicts, the other way than ``unnormalised``."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1).to(latents) for values in (vae.config.latents_mean, vae.config.latents_std))
    return (latents - mean) * (1.0 / std)  # as diffusers' pipeline_wan_i2v.py


@torch.no_grad()
def encode(vae, frames):
    """Encodes the ``frames`` of a video, (frames, height, width, 3) uint8, 1 + a multiple of those of a latent frame.

    Returns (1, channels, latent frames, height, width) float32 on the CPU, as the transformer predicts them: the middle of what the VAE
    says, as diffusers encodes conditions. In tiles where the VAE is set so. Raises FloatingPointError for a NaN or an infinity.
    """
    return encode_video(vae, torch.from_numpy(frames).to(vae.device, vae.dtype).permute(3, 0, 1, 2)[None] / 127.5 - 1)


@torch.no_grad()
def encode_video(vae, video):
    """As ``encode``, of a ``video`` (1, 3, frames, height, width) in -1..1."""
    latents = normalised(vae, vae.encode(video.to(vae.device, vae.dtype), return_dict=False)[0].mode().float()).cpu()
    if not is_finite(latents):
        raise FloatingPointError("the VAE made latents with a NaN or an infinity of frames: use its weights in float32, or others")
    return latents


@torch.no_grad()
def decode_at_once(vae, latents):
    """Decodes all of a video's latents, to the frames that StreamingDecoder gives, in one call of ``vae.decode``.

    xDiT's parallel VAE replaces that. Its memory grows with the video's length. Raises FloatingPointError for a NaN.
    """
    frames = vae.decode(unnormalised(vae, latents), return_dict=False)[0]
    check_frames(frames)
    return frames


def check_frames(frames):
    """Raises FloatingPointError for frames of which a NaN or an infinity would become a black or white pixel."""
    if not is_finite(frames):
        raise FloatingPointError(
            "the VAE made frames with a NaN or an infinity of finite latents: use its weights in float32, or others"
        )
