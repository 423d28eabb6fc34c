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
from xdualparal.models import WanFamily, family_of
from xdualparal.models.folder import check_folder, check_tied, check_vae
from xdualparal.models.weights import check_reachable, load_stage

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
    encoder = pipeline.text_encoder
    encoder.encoder.embed_tokens.weight = torch.nn.Parameter(torch.zeros_like(encoder.shared.weight))
    with pytest.raises(ValueError, match="token embedding is not the stored one .*install transformers 5.3"):
        check_tied(encoder)
    with pytest.raises(ValueError, match="token embedding is not the stored one"):
        family_of(pipeline)


def test_a_hub_name_without_a_connection(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="^no/model is not in the hub's cache and cannot be downloaded .*--model_path FOLDER"):
        check_reachable(WanFamily, "no/model")
