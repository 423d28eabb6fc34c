"""The image-to-video demo model's checkpoint: what it holds, and that diffusers' own pipeline makes videos of images with it offline."""

from functools import lru_cache

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from xdualparal.demo import image_quality, scenes

torch.set_num_threads(1)
RED, BLUE = (scenes.Scene("circle", colour, "dark") for colour in ("red", "blue"))


@lru_cache
def pipeline():
    loaded = WanImageToVideoPipeline.from_pretrained(image_quality.CHECKPOINT, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_wan22_i2v_with_one_expert():
    pipe, transformer, vae = pipeline(), pipeline().transformer.config, pipeline().vae.config
    assert (transformer.in_channels, transformer.out_channels, vae.z_dim, transformer.image_dim) == (20, 8, 8, None)
    assert transformer.num_layers % 8 == 0 and transformer.num_attention_heads % 4 == 0
    assert pipe.image_encoder is pipe.image_processor is pipe.transformer_2 is pipe.config.boundary_ratio is None
    assert not pipe.config.expand_timesteps and (pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial) == (4, 4)
    assert sum(file.stat().st_size for file in image_quality.CHECKPOINT.rglob("*") if file.is_file()) <= 8e6


def test_its_first_frame_is_the_image():
    def first_frame(scene, seed):
        call = dict(height=32, width=32, num_frames=5, num_inference_steps=4, guidance_scale=1.0, output_type="np")
        image = Image.fromarray(image_quality.image_of(scene, seed))
        return pipeline()(image=image, prompt=scene.prompt, generator=torch.Generator().manual_seed(0), **call).frames[0][0]

    images = {(scene, seed): image_quality.image_of(scene, seed) / 255 for scene in (RED, BLUE) for seed in (0, 1)}
    for key, image in images.items():
        errors = {other: np.abs(first_frame(*key) - images[other]).mean() for other in images}
        assert min(errors, key=errors.get) == key
