"""Wan2.1 and Wan2.2 image-to-video: the image, its mask and its likeness.

Knows: what of these models is not as text-to-video's. Must not know: stages' processes, schedules, files, where an image comes from.
Facts are from diffusers 0.42.1, pipelines/wan/pipeline_wan_i2v.py, and DESIGN section 3.

Beside the 16 channels of latents the transformer gets 20 more: 4 of a mask that says which of a latent frame's 4 frames are given, and
16 of the latents of a video that has the given frames and is grey elsewhere. They are a function of the frame's place in the video:
the first latent frame has the image, those behind it what the VAE still remembers of it, and further ones are all the same, "no frame
given". So the video's first block, and one that is the whole video, get what diffusers' pipeline gives them. A last image is the
video's last frame. A video that continues another one gets "no frame given" everywhere, as the other's later blocks did.
"""

from dataclasses import replace

import torch

from .wan import TEXT_LENGTH, WanFamily
from .wan22 import Wan22Family
from .wan_vae import encoder_memory_latents


class WanI2VFamily(WanFamily):
    """Image-to-video with one transformer that knows of the image only by its channels, as Wan2.2's do."""

    facts = replace(
        WanFamily.facts, name="Wan image-to-video, one transformer", pipeline="WanImageToVideoPipeline", example="one of Wan2.2-I2V's form",
        conditioned=True,
    )

    @staticmethod
    def check_inputs(pipeline, prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds):
        """Refuses what the pipeline refuses; the image is there."""
        pipeline.check_inputs(prompt, negative_prompt, torch.empty(0), height, width, prompt_embeds, negative_prompt_embeds)

    def condition_latents(self, vae, latent_frames):
        """The image, as many as the VAE's encoder remembers it in, and one that is empty."""
        needed = encoder_memory_latents(vae) + 2
        return needed if latent_frames is None else min(needed, latent_frames)

    def image_condition(self, latents, last_latents, num_latents, is_continued=False):
        """Returns an ImageCondition."""
        return ImageCondition(latents, last_latents, num_latents, self.facts.frames_per_latent, is_continued)


class Wan22I2VFamily(WanI2VFamily):
    """Wan2.2-I2V-A14B: two transformers, which do their steps as Wan2.2 text-to-video's do."""

    facts = replace(
        WanI2VFamily.facts, name="Wan2.2 image-to-video, two experts", example="Wan-AI/Wan2.2-I2V-A14B-Diffusers", experts=Wan22Family.facts.experts,
    )
    expert_starts = staticmethod(Wan22Family.expert_starts)


class Wan21I2VFamily(WanI2VFamily):
    """Wan2.1-I2V-14B: cross-attention also sees the image as CLIP describes it, with keys and values of its own; of a model for first and last
    image both of them."""

    facts = replace(
        WanI2VFamily.facts, name="Wan2.1 image-to-video", example="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", sees_images=True,
        text_parts=(*WanFamily.facts.text_parts, "image_encoder", "image_processor"),
    )

    def condition(self, transformer, timesteps, text, images=None):
        """As Wan's, with each row's image before its text, which must have TEXT_LENGTH tokens."""
        assert text.shape[1] == TEXT_LENGTH, f"{text.shape[1]} tokens of text"
        steps, projected = super().condition(transformer, timesteps, text)
        embedder = transformer.condition_embedder.image_embedder
        # Where a model was trained on pairs of images it is given a batch of two, which it joins.
        pairs = 1 if embedder.pos_embed is None else 2
        rows = [embedder(one.view(pairs, -1, one.shape[-1])) for one in images.split(1)]
        return steps, torch.cat([torch.cat(rows), projected], dim=1)


class ImageCondition:
    """The channels beside a video's latents: see the module's head. The arguments are ``base.Family.image_condition``'s; ``frames_per_latent``:
    channels of the mask."""

    def __init__(self, latents, last_latents, num_latents, frames_per_latent, is_continued):
        mask = latents.new_zeros(1, frames_per_latent, *latents.shape[2:])
        mask[:, :, 0] = not is_continued  # the first latent frame is one frame, which stands for all four
        self._first, self._last, self._num_latents = torch.cat([mask, latents], dim=1), None, num_latents
        if last_latents is not None:
            mask = latents.new_zeros(1, frames_per_latent, *last_latents.shape[2:])
            mask[:, -1] = 1
            self._last = torch.cat([mask, last_latents], dim=1)

    def of(self, first, count):
        """Of latent frames ``first`` to ``first + count``: mask, then latents, (1, channels, count, height, width)."""
        known = self._first[:, :, first:first + count]
        parts = [known, self._first[:, :, -1:].expand(-1, -1, count - known.shape[2], -1, -1)]  # all alike behind those that are known
        if self._last is None or first + count != self._num_latents:
            return torch.cat(parts, dim=2)
        return torch.cat([torch.cat(parts, dim=2)[:, :, :-1], self._last], dim=2)
