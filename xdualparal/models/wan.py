"""Wan2.1 text-to-video.

Knows: diffusers' WanTransformer3DModel, part by part. Must not know: stages' processes, schedules, files.
Facts are from diffusers 0.42.1, models/transformers/transformer_wan.py and pipelines/wan/pipeline_wan.py, and DESIGN
section 3.
"""

from functools import lru_cache

import diffusers
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from . import wan_configs
from .base import Classes, Conditioning, Facts, Sizes
from .folder import check_tied
from .wan_vae import StreamingDecoder, decode_at_once, memory_latents


TEXT_LENGTH = 512  # tokens of the text where an image's stand before them: diffusers' and xDiT's attention processors count on it


class CachedProjection(nn.Module):
    """Replaces a projection whose result does not change during a run. ``values``: its result, a tensor per branch."""

    def __init__(self, values):
        super().__init__()
        self._values, self._in_use = values, values[0]

    def use(self, branch):
        """Selects the result of ``branch``. Not by an index: torch.compile would compile once for each."""
        self._in_use = self._values[branch]

    def forward(self, _):
        """Returns the result of the branch in use, whatever the input."""
        return self._in_use


class TextKV:
    """The text's keys and values, projected once for each cross-attention of ``blocks`` and each branch of ``text``; likewise an image's.

    They replace the key and value projections and the key norm, and bypass a fused projection; ``restore`` puts those
    back. ``text``: (branches, length, dim), the last TEXT_LENGTH of it where an image stands before them.
    """

    def __init__(self, blocks, text):
        self._before = [(block.attn2, _parts_of(block.attn2)) for block in blocks]
        for attention, _ in self._before:
            projected = zip(*(_project(attention, one) for one in text.split(1)))
            attention.fused_projections = False
            for name, of_branches in zip(_projections(attention), projected):
                setattr(attention, name, CachedProjection(of_branches))
            for name in _norms(attention):
                setattr(attention, name, nn.Identity())

    def use(self, branch):
        """Selects the text of ``branch``, an index, in all cross-attentions."""
        for attention, _ in self._before:
            for name in _projections(attention):
                getattr(attention, name).use(branch)

    def restore(self):
        """Puts the projections and the key norm back."""
        for attention, parts in self._before:
            for name, part in parts.items():
                setattr(attention, name, part)


def _sees_images(attention):
    return attention.add_k_proj is not None


def _projections(attention):
    return ("to_k", "to_v", "add_k_proj", "add_v_proj") if _sees_images(attention) else ("to_k", "to_v")


def _norms(attention):
    return ("norm_k", "norm_added_k") if _sees_images(attention) else ("norm_k",)


def _parts_of(attention):
    return {name: getattr(attention, name) for name in (*_projections(attention), *_norms(attention), "fused_projections")}


def _project(attention, text):
    """What ``_projections`` make of one branch's text and image, keys after their norm, as diffusers' and xDiT's attention processors do."""
    if not _sees_images(attention):
        return _keys_and_values(attention, ("to_kv", "to_k", "to_v", "norm_k"), text)
    image, text = text[:, :-TEXT_LENGTH], text[:, -TEXT_LENGTH:]
    return (*_keys_and_values(attention, ("to_kv", "to_k", "to_v", "norm_k"), text),
            *_keys_and_values(attention, ("to_added_kv", "add_k_proj", "add_v_proj", "norm_added_k"), image))


def _keys_and_values(attention, names, tokens):
    fused, to_k, to_v, norm = (getattr(attention, name, None) for name in names)
    keys, values = fused(tokens).chunk(2, dim=-1) if attention.fused_projections else (to_k(tokens), to_v(tokens))
    return norm(keys), values.contiguous()  # else a fused projection's whole result would be kept


class WanFamily:
    """Wan2.1 text-to-video. See ``base.Family`` for what each function answers."""

    facts = Facts(
        name="Wan2.1 text-to-video", pipeline="WanPipeline", example="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        trained_latents=21, frames_per_latent=4, patch=(1, 2, 2),  # DESIGN sections 2 and 3: 81 frames, 1 + 20 * 4
        experts=("transformer",),
        text_parts=("text_encoder", "tokenizer"),
        vae_dtype=torch.float32,  # as diffusers' page on Wan recommends
    )

    def __init__(self):
        # Rows and columns are the same in every pass, a block's frames in each of its steps. 256 tables are
        # more than the blocks in flight (one a step), and small: (positions, dim).
        self._angles = lru_cache(maxsize=256)(_angles)

    @classmethod
    def classes(cls):
        """Returns diffusers' pipeline of the family and the classes of its parts."""
        return Classes(getattr(diffusers, cls.facts.pipeline), diffusers.WanTransformer3DModel, diffusers.AutoencoderKLWan)

    @classmethod
    def check_pipeline(cls, pipeline):
        """Refuses what ``check_configs`` refuses, an own ``__call__`` or ``forward``, and a step cache.

        A cache keeps its state from call to call of a block: here those are different blocks of the video.
        """
        wan_configs.check_pipeline(cls, pipeline)
        check_tied(pipeline.text_encoder)

    @classmethod
    def check_configs(cls, model_index, configs):
        """Refuses other classes, other experts, per-token timesteps, image conditions and unequal channels.

        All of them would be ignored: stages run the family's experts on noisy latents, a text and one timestep.
        """
        wan_configs.check(cls, model_index, configs)

    @staticmethod
    def check_inputs(pipeline, prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds):
        """Refuses what the pipeline refuses."""
        pipeline.check_inputs(prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds)

    @staticmethod
    def expert_starts(pipeline, timesteps):
        """One expert does all steps."""
        return (0,)

    @staticmethod
    def sizes(transformer_config, vae_config):
        """Wan's VAE makes 8 x 8 pixels a latent, unless its config says otherwise, and a token is a patch of them."""
        pixels_per_latent = vae_config.get("scale_factor_spatial", 8)
        return Sizes(
            transformer_config["num_layers"], transformer_config["num_attention_heads"],
            pixels_per_latent * transformer_config["patch_size"][1],
        )

    def keep_stage(self, transformer, layers, is_first, is_last):
        """Keeps the blocks in ``layers``, the patch embedding on the first and the head on the last stage."""
        transformer.blocks = nn.ModuleList(transformer.blocks[n] for n in layers)
        if not is_first:
            transformer.patch_embedding = nn.Identity()
        if not is_last:
            transformer.proj_out = nn.Identity()

    def prepare_attention(self, blocks):
        """Gives ``blocks`` xDiT's attention processors where they have diffusers' own. Imports xfuser when called."""
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

    def condition(self, transformer, timesteps, text, images=None):
        """Computes per step the time embedding, (1, dim), and its projection, (1, 6, dim), and projects the text.

        One step and one branch at a time: the same bits as the ordinary pipeline.
        """
        embedder = transformer.condition_embedder
        no_text = text[:1, :0]
        steps = []
        for timestep in timesteps:
            head, blocks, _, _ = embedder(timestep.expand(1), no_text)
            steps.append(Conditioning(head, blocks.unflatten(1, (6, -1))))
        return steps, torch.cat([embedder.text_embedder(one) for one in text.split(1)])

    def by_frame(self, conditionings, frame_tokens):
        """As Wan2.2-TI2V's forward has it: one embedding a token, (1, tokens, dim) and (1, tokens, 6, dim)."""
        return Conditioning(*(torch.stack(parts, dim=1).repeat_interleave(frame_tokens, dim=1) for parts in zip(*conditionings)))

    def part(self, conditioning, tokens):
        """Cuts the embeddings of tokens."""
        if conditioning.head.dim() == 2:
            return conditioning
        return Conditioning(conditioning.head[:, tokens], conditioning.blocks[:, tokens])

    def used_once(self, transformer):
        """The condition embedder."""
        return [transformer.condition_embedder]

    def project_text(self, blocks, text):
        """Returns a TextKV."""
        return TextKV(blocks, text)

    def rotary(self, transformer, start, grid, tokens=slice(None)):
        """Computes cosines and sines, (1, tokens, 1, head_dim) float32, from float64 angles.

        The model's own table ends at ``rope_max_seq_len`` (1024) positions; these have no end.
        """
        # Not transformer.device: diffusers looks for it through all modules, 0.4 ms a time.
        rope, device = transformer.rope, transformer.scale_shift_table.device
        axes = ((rope.t_dim, start, grid[0]), (rope.h_dim, 0, grid[1]), (rope.w_dim, 0, grid[2]))
        tables = [self._angles(dim, first, count, device) for dim, first, count in axes]
        return tuple(_spread([table[part] for table in tables], grid, tokens) for part in (0, 1))

    def moved(self, transformer, keys, latents):
        """Turns the part of each head that says the time; rotations add up."""
        dim = transformer.rope.t_dim
        cosine, sine = (table[0, ::2] for table in self._angles(dim, latents, 1, keys.device))
        even, odd = keys[..., :dim:2].float(), keys[..., 1:dim:2].float()
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
        return torch.cat([turned.type_as(keys), keys[..., dim:]], dim=-1)

    def embed(self, transformer, latents):
        """Applies the patch embedding."""
        return transformer.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()

    def layer(self, block, hidden, text, conditioning, rotary):
        """Calls ``block``, a WanTransformerBlock."""
        return block(hidden, text, conditioning.blocks, rotary)

    def head(self, transformer, hidden, conditioning, grid):
        """Applies the output norm and projection, and puts the patches together."""
        table, embedding = transformer.scale_shift_table.to(hidden.device), conditioning.head.unsqueeze(-2)
        shift, scale = (table + embedding).chunk(2, dim=-2)  # (1, 1, dim), or (1, tokens, 1, dim)
        if embedding.dim() == 4:
            shift, scale = shift.squeeze(-2), scale.squeeze(-2)
        hidden = (transformer.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        patches = transformer.proj_out(hidden).unflatten(1, grid).unflatten(-1, (*transformer.config.patch_size, -1))
        # (branches, frames, rows, columns, p_t, p_h, p_w, channels)
        patches = patches.permute(0, 7, 1, 4, 2, 5, 3, 6)
        return patches.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def decoder(self, vae):
        """Returns a StreamingDecoder."""
        return StreamingDecoder(vae)

    def decoder_memory_latents(self, vae):
        """See ``wan_vae.memory_latents``."""
        return memory_latents(vae)

    def decode_at_once(self, vae, latents):
        """See ``wan_vae.decode_at_once``."""
        return decode_at_once(vae, latents)


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
