"""What the Wan family answers, against diffusers' own modules."""

import pytest
import torch
from dualparal_testing.small_wan import small_pipeline, small_transformer, texts

from xdualparal.models import WanFamily, family_of


def test_family_of():
    assert isinstance(family_of(small_pipeline()), WanFamily)
    with pytest.raises(ValueError, match="has no DualParal support: give one of WanPipeline"):
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
def test_the_parts_make_the_whole_forward():
    transformer, family, (text, _) = small_transformer(), WanFamily(), texts()
    latents, timestep = torch.randn(1, 16, 5, 4, 4), torch.tensor(700)
    whole = transformer(latents, timestep.expand(1), text, return_dict=False)[0]
    [conditioning], projected = family.condition(transformer, [timestep], text)
    held = family.hold_text(transformer.blocks, projected)
    hidden = family.embed(transformer, latents)
    for block in transformer.blocks:
        hidden = block(hidden, projected, conditioning.blocks, family.rotary(transformer, 0, (5, 2, 2)))
    assert torch.equal(family.head(transformer, hidden, conditioning, (5, 2, 2)), whole)
    held.let_go()
    assert torch.equal(transformer(latents, timestep.expand(1), text, return_dict=False)[0], whole)


def test_a_middle_stage_keeps_its_layers_only():
    transformer = small_transformer()
    third = transformer.blocks[2]
    WanFamily().keep_stage(transformer, range(2, 3), is_first=False, is_last=False)
    names = [name for name, _ in transformer.named_parameters()]
    assert list(transformer.blocks) == [third]
    assert not any(name.startswith(("patch_embedding", "proj_out")) for name in names)
