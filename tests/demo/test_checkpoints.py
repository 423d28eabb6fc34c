"""The demo models' checkpoints: what they hold, and that diffusers' own pipeline makes videos with them offline."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import torch

from xdualparal.demo import scenes, world
from xdualparal.models.weights import read_configs
from xdualparal.xdit.registry import DUALPARAL_MODELS

torch.set_num_threads(1)


@dataclass(frozen=True)
class Demo:
    """A demo model's name and world, its frames' side, the tokens of a prompt, and two prompts."""

    name: str
    world: object
    side: int
    tokens: int
    red: str
    blue: str

    @property
    def model(self):
        return DUALPARAL_MODELS[self.name]

    @lru_cache
    def pipeline(self):
        from diffusers import WanPipeline

        loaded = WanPipeline.from_pretrained(self.model.settings.model_name, local_files_only=True)
        loaded.set_progress_bar_config(disable=True)
        return loaded


DEMOS = (
    Demo("tiny-wan", scenes, 32, 8, "a red circle on a dark background", "a blue circle on a dark background"),
    Demo("tiny-wan-2", world, 64, 18, world.EXAMPLE.prompt, world.Scene("circle", "blue", "blue", "square", "red", "checked", "left").prompt),
)


@pytest.fixture(params=DEMOS, ids=lambda demo: demo.name)
def demo(request):
    return request.param


def test_it_has_what_the_executor_relies_on(demo):
    pipeline, model = demo.pipeline(), demo.model
    transformer, vae, defaults = pipeline.transformer.config, pipeline.vae.config, model.default_input_values
    assert transformer.num_layers % 8 == 0 and transformer.num_attention_heads % 4 == 0
    assert transformer.in_channels == transformer.out_channels == vae.z_dim == len(vae.latents_mean)
    assert model.family.sizes(*read_configs(model.settings.model_name)[1:]) == (model.num_layers, model.num_heads, model.pixels_per_token)
    assert defaults.height == defaults.width == demo.side and pipeline.vae_scale_factor_temporal == 4
    assert pipeline.scheduler.config.use_flow_sigmas and pipeline.scheduler.config.prediction_type == "flow_prediction"


def test_the_tokenizer_knows_every_word_and_forgives_case_and_punctuation(demo):
    tokenizer = demo.pipeline().tokenizer
    tokens = tokenizer([scene.prompt for scene in demo.world.all_scenes()]).input_ids
    assert all(len(t) == demo.tokens and tokenizer.unk_token_id not in t for t in tokens)
    assert tokenizer(demo.red.capitalize().replace(" on", ", on") + ".").input_ids == tokenizer(demo.red).input_ids


def test_it_makes_videos_offline_and_listens_to_the_prompt(demo):
    def run(prompt):
        call = dict(height=demo.side, width=demo.side, num_frames=9, num_inference_steps=2, output_type="np")
        return demo.pipeline()(prompt=prompt, generator=torch.Generator().manual_seed(0), **call).frames[0]

    red, again, blue = map(run, (demo.red, demo.red, demo.blue))
    assert red.shape == (9, demo.side, demo.side, 3) and np.isfinite(red).all()
    assert np.array_equal(red, again) and not np.array_equal(red, blue)


def test_latents_are_normalised(demo):
    clips, _ = demo.world.make_clips(demo.world.evaluation_scenes(12), 17, torch.Generator().manual_seed(1))
    vae = demo.pipeline().vae
    with torch.no_grad():
        latents = vae.encode(clips).latent_dist.mode()
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
    latents = (latents - mean) / std
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 0.5
    assert 0.5 < latents.std(dim=(0, 2, 3, 4)).min() and latents.std(dim=(0, 2, 3, 4)).max() < 1.5
