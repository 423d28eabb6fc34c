"""The image that a video begins with, in a call.

Knows: what of a call is an image, and what the VAE makes of one. Must not know: files and flags, or what a run does with latents.
"""

import torch

from .call_checks import check_images
from .models.wan_vae import encode_video
from .request import check_size


def with_image_latents(pipe, mesh, prompt, options):
    """``options`` of a call, with height and width, with the latents of its ``image`` instead. Every rank of the replica must call it: the output rank encodes. Raises
    ValueError for what is no image, and on all ranks for one that cannot be encoded."""
    images = options.get("image")
    options = {name: value for name, value in options.items() if name != "image"}
    if images is None:
        return options
    if options.get("image_latents") is not None:
        raise ValueError("image and image_latents are given, which are one thing: leave one out")
    images = images if isinstance(images, list) else [images]
    embeds = options.get("prompt_embeds")
    check_images(images, len(prompt) if isinstance(prompt, list) else 1 if embeds is None else len(embeds))
    height, width = options["height"], options["width"]
    check_size(height, width, (pipe.vae_scale_factor_spatial,) * 2)
    latents = mesh.on_output_rank(lambda: encode_images(pipe, images, height, width))
    return options | dict(image_latents=mesh.share_object(latents))


def encode_images(pipe, images, height, width):
    """The latents of PIL ``images``, (images, channels, 1, height, width) float32 on the CPU, as the transformer predicts them.

    Each is scaled to ``height`` x ``width`` pixels, whatever its shape, as diffusers' image-to-video pipeline does. Raises ValueError where the
    VAE of ``pipe`` is not there, or makes numbers that are not finite.
    """
    if pipe.vae is None:
        raise ValueError("an image is given and the pipeline has no VAE that encodes it: give image_latents")
    try:
        return torch.cat([encode_video(pipe.vae, pipe.video_processor.preprocess(image, height=height, width=width)[:, :, None]) for image in images])
    except FloatingPointError as error:
        raise ValueError(f"the image cannot be encoded: {error}") from None
