"""Decoding piece by piece is decoding at once."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from dualparal_testing.small_wan import small_vae

import xdualparal
from xdualparal.models import wan_vae
from xdualparal.models.wan_vae import StreamingDecoder, decode_at_once, memory_latents, unnormalised

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"
TWO_BY_THREE = 4, 7  # latents, in tiles of 3 x 5, 2 x 3 apart


def plain():
    return small_vae()


def tiled():
    vae = small_vae()
    vae.enable_tiling(24, 40, 16, 24)
    return vae


def patches_tiled():
    """Like Wan2.2's VAE: shortcuts around the upsampling, patches of 2 x 2 pixels, spatial factor 16."""
    torch.manual_seed(1)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16,
    ).eval()
    vae.enable_tiling(48, 80, 32, 48)
    return vae


def tiny_wan():
    return AutoencoderKLWan.from_pretrained(TINY_WAN / "vae")


def random_latents(vae, frames, size=(4, 4)):
    return torch.randn(1, vae.config.z_dim, frames, *size, generator=torch.Generator().manual_seed(0))


def decoded(decoder, latents, pieces):
    return torch.cat([decoder.decode(piece) for piece in latents.split(pieces, dim=2)], dim=2)


def warmed_up(vae, latents):
    decoder = StreamingDecoder(vae)
    decoder.warm_up(latents)
    return decoder


@pytest.mark.parametrize("pieces", [[7], [3, 2, 2], [1] * 7])
def test_same_frames_to_the_bit(pieces):
    vae = plain()
    latents = random_latents(vae, 7)
    decoder = StreamingDecoder(vae)
    parts = [decoder.decode(piece) for piece in latents.split(pieces, dim=2)]
    assert [part.shape[2] for part in parts] == [4 * n - 3 * (k == 0) for k, n in enumerate(pieces)]
    assert torch.equal(torch.cat(parts, dim=2), decode_at_once(vae, latents))


@pytest.mark.parametrize("pieces", [[3], [1, 2], [1] * 3])
@pytest.mark.parametrize("make_vae", [tiled, patches_tiled])
def test_tiles_same_frames_to_the_bit(make_vae, pieces):
    vae = make_vae()
    latents = random_latents(vae, 3, TWO_BY_THREE)
    frames = decoded(StreamingDecoder(vae), latents, pieces)
    assert torch.equal(frames, decode_at_once(vae, latents))
    vae.disable_tiling()
    assert not torch.equal(frames, decode_at_once(vae, latents))


@pytest.mark.parametrize("size", [(3, 5), (3, 6), (4, 5)], ids=["one tile", "wider", "higher"])
def test_tiles_where_the_vae_makes_them(size):
    vae = tiled()
    latents = random_latents(vae, 2, size)
    assert torch.equal(decoded(StreamingDecoder(vae), latents, 1), decode_at_once(vae, latents))


def test_no_tiles_where_they_are_off():
    vae = tiled()
    vae.disable_tiling()
    latents = random_latents(vae, 2, TWO_BY_THREE)
    assert torch.equal(decoded(StreamingDecoder(vae), latents, 1), decode_at_once(vae, latents))


def test_tiny_wan_in_tiles():
    """14 is no multiple of its spatial factor, 4: the VAE then joins more pixels than there are, and cuts them off."""
    vae = tiny_wan()
    vae.enable_tiling(16, 16, 14, 14)
    latents = random_latents(vae, 5, (6, 6))
    assert torch.equal(decoded(StreamingDecoder(vae), latents, 2), decode_at_once(vae, latents))


def test_other_videos_in_between_do_not_matter():
    vae = tiled()
    latents = random_latents(vae, 3, TWO_BY_THREE)
    decoder, other = StreamingDecoder(vae), StreamingDecoder(vae)
    start = decoder.decode(latents[:, :, :2])
    other.decode(-latents)
    whole = decode_at_once(vae, latents)
    assert torch.equal(torch.cat([start, decoder.decode(latents[:, :, 2:])], dim=2), whole)


@pytest.mark.parametrize("make_vae", [plain, tiled])
def test_memory_is_constant_and_dropped_at_the_end(make_vae):
    vae = make_vae()
    latents = random_latents(vae, 4, (3, 6))
    decoder, kept = StreamingDecoder(vae), []
    for latent in latents.split(1, dim=2):
        decoder.decode(latent)
        kept.append(remembered(decoder))
    assert kept[0] < kept[1] == kept[2] == kept[3]
    decoder.close()
    assert remembered(decoder) == 0
    assert torch.equal(decoder.decode(latents), decode_at_once(vae, latents))


def remembered(decoder):
    """Numbers that ``decoder`` keeps for the frames to come."""
    return sum(x.numel() for memory in decoder._memories.values() for x in memory if torch.is_tensor(x))


@pytest.mark.parametrize("make_vae, size", [(plain, (4, 4)), (tiled, (2, 6)), (tiny_wan, (4, 4))])
def test_warm_start_same_frames_to_the_bit(make_vae, size):
    vae = make_vae()
    enough = memory_latents(vae)
    latents = random_latents(vae, 2 + enough + 1, size)
    frames = warmed_up(vae, latents[:, :, 2:-1]).decode(latents[:, :, -1:])
    assert torch.equal(frames, decode_at_once(vae, latents)[:, :, -4:])


@pytest.mark.parametrize("make_vae", [plain, tiled, patches_tiled])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_warm_start_near_the_start_same_frames_to_the_bit(make_vae, before):
    vae = make_vae()
    latents = random_latents(vae, before + 2, (3, 6))
    frames = warmed_up(vae, latents[:, :, :before]).decode(latents[:, :, before:])
    assert torch.equal(frames, decode_at_once(vae, latents)[:, :, -frames.shape[2]:])
    assert frames.shape[2] == (5 if before == 0 else 8)


@pytest.mark.parametrize("make_vae", [plain, tiny_wan])
@pytest.mark.parametrize("too_few", [1, 4])
def test_too_short_a_warm_start_shows(make_vae, too_few):
    vae = make_vae()
    latents = random_latents(vae, 9)
    frames = warmed_up(vae, latents[:, :, -1 - too_few:-1]).decode(latents[:, :, -1:])
    assert frames.shape[2] == 4
    assert not torch.equal(frames, decode_at_once(vae, latents)[:, :, -4:])


@pytest.mark.parametrize("make_vae", [plain, patches_tiled, tiny_wan])
def test_memory_is_as_long_as_a_wrong_latent_shows(make_vae, monkeypatch):
    """Not a number, in one latent frame, stays in all that depends on it."""
    vae = make_vae()
    enough = memory_latents(vae)
    monkeypatch.setattr(wan_vae, "check_frames", lambda frames: None)  # it would refuse them
    latents = random_latents(vae, enough + 2, (2, 2))
    latents[:, :, 0] = torch.nan
    wrong = decode_at_once(vae, latents).isnan().any(dim=4).any(dim=3).any(dim=1)[0].nonzero()
    assert (wrong[-1] + 3) // 4 == enough


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_frames_that_are_no_numbers_are_refused(bad):
    """An infinity, too, which would be a white pixel."""
    vae = plain()
    vae.decoder.conv_out.bias.data[1] = bad
    with pytest.raises(FloatingPointError, match="the VAE made frames with a NaN or an infinity"):
        StreamingDecoder(vae).decode(random_latents(vae, 2, (2, 2)))


def test_memory_of_the_real_vae():
    """Wan2.1's, by hand: 12 convolutions that look back 2 frames, then a doubling, 7 and a doubling, 13: 150 frames,
    of which 4 are a latent frame."""
    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert memory_latents(vae) == 38


def test_only_a_fresh_decoder_is_warmed_up():
    vae = plain()
    latents = random_latents(vae, 1)
    decoder = StreamingDecoder(vae)
    decoder.decode(latents)
    with pytest.raises(ValueError, match="middle of a video"):
        decoder.warm_up(latents)
    decoder.close()
    decoder.warm_up(latents)


def test_latents_are_unnormalised_as_in_the_ordinary_pipeline():
    vae = plain()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    latents = torch.randn(1, 16, 2, 4, 4)
    assert torch.allclose(unnormalised(vae, latents), latents * std + mean, atol=1e-6)
