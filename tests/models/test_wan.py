"""What the Wan family answers, against diffusers' own modules."""

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config
from dualparal_testing.small_wan import small_pipeline, small_transformer, small_vae, texts

from xdualparal import DualParalPipeline
from xdualparal.models import WanFamily, family_of
from xdualparal.models.wan_vae import memory_latents


def test_family_of():
    assert isinstance(family_of(small_pipeline()), WanFamily)
    with pytest.raises(ValueError, match="has no DualParal support: give one of SkyReelsV2DiffusionForcingPipeline, SkyReelsV2ImageToVideoPipeline, WanImageToVideoPipeline, WanPipeline"):
        family_of(object())


def test_rotary_at_the_start_is_the_models_own():
    transformer = small_transformer()
    own = transformer.rope(torch.zeros(1, 16, 6, 8, 12))
    assert all(map(torch.equal, WanFamily().rotary(transformer, 0, (6, 4, 6)), own))


def test_rotary_goes_on_where_the_models_table_ends():
    long, short = small_transformer(), small_transformer(rope_max_seq_len=8)
    cos, sin = WanFamily().rotary(short, 100, (3, 4, 6))
    own_cos, own_sin = long.rope(torch.zeros(1, 16, 103, 8, 12))
    per_frame = 4 * 6
    assert torch.equal(cos, own_cos[:, 100 * per_frame:]) and torch.equal(sin, own_sin[:, 100 * per_frame:])
    assert torch.isfinite(torch.stack(WanFamily().rotary(short, 10**6, (3, 4, 6)))).all()


@torch.no_grad()
def parts_and_whole(transformer):
    """(the parts' prediction with the text's K/V cached, the whole forward's before, the whole forward's after)."""
    family, (text, _) = WanFamily(), texts()
    latents, timestep = torch.randn(1, 16, 5, 4, 4), torch.tensor(700)

    def whole():
        return transformer(latents, timestep.expand(1), text, return_dict=False)[0]

    before = whole()
    [conditioning], projected = family.condition(transformer, [timestep], text)
    text_kv = family.project_text(transformer.blocks, projected)
    hidden, rotary = family.embed(transformer, latents), family.rotary(transformer, 0, (5, 2, 2))
    for block in transformer.blocks:
        hidden = family.layer(block, hidden, projected, conditioning, rotary)
    prediction = family.head(transformer, hidden, conditioning, (5, 2, 2))
    text_kv.restore()
    return prediction, before, whole()


def fused_transformer():
    transformer = small_transformer()
    transformer.fuse_qkv_projections()
    assert transformer.blocks[0].attn2.fused_projections
    return transformer


@pytest.mark.parametrize("make", [small_transformer, fused_transformer])
def test_the_parts_make_the_whole_forward(make):
    prediction, before, after = parts_and_whole(make())
    assert torch.equal(prediction, before) and torch.equal(after, before)


def with_xdits_attention(rank):
    """``parts_and_whole`` of both transformers, as numpy arrays, with xDiT's attention processors."""
    DualParalPipeline(small_pipeline(), engine_config())  # initialises xDiT
    results = []
    for transformer in (small_transformer(), fused_transformer()):
        WanFamily().prepare_attention(transformer.blocks)
        results.append([result.numpy() for result in parts_and_whole(transformer)])
    return results


@pytest.mark.processes
def test_the_parts_make_the_whole_forward_with_xdits_attention():
    [results] = run_ranks(with_xdits_attention, 1)
    for prediction, before, after in results:
        assert np.array_equal(prediction, before) and np.array_equal(after, before)


def test_restoring_leaves_a_fused_transformer_as_it_was():
    transformer = fused_transformer()
    before = {name: id(module) for name, module in transformer.named_modules()}
    parts_and_whole(transformer)
    assert {name: id(module) for name, module in transformer.named_modules()} == before
    assert transformer.blocks[0].attn2.fused_projections
    transformer.unfuse_qkv_projections()
    prediction, whole, _ = parts_and_whole(transformer)
    assert torch.equal(prediction, whole)


def test_decoders_are_those_of_wans_vae():
    family, vae = WanFamily(), small_vae()
    latents = torch.randn(1, 16, 2, 2, 2)
    assert torch.equal(family.decoder(vae).decode(latents), family.decode_at_once(vae, latents))
    assert family.decoder_memory_latents(vae) == memory_latents(vae)


def test_a_middle_stage_keeps_its_layers_only():
    transformer = small_transformer()
    third = transformer.blocks[2]
    WanFamily().keep_stage(transformer, range(2, 3), is_first=False, is_last=False)
    names = [name for name, _ in transformer.named_parameters()]
    assert list(transformer.blocks) == [third]
    assert not any(name.startswith(("patch_embedding", "proj_out")) for name in names)


@pytest.mark.parametrize("frames, latents", [(1, 1), (2, 2), (5, 2), (6, 3), (81, 21), (257, 65)])
def test_frames_are_rounded_up_to_latents(frames, latents):
    assert WanFamily.facts.latent_frames(frames) == latents


@pytest.mark.parametrize("frames, latents", [(1, 4), (4, 4), (5, 5), (64, 19)])
def test_a_video_that_continues_another_has_no_latent_frame_of_one_frame(frames, latents):
    assert WanFamily.facts.latent_frames(frames, continued=3) == latents
