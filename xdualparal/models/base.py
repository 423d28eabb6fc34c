"""What a model family brings: a short table of facts and a few functions, never a copied ``forward``.

Knows: the names of the protocol. Must not know: any model, stages' processes, schedules, files.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch


@dataclass(frozen=True)
class Facts:
    """What holds for every model of a family, whatever its size."""

    name: str  # for messages
    pipeline: str  # the name of its pipeline, a class of diffusers, which is imported only where it is used
    example: str  # a model of the family by its hub id, for messages
    trained_latents: int  # latent frames of the clips that the models were trained on
    frames_per_latent: int  # video frames of each latent frame but the first, which is 1 frame
    patch: tuple[int, int, int]  # latent frames, rows and columns of one token
    experts: tuple[str, ...]  # the pipeline's transformers: each does its own part of the steps, from the noisiest on
    text_parts: tuple[str, ...]  # the parts of a pipeline that only the first stage uses
    vae_dtype: torch.dtype  # of the VAE's weights, whatever the transformer's dtype
    clean_frames: bool = False  # whether frames may be clean, with timestep 0, as an image is: expand_timesteps of diffusers' pipelines of Wan
    conditioned: bool = False  # whether an image must be given, which enters each pass as channels beside the latents, see Family.image_condition
    sees_images: bool = False  # whether cross-attention sees the image too, as CLIP describes it
    few_steps: bool = False  # whether the weights are distilled for a few steps
    same_pipelines: tuple[str, ...] = ()  # names of other classes of diffusers' with the same parts, which are taken too
    frame_timesteps: bool = False  # whether they were trained on clips whose frames have noise levels and timesteps of their own

    @property
    def takes_images(self):
        """Whether a video can begin with an image."""
        return self.clean_frames or self.conditioned

    def latent_frames(self, num_frames, continued=0):
        """Latent frames that hold ``num_frames`` video frames: a video's first is 1 frame (DESIGN section 2), unless it begins with
        ``continued`` ones of another video, which are counted and show no frame."""
        is_first = continued == 0
        return continued + is_first + -(-(num_frames - is_first) // self.frames_per_latent)


class Classes(NamedTuple):
    """The diffusers classes of a family."""

    pipeline: type
    transformer: type
    vae: type


class Sizes(NamedTuple):
    """What the check of a command needs to know of one model before any weight is loaded."""

    num_layers: int
    num_heads: int
    pixels_per_token: int  # along a side


class Conditioning(NamedTuple):
    """What the passes of one step share, or what the frames of a window with several timesteps have. ``head``: for the head;
    ``blocks``: for every transformer block."""

    head: torch.Tensor
    blocks: torch.Tensor


class Family(Protocol):
    """The questions that loading, stages and decoding ask about a model. Tokens are in (frame, row, column) order."""

    facts: Facts

    @staticmethod
    def classes():
        """Returns the family's Classes; imports the pipeline, and what it needs, only when called."""

    # Before any weight is loaded.

    @classmethod
    def check_pipeline(cls, pipeline):
        """Raises ValueError for a pipeline of ``classes().pipeline`` that the family would compute wrongly."""

    @classmethod
    def check_configs(cls, model_index, configs):
        """Raises ValueError for a model that the family would compute wrongly.

        ``model_index``: the content, a dict, of model_index.json. ``configs``: {part: the content of its config.json} of the
        experts and the VAE.
        """

    @staticmethod
    def check_inputs(pipeline, prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds):
        """Raises ValueError for arguments of a call that ``pipeline`` itself refuses."""

    @staticmethod
    def expert_starts(pipeline, timesteps):
        """Returns for each expert the first of the steps, numbers in ``timesteps``, that it does; as many as there are steps
        for one that does none. The first expert's is 0."""

    @staticmethod
    def sizes(transformer_config, vae_config):
        """Returns the Sizes of the model with these configs, dicts. Raises KeyError for a config that lacks one."""

    # The transformer.

    def keep_stage(self, transformer, layers, is_first, is_last):
        """Drops from ``transformer`` what a stage with ``layers`` (a range) does not use."""

    def prepare_attention(self, blocks):
        """Routes the self-attention of ``blocks`` through xDiT's USP; returns the self-attention modules."""

    def condition(self, transformer, timesteps, text, images=None):
        """Computes all that does not change from pass to pass.

        ``timesteps``: (steps,). ``text``: prompt embeddings, (rows, length, text dim). ``images``: where the family ``sees_images``, the
        image of each row as CLIP describes it, (rows, image tokens, image dim). Returns a list with the Conditioning of each step, and the
        projected text, behind the projected image, (rows, length, dim).
        """

    def by_frame(self, conditionings, frame_tokens):
        """Joins the Conditioning of each frame of a window, ``frame_tokens`` tokens each, to that of the window."""

    def used_once(self, transformer):
        """Returns the modules of ``transformer`` that only ``condition`` uses."""

    def project_text(self, blocks, text):
        """Projects ``text``, (branches, length, dim), to the K/V of the cross-attention of ``blocks`` once.

        Returns an object with ``use(branch)``, which selects the branch by its index, and ``restore()``, which puts
        the projections back.
        """

    def rotary(self, transformer, start, grid, tokens=slice(None)):
        """Returns the rotary factors of a window.

        ``start``: absolute latent position of its first frame. ``grid``: its (frames, rows, columns) in tokens.
        ``tokens``: which tokens of each frame.
        """

    def moved(self, transformer, keys, latents):
        """Returns ``keys``, (1, tokens, heads, head_dim) of self-attention with their rotary factors, as they are ``latents`` latent frames later."""

    def embed(self, transformer, latents):
        """Embeds latents (1, channels, frames, height, width) as tokens (1, tokens, dim)."""

    def layer(self, block, hidden, text, conditioning, rotary):
        """Runs one transformer block: hidden states (1, tokens, dim) to the next ones.

        ``text``: one branch's projected text, (1, length, dim). ``conditioning``: the step's Conditioning.
        """

    def head(self, transformer, hidden, conditioning, grid):
        """Turns tokens (branches, tokens, dim) into a prediction (branches, channels, frames, height, width).

        ``conditioning``: of all of these tokens, or one step's.
        """

    def part(self, conditioning, tokens):
        """Returns the Conditioning of the ``tokens`` (a slice) of a window; one step's is that of all."""

    # The image of a family that is ``conditioned``.

    def condition_latents(self, vae, latent_frames):
        """Returns how many latent frames of a video of ``latent_frames`` (None: endless) that begins with an image and is empty behind it
        say all about it: the VAE makes the same of each later one."""

    def image_condition(self, latents, last_latents, num_latents, is_continued=False):
        """Returns an object whose ``of(first, count)`` are the channels that stand beside the latent frames ``first`` to ``first + count`` of a video.

        ``latents``: what the VAE makes of the image with empty frames behind it, (1, channels, frames, height, width). ``last_latents``:
        (1, channels, 1, height, width), of empty frames and the last image, None without one. ``num_latents``: of the video, None: endless. Where it
        ``is_continued``, from another video, ``latents`` is one latent frame, of empty frames that long ones are before.
        """

    # The VAE.

    def decoder(self, vae):
        """Returns a decoder of one video, which takes latents piece by piece, with ``decode``, ``warm_up``, ``close``."""

    def decoder_memory_latents(self, vae):
        """Returns how many latent frames back the decoder looks: as many warm it up."""

    def decode_at_once(self, vae, latents):
        """Decodes all of a video's latents in one call of ``vae``, to the frames that ``decoder`` gives."""
