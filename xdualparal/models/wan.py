"""Wan2.1 text-to-video.

Knows: diffusers' WanTransformer3DModel, part by part. Must not know: stages, schedules, processes.
Facts are from diffusers 0.42.1, models/transformers/transformer_wan.py, and DESIGN section 3.
"""

from functools import lru_cache

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from .base import Conditioning


class Held(nn.Module):
    """Stands in for a projection whose result does not change during a run. ``values``: a tensor a branch."""

    def __init__(self, values):
        super().__init__()
        self._values, self._in_use = values, values[0]

    def use(self, branch):
        """From now on the tensor of ``branch`` is the result. Not an index: torch.compile would compile once for each."""
        self._in_use = self._values[branch]

    def forward(self, _):
        """The held tensor of the branch in use, whatever is asked."""
        return self._in_use


class HeldText:
    """The text's keys and values, projected once for each cross-attention of ``blocks`` and branch of ``text``.

    They take the place of the key and value projections and the key norm; ``let_go`` puts those back.
    """

    def __init__(self, blocks, text):
        self._before = [(block.attn2, block.attn2.to_k, block.attn2.to_v, block.attn2.norm_k) for block in blocks]
        for attention, to_k, to_v, norm_k in self._before:
            attention.to_k = Held([norm_k(to_k(one)) for one in text.split(1)])
            attention.to_v = Held([to_v(one) for one in text.split(1)])
            attention.norm_k = nn.Identity()

    def use(self, branch):
        """From now on the cross-attentions see the text of ``branch``, an index."""
        for attention, *_ in self._before:
            attention.to_k.use(branch)
            attention.to_v.use(branch)

    def let_go(self):
        """The cross-attentions are as they were before."""
        for attention, to_k, to_v, norm_k in self._before:
            attention.to_k, attention.to_v, attention.norm_k = to_k, to_v, norm_k


class WanFamily:
    """See ``base.Family`` for what each function answers."""

    trained_latents = 21  # 81 frames, DESIGN section 2

    def __init__(self):
        # Rows and columns are the same in every pass, a block's frames in each of its steps. 256 tables are
        # more than the blocks in flight (one a step), and small: (positions, dim).
        self._angles = lru_cache(maxsize=256)(_angles)

    @staticmethod
    def pipeline_class():
        """diffusers' text-to-video pipeline of Wan."""
        from diffusers import WanPipeline

        return WanPipeline

    def keep_stage(self, transformer, layers, is_first, is_last):
        """Keeps the blocks in ``layers``, the patch embedding on the first and the head on the last stage."""
        transformer.blocks = nn.ModuleList(transformer.blocks[n] for n in layers)
        if not is_first:
            transformer.patch_embedding = nn.Identity()
        if not is_last:
            transformer.proj_out = nn.Identity()

    def prepare_attention(self, blocks):
        """Gives ``blocks`` xDiT's attention processors where they have diffusers' own."""
        from xfuser.model_executor.layers.usp import USP
        from xfuser.model_executor.models.transformers.transformer_wan import xFuserWanAttnProcessor

        # The next context's keys are there in some passes only. Outside of what torch.compile compiles, so that one
        # compilation serves all windows; one function, so that it serves all blocks.
        attention = torch.compiler.disable(USP)
        for block in blocks:
            if not isinstance(block.attn1.processor, xFuserWanAttnProcessor):
                block.attn1.processor = xFuserWanAttnProcessor()
                block.attn1.processor.attention_function = attention
                block.attn2.processor = xFuserWanAttnProcessor(
                    use_ulysses_parallel_attention=False, is_cross_attention=True
                )
        return [block.attn1 for block in blocks]

    def condition(self, transformer, timesteps, text):
        """Per step the time embedding, (1, dim), and its projection, (1, 6, dim); the text, (branches, length, dim).

        One step and one branch at a time: the ordinary pipeline's arithmetic, to the bit.
        """
        embedder = transformer.condition_embedder
        no_text = text[:1, :0]
        steps = []
        for timestep in timesteps:
            head, blocks, _, _ = embedder(timestep.expand(1), no_text)
            steps.append(Conditioning(head, blocks.unflatten(1, (6, -1))))
        return steps, torch.cat([embedder.text_embedder(one) for one in text.split(1)])

    def hold_text(self, blocks, text):
        """A HeldText: the cross-attentions' keys and values of ``text``, (branches, length, dim)."""
        return HeldText(blocks, text)

    def rotary(self, transformer, start, grid, tokens=slice(None)):
        """Cosines and sines, (1, tokens, 1, head_dim) float32, from float64 angles.

        The model's own table ends at ``rope_max_seq_len`` (1024) positions; these go on.
        """
        # Not transformer.device: diffusers looks for it through all modules, 0.4 ms a time.
        rope, device = transformer.rope, transformer.scale_shift_table.device
        axes = ((rope.t_dim, start, grid[0]), (rope.h_dim, 0, grid[1]), (rope.w_dim, 0, grid[2]))
        tables = [self._angles(dim, first, count, device) for dim, first, count in axes]
        return tuple(_spread([table[part] for table in tables], grid, tokens) for part in (0, 1))

    def embed(self, transformer, latents):
        """The patch embedding, tokens in (frame, row, column) order."""
        return transformer.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()

    def head(self, transformer, hidden, conditioning, grid):
        """Output norm, projection and unpatching."""
        table = transformer.scale_shift_table.to(hidden.device)
        shift, scale = (table + conditioning.head.unsqueeze(1)).chunk(2, dim=1)
        hidden = (transformer.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        patches = transformer.proj_out(hidden).unflatten(1, grid).unflatten(-1, (*transformer.config.patch_size, -1))
        # (branches, frames, rows, columns, p_t, p_h, p_w, channels)
        patches = patches.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _angles(dim, first, count, device):
    positions = torch.arange(first, first + count, dtype=torch.float64)
    tables = get_1d_rotary_pos_embed(
        dim, positions, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64
    )
    return [table.to(device) for table in tables]


def _spread(tables, grid, tokens):
    frames, rows, columns = tables
    parts = (
        frames.view(grid[0], 1, 1, -1).expand(*grid, -1),
        rows.view(1, grid[1], 1, -1).expand(*grid, -1),
        columns.view(1, 1, grid[2], -1).expand(*grid, -1),
    )
    return torch.cat(parts, dim=-1).flatten(1, 2)[:, tokens].flatten(0, 1)[None, :, None]
