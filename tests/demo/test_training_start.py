"""The second demo model's training begins with what tiny-wan can do."""

import importlib
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5EncoderModel

from xdualparal.demo import scenes, world

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def training(monkeypatch):
    """The module of the script, which imports that of the first model."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("train_tiny_wan_2")


@torch.no_grad()
def test_its_vae_makes_a_doubled_clip_as_tiny_wans_makes_the_clip(training):
    clip, _ = scenes.make_clips(scenes.evaluation_scenes(1), 5, torch.Generator().manual_seed(0))
    old, new = AutoencoderKLWan.from_pretrained(training.TINY_WAN / "vae"), training.new_vae()
    doubled = clip.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    latents = new.encode(doubled).latent_dist.mode()
    assert latents.shape == (1, 8, 2, 8, 8) and new.config.scale_factor_spatial == 8
    torch.testing.assert_close(latents, old.encode(clip).latent_dist.mode(), atol=1e-4, rtol=1e-4)
    expected = old.decode(latents).sample.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    torch.testing.assert_close(new.decode(latents).sample, expected, atol=1e-4, rtol=1e-4)


def test_words_of_both_worlds_keep_what_they_mean(training):
    tokenizer, known = training.first.new_tokenizer(world.vocabulary()), training.first.new_tokenizer()
    old, new = UMT5EncoderModel.from_pretrained(training.TINY_WAN / "text_encoder"), training.new_text_encoder(tokenizer, "cpu")
    def embed(words, text_encoder, prompt):
        return training.first.embed_prompts(words, text_encoder, [prompt], training.PROMPT_TOKENS)

    torch.testing.assert_close(embed(tokenizer, new, "a red circle on a"), embed(known, old, "a red circle on a"))
    assert {len(tokenizer(scene.prompt).input_ids) for scene in world.all_scenes()} == {training.PROMPT_TOKENS}
    assert tokenizer.unk_token_id not in tokenizer(" ".join(world.vocabulary())).input_ids


def test_the_decoder_alone_is_trained_on(training, tmp_path):
    """So that latents, and a transformer that learned them, stay as they are."""
    before = training.new_vae().state_dict()
    training.save_state(tmp_path / "vae.pt", model=before, step=0)
    training.train_decoder(tmp_path, "cpu", 1)
    after = training.load_state(tmp_path / "decoder.pt")["model"]
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"decoder", "post_quant_conv"}
