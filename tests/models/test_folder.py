"""A model folder is whole and what it says, or is refused with what is wrong and its file, before anything is loaded."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import HealthCheck, given, settings, strategies
from safetensors.torch import load_file, save_file

import xdualparal
from xdualparal.models import Wan22Family, WanFamily, family_of
from xdualparal.models.checkpoint_files import Weights
from xdualparal.models.folder import check_folder, check_tied, check_vae
from xdualparal.models.names import original_name
from xdualparal.models.weights import check_reachable, load_stage, load_text_pipeline, load_transformer_stage

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"
CASES = json.loads((Path(__file__).parent / "cases" / "folders.json").read_text())
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
FILES = sorted(str(file.relative_to(TINY_WAN)) for file in TINY_WAN.rglob("*") if file.is_file())


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY_WAN, tmp_path / "model")


def weights(path, change):
    """Changes the tensors of a file, a dict, with ``change``."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


HOW = {
    "remove": lambda path, _: path.unlink(),
    "write": lambda path, text: path.write_text(text),
    "set": lambda path, values: path.write_text(json.dumps(json.loads(path.read_text()) | values)),
    "copy": lambda path, name: shutil.copytree(path, path.with_name(name)),
    "cut": lambda path, size: os.truncate(path, size),
    "rename": lambda path, name: path.rename(path.with_name(name)),
    "drop": lambda path, name: weights(path, lambda tensors: tensors.pop(name)),
    "add": lambda path, name: weights(path, lambda tensors: tensors.update({name: torch.ones(1)})),
    "float8": lambda path, name: weights(path, lambda tensors: tensors.update({name: tensors[name].to(torch.float8_e4m3fn)})),
}


def refusal(folder):
    """The line of a refusal."""
    with pytest.raises(ValueError) as error:
        check_folder(WanFamily, folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value) and "give " in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("how, file, value, words", CASES)
def test_refused(folder, how, file, value, words):
    HOW[how](folder / file, value)
    line = refusal(folder)
    assert words in line or re.search(words, line), line


def sharded(folder):
    """The transformer in several files."""
    transformer = WanTransformer3DModel.from_pretrained(folder / "transformer")
    shutil.rmtree(folder / "transformer")
    transformer.save_pretrained(folder / "transformer", max_shard_size="3MB")
    return folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"


def test_shards(folder):
    index = sharded(folder)
    check_folder(WanFamily, folder)
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    other = next(one for one in content["weight_map"].values() if one != file)
    whole = dict(content["weight_map"])
    for change, words in ((dict(whole, **{name: other}), "lacks"), (dict(whole, **{name: "none"}), "transformer/none is missing"),
                          ({one: two for one, two in whole.items() if one != name}, "does not list"), ([], "no weight_map")):
        index.write_text(json.dumps(dict(content, weight_map=change)))
        assert words in refusal(folder)
    index.write_text(json.dumps(content))
    shutil.copy(TINY_WAN / TRANSFORMER, folder / TRANSFORMER)
    assert "two sets of weights" in refusal(folder)
    (folder / TRANSFORMER).unlink()
    (index.parent / file).unlink()
    assert f"transformer/{file} is missing" in refusal(folder)


def test_unusual_and_right(folder):
    (folder / "README.md").write_text("text")
    (folder / ".gitattributes").write_text("text")
    (folder / "assets").mkdir()
    weights(folder / "text_encoder/model.safetensors", lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")}))
    weights(folder / "transformer/diffusion_pytorch_model.safetensors", lambda t: t.update({"blocks.0.norm_added_q": torch.ones(1)}))
    check_folder(WanFamily, folder)


def test_odd_files(folder, tmp_path):
    assert "is no folder" in refusal(folder / "none")
    config = folder / "vae" / "config.json"
    config.write_bytes(b"\xff\xfe{}")
    assert "vae/config.json is damaged" in refusal(folder)
    config.unlink()
    config.symlink_to(tmp_path / "nothing")
    assert "vae/config.json is a link to a file that is not there" in refusal(folder)
    config.unlink()
    config.mkdir()
    assert "vae/config.json is not a file" in refusal(folder)
    config.rmdir()
    os.mkfifo(config)
    assert "vae/config.json is not a file" in refusal(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=strategies.sampled_from(FILES), how=strategies.sampled_from(["remove", "cut", "rename"]), share=strategies.floats(0, 0.99))
def test_any_damage_of_a_file_is_refused(tmp_path, file, how, share):
    folder = shutil.copytree(TINY_WAN, tmp_path / "model", dirs_exist_ok=True)
    path = folder / file
    HOW[how](path, {"cut": int(path.stat().st_size * share), "rename": path.name + "~"}.get(how))
    refusal(folder)
    shutil.rmtree(folder)


TENSORS = [(file, name) for file in FILES if file.endswith(".safetensors") for name in load_file(TINY_WAN / file)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensor=strategies.sampled_from(TENSORS), end=strategies.sampled_from([None, "x", "_scale"]))
def test_any_tensor_that_is_missing_or_has_another_name_is_refused(tmp_path, tensor, end):
    folder = shutil.copytree(TINY_WAN, tmp_path / "model", dirs_exist_ok=True)
    file, name = tensor

    def change(tensors):
        value = tensors.pop(name)
        tensors |= {} if end is None else {name + end: value}

    weights(folder / file, change)
    assert f"{file.partition('/')[0]} lacks {name} that" in refusal(folder)
    shutil.rmtree(folder)


def test_the_vae_alone(folder):
    shutil.rmtree(folder / "transformer")
    check_vae(WanFamily, folder)
    (folder / "vae/config.json").unlink()
    with pytest.raises(ValueError, match="vae/config.json is missing"):
        check_vae(WanFamily, folder)


def test_python_is_told_too(folder):
    HOW["drop"](folder / TRANSFORMER, "proj_out.bias")
    with pytest.raises(ValueError, match="transformer lacks proj_out.bias"):
        load_stage(WanFamily(), folder, 0, 1, range(8), torch.float32, True)


def test_an_embedding_that_is_not_tied_is_refused():
    pipeline = load_stage(WanFamily(), TINY_WAN, 0, 1, range(8), torch.float32, False)
    encoder = pipeline.text_encoder = load_text_pipeline(WanFamily(), TINY_WAN, torch.float32).text_encoder
    encoder.encoder.embed_tokens.weight = torch.nn.Parameter(torch.zeros_like(encoder.shared.weight))
    with pytest.raises(ValueError, match="token embedding is not the stored one .*install transformers 5.3"):
        check_tied(encoder)
    with pytest.raises(ValueError, match="token embedding is not the stored one"):
        family_of(pipeline)


def test_a_hub_name_without_a_connection(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="^no/model is not in the hub's cache and cannot be downloaded .*--model_path FOLDER"):
        check_reachable(WanFamily, "no/model")


@pytest.fixture
def two_experts(folder):
    """A folder of a model with two experts, of other weights."""
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    weights(folder / "transformer_2/diffusion_pytorch_model.safetensors", lambda tensors: [one.mul_(0.5) for one in tensors.values()])
    HOW["set"](folder / "model_index.json", dict(transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875))
    return folder


def test_both_experts_are_checked(two_experts):
    check_folder(Wan22Family, two_experts)
    with pytest.raises(ValueError, match="transformer_2 is WanTransformer3DModel, not None"):
        check_folder(WanFamily, two_experts)
    HOW["drop"](two_experts / "transformer_2/diffusion_pytorch_model.safetensors", "blocks.3.attn1.to_q.weight")
    with pytest.raises(ValueError, match="two experts model .*transformer_2 lacks blocks.3.attn1.to_q.weight that transformer_2/config"):
        check_folder(Wan22Family, two_experts)
    shutil.rmtree(two_experts / "transformer_2")
    with pytest.raises(ValueError, match="transformer_2/config.json is missing"):
        check_folder(Wan22Family, two_experts)


def test_both_experts_are_loaded(two_experts):
    pipeline = load_stage(Wan22Family(), two_experts, 1, 2, range(3, 8), torch.float32, False)
    first, second = (load_file(two_experts / part / "diffusion_pytorch_model.safetensors") for part in Wan22Family.facts.experts)
    for expert, stored in ((pipeline.transformer, first), (pipeline.transformer_2, second)):
        assert torch.equal(expert.blocks[0].attn1.to_q.weight, stored["blocks.3.attn1.to_q.weight"])
    assert not torch.equal(first["blocks.3.attn1.to_q.weight"], second["blocks.3.attn1.to_q.weight"])
    assert isinstance(family_of(pipeline), Wan22Family) and pipeline.config.boundary_ratio == 0.875


def test_an_experts_weights_from_another_file(two_experts, tmp_path):
    """The folder's own need not be there."""
    file, own = tmp_path / "low_noise.safetensors", two_experts / "transformer_2/diffusion_pytorch_model.safetensors"
    tensors = load_file(own)
    own.unlink()
    save_file({original_name(name): tensor for name, tensor in tensors.items()}, file)
    source = Weights(two_experts, {"transformer_2": file})
    check_folder(Wan22Family, source)
    loaded = load_stage(Wan22Family(), source, 0, 1, range(8), torch.float32, False).transformer_2.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    for change, words in (
        (lambda one: one.pop("head.head.bias"), "low_noise.safetensors lacks proj_out.bias that transformer_2/config.json asks for"),
        (lambda one: one.update({"head.head.bias": torch.ones(3)}), r"low_noise.safetensors: head.head.bias is \[3\] and transformer_2/config.json asks for \[32\]"),
        (lambda one: one.update({"vace.bias": torch.ones(3)}), "low_noise.safetensors holds vace.bias that transformer_2/config.json does not ask for"),
    ):
        weights(file, change)
        with pytest.raises(ValueError, match=f"^{re.escape(str(file))} is not the transformer_2 of .*{words}.*: give a whole one") as error:
            check_folder(Wan22Family, source)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is given as the transformer_2 and Wan2.1 text-to-video has no such part: give weights of transformer$"):
        shutil.rmtree(two_experts / "transformer_2")
        HOW["set"](two_experts / "model_index.json", dict(transformer_2=[None, None], boundary_ratio=None))
        check_folder(WanFamily, source)


def test_weights_that_are_not_the_models_are_told_when_they_are_loaded(folder):
    """Without check_folder before."""
    for change, words in ((lambda one: one.pop("proj_out.bias"), "the weights of the transformer lack proj_out.bias"),
                          (lambda one: one.update({"proj_out.bias": torch.ones(3)}), r"proj_out.bias is \[3\], and \[32\] by")):
        weights(folder / TRANSFORMER, change)
        with pytest.raises(ValueError, match=words):
            load_transformer_stage(WanFamily(), folder, "transformer", 0, 1, range(8), torch.float32)


VARIANTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def all_loaded(folder):
    """{part: module} of all parts with weights."""
    pipeline = load_stage(WanFamily(), folder, 0, 1, range(8), torch.float32, True)
    encoder = load_text_pipeline(WanFamily(), folder, torch.float32).text_encoder
    return dict(transformer=pipeline.transformer, vae=pipeline.vae, text_encoder=encoder)


def test_a_folder_of_variants(folder):
    plain = all_loaded(TINY_WAN)
    for part, stem in VARIANTS.items():
        HOW["rename"](folder / part / f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    check_folder(WanFamily, folder)
    loaded = all_loaded(folder)
    for part in VARIANTS:
        ours, theirs = (one[part].state_dict() for one in (loaded, plain))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_folder_of_torchs_files(folder):
    plain = all_loaded(TINY_WAN)
    for part, stem in VARIANTS.items():
        own = folder / part / f"{stem}.safetensors"
        torch.save(load_file(own), own.with_name(f"{'pytorch_model' if part == 'text_encoder' else stem}.bin"))
        own.unlink()
    loaded = all_loaded(folder)
    for part in VARIANTS:
        ours, theirs = (one[part].state_dict() for one in (loaded, plain))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_part_without_config_is_named(folder):
    """Wan's own folders have none, but a text encoder and a VAE of their own names."""
    for name in ("model_index.json", "transformer", "vae"):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    (folder / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"x")
    assert "is in Wan's own layout" in refusal(folder)
