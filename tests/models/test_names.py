"""Wan's own names of tensors and diffusers' are each other's inverse."""

import re

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from xfuser.model_executor.models.runner_models import wan as xfuser_wan

from xdualparal.models.names import PREFIXES, diffusers_name, original_name

SIZES = dict(num_attention_heads=2, attention_head_dim=12, ffn_dim=16, num_layers=12, text_dim=8, freq_dim=8)


def names_of(**others):
    """The names of a transformer's tensors, by diffusers."""
    with torch.device("meta"):
        return list(WanTransformer3DModel(**SIZES | others).state_dict())


TEXT = names_of()
IMAGE = names_of(image_dim=8, added_kv_proj_dim=24, pos_embed_seq_len=4)


@pytest.mark.parametrize("names", [TEXT, IMAGE])
def test_both_ways(names):
    own = [original_name(name) for name in names]
    assert len(set(own)) == len(names)
    assert [diffusers_name(name) for name in own] == names
    for prefix in PREFIXES:
        assert [diffusers_name(prefix + name) for name in own] == names


def test_names_that_are_diffusers_stay():
    assert [diffusers_name(name) for name in IMAGE] == IMAGE


def test_all_but_the_patch_embedding_and_attention_norms_differ():
    same = {re.sub(r"\d+", "N", name) for name in TEXT if original_name(name) == name}
    assert same == {"patch_embedding.weight", "patch_embedding.bias"}


def test_as_diffusers_converts():
    own = {original_name(name): torch.empty(2, device="meta") for name in TEXT}
    assert sorted(convert_wan_transformer_to_diffusers(dict(own))) == sorted(TEXT)


def test_as_xdit_converts():
    for name in TEXT:
        assert xfuser_wan._remap_lightx2v_to_diffusers(original_name(name)) == name


def test_what_follows_a_module_stays():
    assert diffusers_name("diffusion_model.blocks.11.self_attn.o.lora_A.weight") == "blocks.11.attn1.to_out.0.lora_A.weight"
    assert diffusers_name("head.head.diff_b") == "proj_out.diff_b"
    assert diffusers_name("blocks.1.cross_attn.norm_k_img.weight") == "blocks.1.attn2.norm_added_k.weight"


@pytest.mark.parametrize("name", ["vace_blocks.0.proj_out.weight", "blocks.x.self_attn.q.weight", "", "blocks", "self_attn.q.weight"])
def test_unknown_names_stay(name):
    assert diffusers_name(name) == name
