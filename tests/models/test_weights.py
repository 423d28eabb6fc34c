"""A stage reads its own weights and no others."""

import pytest
import torch
from dualparal_testing.small_wan import small_transformer

from xdualparal.models.weights import load_transformer_stage


@pytest.mark.parametrize("shard_size", ["10GB", "50KB"])
def test_stages_together_are_the_model(tmp_path, shard_size):
    whole = small_transformer()
    whole.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").exists() == (shard_size == "50KB")
    for index, layers in enumerate([range(0, 2), range(2, 3), range(3, 4)]):
        stage = load_transformer_stage(tmp_path, index, 3, layers, torch.float32)
        assert not any(parameter.is_meta for parameter in stage.parameters())
        for own, n in zip(stage.blocks, layers, strict=True):
            assert all(map(torch.equal, own.state_dict().values(), whole.blocks[n].state_dict().values()))
        assert torch.equal(stage.scale_shift_table, whole.scale_shift_table)
        assert hasattr(stage.patch_embedding, "weight") == (index == 0)
        assert hasattr(stage.proj_out, "weight") == (index == 2)


def test_dtype_is_the_one_diffusers_gives(tmp_path):
    small_transformer().save_pretrained(tmp_path)
    ours = load_transformer_stage(tmp_path, 0, 1, range(4), torch.bfloat16).state_dict()
    theirs = type(small_transformer()).from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    assert {name: w.dtype for name, w in ours.items()} == {name: w.dtype for name, w in theirs.items()}
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())
