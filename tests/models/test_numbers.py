"""A model's numbers from its configurations."""

import json

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from dualparal_testing.allocated import Allocated
from dualparal_testing.small_wan import small_vae
from torch.utils.flop_counter import FlopCounterMode

from xdualparal.models.numbers import UMT5_XXL, decode_operations, model_numbers
from xdualparal.models.wan import WanFamily
from xdualparal.models.wan22 import Wan22Family
from xdualparal.models.wan_i2v import Wan22I2VFamily
from xdualparal.models.wan_vae import StreamingDecoder, decoder_sizes
from xdualparal.models.weights import load_stage, load_text_encoder, read_configs
from xdualparal.plan.memory_numbers import ModelNumbers
from xdualparal.xdit.demo_model import TINY_WAN_2_FOLDER, TINY_WAN_FOLDER


def numbers_of(family=WanFamily(), transformer=None, vae=None, dtype=torch.bfloat16):
    return ModelNumbers(**model_numbers(family, transformer or dict(num_layers=40), vae or {}, UMT5_XXL, dtype, torch.float32))


def bytes_of(module):
    return sum(weight.nbytes for weight in module.parameters())


def test_full_size_models():
    """Parameters as published: 14.3 and 1.4 billion (README), the text encoder 5.7, the VAE 127 million."""
    large = numbers_of()
    small = numbers_of(transformer=dict(num_layers=30, num_attention_heads=12, ffn_dim=8960))
    assert (large.dim, large.ffn_dim, small.dim, small.ffn_dim) == (5120, 13824, 1536, 8960)
    assert large.layers * large.layer_bytes / 1e9 == pytest.approx(28.1, abs=0.05)
    assert small.layers * small.layer_bytes / 1e9 == pytest.approx(2.8, abs=0.05)
    assert large.text_encoder_bytes / 1e9 == pytest.approx(11.36, abs=0.01)
    assert large.vae_bytes / 4e6 == pytest.approx(127, abs=0.5)
    assert (large.pixels_per_token, large.pixels_per_latent, large.channels) == (16, 8, 16)
    assert large.vae_memory_bytes == 9458
    assert numbers_of(Wan22Family()).experts == 2
    of_images = numbers_of(Wan22I2VFamily(), dict(num_layers=40, in_channels=36, out_channels=16))
    assert (of_images.channels, of_images.condition_channels, of_images.condition_latents) == (16, 20, 30)
    assert large.condition_channels == large.condition_latents == 0


def test_the_parts_are_those_of_a_whole_transformer():
    config = dict(num_layers=3, num_attention_heads=4, attention_head_dim=12, ffn_dim=64, text_dim=32, freq_dim=32)
    numbers = numbers_of(transformer=config)
    whole = WanTransformer3DModel(**config)
    in_float32 = set(WanTransformer3DModel._keep_in_fp32_modules)
    expected = sum(w.numel() * (4 if in_float32 & set(name.split(".")) else 2) for name, w in whole.named_parameters())
    assert 3 * numbers.layer_bytes + numbers.shared_bytes + numbers.embedding_bytes + numbers.head_bytes == expected
    assert numbers.largest_bytes == 4 * max(w.numel() for w in whole.parameters())


@pytest.mark.parametrize("folder", [TINY_WAN_FOLDER, TINY_WAN_2_FOLDER], ids=lambda folder: folder.name)
def test_they_are_the_bytes_that_are_loaded(folder):
    _, transformer, vae = read_configs(folder)
    encoder = json.loads((folder / "text_encoder" / "config.json").read_text())
    numbers = ModelNumbers(**model_numbers(WanFamily(), transformer, vae, encoder, torch.float32, torch.float32))
    pipeline = load_stage(WanFamily(), folder, 0, 1, range(numbers.layers), torch.float32, with_vae=True)
    assert bytes_of(pipeline.vae) == numbers.vae_bytes
    assert bytes_of(load_text_encoder(folder, torch.float32)) == numbers.text_encoder_bytes
    parts = numbers.layers * numbers.layer_bytes + numbers.shared_bytes + numbers.embedding_bytes + numbers.head_bytes
    assert bytes_of(pipeline.transformer) == parts


def residual_vae(decoder_base_dim=16):
    """In the form of Wan2.2-TI2V-5B's."""
    return AutoencoderKLWan(
        base_dim=8, decoder_base_dim=decoder_base_dim, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1, temperal_downsample=[False, True, True],
        is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16,
    ).eval()


@pytest.mark.parametrize("make", [small_vae, residual_vae])
def test_a_decoder_remembers_so_much(make):
    vae = make()
    pixels = (8 * vae.config.scale_factor_spatial) ** 2
    decoder = StreamingDecoder(vae)
    decoder.decode(torch.randn(1, 16, 3, 8, 8))
    kept = sum(frames.nbytes for tile in decoder._memories.values() for frames in tile if isinstance(frames, torch.Tensor))
    assert kept == pytest.approx(decoder_sizes(vae).remembered * 4 * pixels, rel=1e-6)


def decoded(base_dim, pixels):
    """(the bytes that a decoder holds, its DecoderSizes)."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=base_dim, z_dim=16, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True], scale_factor_spatial=4
    ).eval()
    decoder = StreamingDecoder(vae)
    with Allocated():  # it knows the sizes of what is freed later
        decoder.decode(torch.randn(1, 16, 2, pixels // 4, pixels // 4))
    with Allocated() as allocated:
        decoder.decode(torch.randn(1, 16, 1, pixels // 4, pixels // 4))
    return allocated.peak, decoder_sizes(vae)


def test_a_residual_decoder_holds_so_much():
    """Its last level begins with twice the width."""
    torch.manual_seed(0)
    vae = residual_vae(decoder_base_dim=64)
    decoder = StreamingDecoder(vae)
    with Allocated():
        decoder.decode(torch.randn(1, 16, 2, 8, 8))
    with Allocated() as allocated:
        decoder.decode(torch.randn(1, 16, 1, 8, 8))
    sizes = decoder_sizes(vae)
    assert sizes.small_rows < 128 and allocated.peak == pytest.approx(sizes.held * 4 * 128**2, rel=0.1)


def test_a_decoder_holds_so_much():
    held, sizes = decoded(48, 96)
    assert sizes.small_rows < 96 and held == pytest.approx(sizes.held * 4 * 96**2, rel=0.1)


def test_a_decoder_of_small_frames_holds_more():
    held, sizes = decoded(16, 96)
    assert sizes.small_rows > 96 and held == pytest.approx(sizes.held_if_small * 4 * 96**2, rel=0.1)


def test_decoding_grows_as_the_pixels_do():
    """To 1 %, at 480 x 832: what is counted for each pixel at 128 x 128 holds there."""
    with torch.device("meta"), torch.no_grad():
        decoder, latent = StreamingDecoder(AutoencoderKLWan()), torch.empty(1, 16, 1, 60, 104)
        for _ in range(2):
            with FlopCounterMode(display=False) as counter:
                decoder._decode_one((0, 0), latent)
    a_pixel = decode_operations(WanFamily(), {})
    assert 3.37e7 < a_pixel < 3.39e7 and 0.99 * counter.get_total_flops() < a_pixel * 480 * 832 < counter.get_total_flops()
