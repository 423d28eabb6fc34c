"""Pictures that videos begin with, in files, and what diffusers makes of them."""

import torch
from PIL import Image


def picture(path, width, height, seed=0, **options):
    """A picture of random colours at ``path``, which it returns. ``options``: of Image.save."""
    colours = torch.randint(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    Image.fromarray(colours.numpy()).resize((width, height), Image.Resampling.BICUBIC).save(path, **options)
    return path


def encoded(pipeline, image):
    """As diffusers' pipelines encode it: (1, channels, 1, rows, columns)."""
    frame = pipeline.video_processor.preprocess(image, height=image.height, width=image.width)[:, :, None]
    config = pipeline.vae.config
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        return (pipeline.vae.encode(frame).latent_dist.mode() - mean) / std
