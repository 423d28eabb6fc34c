"""What a model family must tell us. A family is a few facts and functions, never a copied ``forward``.

Knows: nothing but the names. Must not know: any model.
"""

from typing import NamedTuple, Protocol

import torch


class Conditioning(NamedTuple):
    """What the passes of one step share. ``head``: for the head; ``blocks``: for every transformer block."""

    head: torch.Tensor
    blocks: torch.Tensor


class Family(Protocol):
    """The questions that a stage asks about its model."""

    trained_latents: int  # latent frames of the clips that the model was trained on

    @staticmethod
    def pipeline_class():
        """The diffusers pipeline class of the family."""

    def keep_stage(self, transformer, layers, is_first, is_last):
        """Drops from ``transformer`` what a stage with ``layers`` (a range) does not use."""

    def prepare_attention(self, blocks):
        """Makes the self-attention of ``blocks`` go through xDiT's USP; returns the self-attention modules."""

    def condition(self, transformer, timesteps, text):
        """(Conditioning per step, projected text): all that does not change from pass to pass."""

    def hold_text(self, blocks, text):
        """Projects ``text``, (branches, length, dim), to the K/V of the cross-attention of ``blocks`` once. Returns
        what has ``use(branch)``, which chooses the branch, an index, and ``let_go()``, which undoes it."""

    def rotary(self, transformer, start, grid, tokens=slice(None)):
        """Rotary factors of a window at absolute latent position ``start``; ``grid``: its (frames, rows, columns),
        ``tokens``: which ones of each frame."""

    def embed(self, transformer, latents):
        """Latents (1, channels, frames, height, width) to tokens (1, tokens, dim)."""

    def head(self, transformer, hidden, conditioning, grid):
        """Tokens (branches, tokens, dim) to a prediction (branches, channels, frames, height, width)."""
