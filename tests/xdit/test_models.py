"""The models in xDiT's terms."""

import copy
import json
import pickle
import shutil

import pytest
from diffusers import WanPipeline
from xfuser import xFuserArgs

from xdualparal.xdit.demo_model import TINY_WAN_FOLDER, TinyWanModel
from xdualparal.xdit.prompts import NumberedPrompt
from xdualparal.xdit.registry import DUALPARAL_MODELS, at_path


def test_tiny_wan_is_what_the_checks_believe():
    config = json.loads((TINY_WAN_FOLDER / "transformer" / "config.json").read_text())
    assert TinyWanModel.num_layers == config["num_layers"]
    assert TinyWanModel.num_heads == config["num_attention_heads"]
    vae = json.loads((TINY_WAN_FOLDER / "vae" / "config.json").read_text())
    assert TinyWanModel.pixels_per_token == vae["scale_factor_spatial"] * config["patch_size"][1]


def test_a_folder_says_its_own_sizes():
    model = at_path("Wan2.1-T2V", DUALPARAL_MODELS["Wan2.1-T2V"], TINY_WAN_FOLDER, {})
    assert (model.num_layers, model.num_heads, model.pixels_per_token) == (8, 4, 8)
    assert model.settings.model_name == str(TINY_WAN_FOLDER)
    assert DUALPARAL_MODELS["Wan2.1-T2V"].settings.model_name == "Wan-AI/Wan2.1-T2V-14B-Diffusers"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no whole Wan2.1 .*model_index.json is missing.*: give the whole folder .*Wan-AI/"):
        at_path("Wan2.1-T2V", DUALPARAL_MODELS["Wan2.1-T2V"], tmp_path, {})


def test_a_folder_of_a_model_that_is_not_supported_is_refused(tmp_path):
    shutil.copytree(TINY_WAN_FOLDER, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(config | {"_class_name": "WanVACEPipeline"}))
    with pytest.raises(ValueError, match="--model_path .*: this is no Wan2.1 .*the pipeline is WanVACEPipeline.*: give one"):
        at_path("Wan2.1-T2V", DUALPARAL_MODELS["Wan2.1-T2V"], tmp_path, {})


def test_prompts_keep_what_they_know_in_copies_and_between_processes():
    prompt = NumberedPrompt("a ship", 3, "grey")
    for same in (copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert same == "a ship" and same.number == 3 and same.negative_prompt == "grey"


def test_tiny_wan_is_a_complete_small_checkpoint():
    pipeline = WanPipeline.from_pretrained(TINY_WAN_FOLDER)
    parts = ("UMT5EncoderModel", "WanTransformer3DModel", "AutoencoderKLWan", "UniPCMultistepScheduler")
    names = {type(part).__name__ for part in pipeline.components.values()}
    assert names.issuperset(parts) and pipeline.tokenizer is not None
    size = sum(file.stat().st_size for file in TINY_WAN_FOLDER.rglob("*") if file.is_file())
    assert size <= 24 * 2**20


@pytest.mark.parametrize("name", DUALPARAL_MODELS)
def test_every_model_has_what_a_run_needs(name, tmp_path):
    args = xFuserArgs(model=name, pipefusion_parallel_degree=2, num_pipeline_patch=1, output_directory=str(tmp_path))
    model = DUALPARAL_MODELS[name](args)
    defaults = model.default_input_values
    assert model.settings.fps == (24 if "SkyReels" in name or "TI2V" in name else 16) and model.settings.model_output_type == "video"
    for value in ("height", "width", "num_frames", "num_inference_steps", "guidance_scale"):
        assert getattr(defaults, value)
