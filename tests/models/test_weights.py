"""A stage reads its own weights and no others."""

import shutil
from pathlib import Path

import pytest
import torch
from dualparal_testing.small_wan import small_transformer
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

import xdualparal
from xdualparal.models import WanFamily
from xdualparal.models.weights import load_stage, load_text_pipeline, load_transformer_stage, read_configs

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"


@pytest.mark.parametrize("shard_size", ["10GB", "50KB"])
def test_stages_together_are_the_model(tmp_path, shard_size):
    whole = small_transformer()
    whole.save_pretrained(tmp_path / "transformer", max_shard_size=shard_size)
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists() == (shard_size == "50KB")
    for index, layers in enumerate([range(0, 2), range(2, 3), range(3, 4)]):
        stage = load_transformer_stage(WanFamily(), tmp_path, "transformer", index, 3, layers, torch.float32)
        assert not any(parameter.is_meta for parameter in stage.parameters())
        for own, n in zip(stage.blocks, layers, strict=True):
            assert all(map(torch.equal, own.state_dict().values(), whole.blocks[n].state_dict().values()))
        assert torch.equal(stage.scale_shift_table, whole.scale_shift_table)
        assert hasattr(stage.patch_embedding, "weight") == (index == 0)
        assert hasattr(stage.proj_out, "weight") == (index == 2)


def test_dtype_is_the_one_diffusers_gives(tmp_path):
    small_transformer().save_pretrained(tmp_path / "transformer")
    ours = load_transformer_stage(WanFamily(), tmp_path, "transformer", 0, 1, range(4), torch.bfloat16).state_dict()
    theirs = type(small_transformer()).from_pretrained(tmp_path / "transformer", dtype=torch.bfloat16).state_dict()
    assert {name: w.dtype for name, w in ours.items()} == {name: w.dtype for name, w in theirs.items()}
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())


@pytest.mark.parametrize("index, with_vae", [(0, False), (1, True)])
def test_a_stage_has_the_parts_that_it_uses(index, with_vae):
    layers = [range(0, 3), range(3, 8)][index]
    pipeline = load_stage(WanFamily(), TINY_WAN, index, 2, layers, torch.bfloat16, with_vae)
    assert isinstance(pipeline, WanFamily.classes().pipeline)
    assert len(pipeline.transformer.blocks) == len(layers)
    assert pipeline.text_encoder is None and pipeline.tokenizer is None  # see load_text_pipeline
    assert pipeline.vae.dtype == torch.float32 and pipeline.vae.config.z_dim == 8
    assert any(parameter.is_meta for parameter in pipeline.vae.parameters()) != with_vae


def test_a_text_pipeline_has_nothing_else(tmp_path):
    pipeline = load_text_pipeline(WanFamily(), TINY_WAN, torch.bfloat16)
    assert isinstance(pipeline, WanFamily.classes().pipeline)
    assert {name for name, part in pipeline.components.items() if part is not None} == {"text_encoder", "tokenizer"}
    theirs = UMT5EncoderModel.from_pretrained(TINY_WAN / "text_encoder", dtype=torch.bfloat16).state_dict()
    ours = pipeline.text_encoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_text_encoder_with_a_weight_that_is_no_number_is_refused(tmp_path):
    shutil.copytree(TINY_WAN, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.final_layer_norm.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="weight encoder.final_layer_norm.weight of the text_encoder in .* has a NaN"):
        load_text_pipeline(WanFamily(), tmp_path, torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named_with_its_file(tmp_path, bad):
    whole = small_transformer()
    whole.blocks[2].ffn.net[2].bias.data[5] = bad
    whole.save_pretrained(tmp_path / "transformer", max_shard_size="50KB")
    load_transformer_stage(WanFamily(), tmp_path, "transformer", 0, 2, range(2), torch.float32)  # has not that layer
    with pytest.raises(ValueError, match=r"blocks.2.ffn.net.2.bias of the transformer in .*-of-.*safetensors has a NaN") as caught:
        load_transformer_stage(WanFamily(), tmp_path, "transformer", 1, 2, range(2, 4), torch.bfloat16)
    assert "\n" not in str(caught.value)


def test_configs_of_a_folder():
    index, transformer, vae = read_configs(TINY_WAN)
    assert index["_class_name"] == "WanPipeline" and transformer["num_layers"] == 8 and vae["z_dim"] == 8
