"""The image-to-video demo model's training begins with tiny-wan, and with what diffusers' pipeline makes of an image."""

import importlib
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanTransformer3DModel

from xdualparal.demo import scenes

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def training(monkeypatch):
    """The module of the script, which imports that of the first model."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("train_tiny_wan_i2v")


@torch.no_grad()
def test_conditions_are_those_of_diffusers_pipeline(training):
    """Those after the encoder's memory too, which are not encoded."""
    vae = AutoencoderKLWan.from_pretrained(training.TINY_WAN / "vae")
    pipeline = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=None)
    clip, _ = scenes.make_clips(scenes.evaluation_scenes(1), 1, torch.Generator().manual_seed(0))
    sizes = dict(batch_size=1, num_channels_latents=8, height=32, width=32, num_frames=97, dtype=torch.float32, device="cpu")
    _, expected = pipeline.prepare_latents(clip[:, :, 0], **sizes)
    made = training.masked(training.condition_latents(vae, clip, 97)[0])
    assert made.shape == (12, 25, 8, 8)
    torch.testing.assert_close(made[None], expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_at_first_it_is_tiny_wan_whatever_the_image(training):
    old, new = WanTransformer3DModel.from_pretrained(training.TINY_WAN / "transformer"), training.new_transformer("cpu")
    new.set_attn_processor(training.WanAttnProcessor())
    generator = torch.Generator().manual_seed(0)
    latents, conditions, texts = (torch.randn(2, n, *size, generator=generator) for n, size in ((8, (3, 8, 8)), (12, (3, 8, 8)), (9, (64,))))
    timestep = torch.tensor([900.0, 300.0])
    expected = old(latents, timestep, texts).sample
    torch.testing.assert_close(training.conditioned(new, conditions)(latents, timestep, texts).sample, expected, atol=1e-5, rtol=1e-5)


def test_windows_of_the_start_have_the_mask_and_others_their_own_conditions(training):
    """The data's conditions are their latent frame's number."""
    numbers = torch.arange(33.0)[:, None, None].expand(2, 8, 33, 8, 8)
    windows, conditions, prompts, _ = training.window_batch(dict(latents=numbers, conditions=numbers, prompts=["a", "b"]), 0)
    assert windows.shape[:2] == (16, 8) and conditions.shape == (16, 12, *windows.shape[2:]) and len(prompts) == 16
    torch.testing.assert_close(conditions[:, 4:], windows)
    starts = windows[:, 0, 0, 0, 0]
    assert torch.equal(starts == 0, torch.arange(16) % 2 == 1)
    assert torch.equal(conditions[:, :4, 0].amin((1, 2, 3)), (starts == 0).float()) and not conditions[:, :4, 1:].any()
