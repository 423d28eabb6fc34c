"""--lora and --lora_2."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from dualparal_testing import commands, loras
from safetensors.torch import load_file

from xdualparal.models.wan import WanFamily
from xdualparal.models.wan22 import Wan22Family
from xdualparal.output.checkpoint import Checkpoint
from xdualparal.output.latents_file import read_latents
from xdualparal.run_spec import RunSpec
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER, TinyWanModel
from xdualparal.xdit.flags import command_settings, dualparal_config, make_parser
from xdualparal.xdit.loras import lines_on_loras, loras_identity
from xdualparal.xdit.outputs import video_paths
from xdualparal.xdit.resume import known_values
from xdualparal.xdit.settings import CommandSettings, weighted_path


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA's file for the demo model."""
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(json.loads((TINY_WAN_FOLDER / "transformer" / "config.json").read_text()))
    return loras.write(tmp_path_factory.mktemp("loras") / "a.safetensors", loras.original_format(loras.pairs(transformer), alpha=loras.ALPHA))


def parse(folder, *extra):
    """The dict of parsed flags of a good command with ``extra`` ones."""
    argv = ["--model", "tiny-wan", "--prompt", "a red circle", "--output_directory", str(folder), "--dualparal_degree", "2", *map(str, extra)]
    return vars(make_parser().parse_args(argv))


def test_both_names_of_the_flags_may_be_given_several_times(tmp_path):
    settings = command_settings(parse(tmp_path, "--lora", "a", "--dualparal_lora=b:0.5", "--lora-2", "c", "--dualparal_lora_2", "d:-1"))
    assert settings.lora == ("a", "b:0.5") and settings.lora_2 == ("c", "d:-1")
    assert command_settings(parse(tmp_path)) == CommandSettings() and CommandSettings().lora is None


@pytest.mark.parametrize("text, expected", [
    ("a.safetensors", ("a.safetensors", 1.0)), ("a.safetensors:0.5", ("a.safetensors", 0.5)), ("a:b.safetensors:-1e-1", ("a:b.safetensors", -0.1)),
    ("a:b.safetensors", ("a:b.safetensors", 1.0)), (r"C:\a.safetensors", (r"C:\a.safetensors", 1.0)), (r"C:\a.safetensors:2", (r"C:\a.safetensors", 2.0)),
    ("0.5", ("0.5", 1.0)),
])
def test_a_path_may_have_colons(text, expected):
    assert weighted_path(text) == expected


def test_a_file_with_a_number_behind_a_colon_is_a_file(tmp_path):
    (tmp_path / "a:0.5").write_text("")
    assert weighted_path(str(tmp_path / "a:0.5")) == (str(tmp_path / "a:0.5"), 1.0)
    assert weighted_path(str(tmp_path / "a:0.5:2")) == (str(tmp_path / "a:0.5"), 2.0)


@pytest.mark.parametrize("weight", ["nan", "inf", "1000"])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match=f"the weight of lora_2 a:{weight} is {float(weight)}: give a number from -100 to 100"):
        CommandSettings(lora_2=(f"a:{weight}",))


@pytest.mark.parametrize("flag, value, message", [
    ("--lora", "{lora}:0", "the weight of the LoRA .*a.safetensors is 0, which adds nothing: leave it out"),
    ("--lora", "{lora}:strong", "the LoRA .*a.safetensors:strong is missing: give a safetensors file"),
    ("--lora", "", "--dualparal_lora is '': give a value, or leave it out"),
    ("--lora", "~/a.safetensors", "--dualparal_lora is ~/a.safetensors, and the shell has not put your home folder"),
    ("--lora_2", "{lora}", "--lora_2 is .*a.safetensors and Wan2.1 text-to-video models have one transformer: give --lora"),
])
def test_what_cannot_work_is_refused(tmp_path, lora, flag, value, message):
    with pytest.raises(ValueError, match=message):
        check_command(parse(tmp_path, flag, value.format(lora=lora)), 2)


def test_a_lora_of_another_model_is_refused(tmp_path, lora):
    keys = {key.replace("blocks.7.", "blocks.8."): tensor for key, tensor in load_file(lora).items()}
    other = loras.write(tmp_path / "b.safetensors", keys)
    check_command(parse(tmp_path, "--lora", lora), 2)
    with pytest.raises(ValueError, match=r"the LoRA .*/b.safetensors holds diffusion_model.blocks.8.*, which matches nothing in the transformer: give"):
        check_command(parse(tmp_path, "--lora", lora, "--lora", other), 2)


def test_no_output_replaces_a_lora(tmp_path, lora):
    with pytest.raises(ValueError, match="--dualparal_latents_out .* and --lora .* are one file"):
        check_command(parse(tmp_path, "--lora", lora, "--lora", lora, "--dualparal_latents_out", lora, "--dualparal_overwrite"), 2)


def known(args):
    """What is known of the run before its model is loaded."""
    return known_values(args, TinyWanModel, dualparal_config(args), command_settings(args))


def test_videos_with_other_loras_have_other_names_and_a_moved_file_the_same(tmp_path, lora):
    moved = shutil.copy(lora, tmp_path / "moved.safetensors")
    given = [[], ["--lora", lora], ["--lora", f"{lora}:0.5"], ["--lora", lora, "--lora", lora], ["--lora", moved], ["--lora", f"{moved}:1.0"]]
    names = []
    for flags in given:
        args = parse(tmp_path, *flags)
        names += video_paths(args, TinyWanModel, dualparal_config(args), command_settings(args))
    assert len(set(names[:4])) == 4 and names[1] == names[4] == names[5]


def test_a_checkpoint_of_another_lora_is_refused_by_name(tmp_path, lora):
    folder = tmp_path / "checkpoint"
    args = parse(tmp_path, "--dualparal_checkpoint", folder, "--lora", lora)
    [values] = known(args)
    Checkpoint(folder / "0", RunSpec.from_json(values | {"transformer": "digest of the fused weights"})).save({}, 1, wait=True)
    check_command(args, 2)
    for flags in ([], ["--lora", f"{lora}:0.5"]):
        with pytest.raises(ValueError, match=r"is of another run: loras was \['transformer [0-9a-f]+:1'\] and is \["):
            check_command(parse(tmp_path, "--dualparal_checkpoint", folder, *flags), 2)


def model(family):
    """What loras.py asks of a model."""
    return SimpleNamespace(family=family)


def test_each_expert_has_its_own(lora):
    command = CommandSettings(lora=(str(lora),), lora_2=(f"{lora}:0.5",))
    first, second = loras_identity(model(Wan22Family()), command)
    assert first.startswith("transformer ") and second.startswith("transformer_2 ") and second.endswith(":0.5")
    assert lines_on_loras(model(Wan22Family()), command) == lines_on_loras(model(Wan22Family()), CommandSettings()) == []
    assert lines_on_loras(model(WanFamily()), CommandSettings(lora=(str(lora),))) == []
    for only, other in (("lora", "transformer_2 has no LoRA.*--lora_2 gives"), ("lora_2", "transformer has no LoRA.*--lora gives")):
        [line] = lines_on_loras(model(Wan22Family()), CommandSettings(**{only: (str(lora),)}))
        assert re.match(other, line)


def latents_of(folder, *flags):
    """The latents of a launcher's run."""
    folder.mkdir()
    code, output = commands.run([
        "--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "2", "--num_frames", "45",
        "--dualparal_degree", "2", "--output_directory", folder, "--dualparal_latents_out", folder / "latents", *flags,
    ], folder / "log")
    assert code == 0, output
    return torch.cat([latents for _, latents in read_latents(folder / "latents")], dim=2)


def by_diffusers(lora, weight):
    """The same by diffusers' pipeline: the video is one block."""
    pipeline = WanPipeline.from_pretrained(TINY_WAN_FOLDER)
    pipeline.load_lora_weights(lora, adapter_name="a")
    pipeline.set_adapters(["a"], [weight])
    pipeline.fuse_lora()
    return pipeline(
        "a red circle on a dark background", num_frames=45, height=32, width=32, num_inference_steps=2, guidance_scale=1.5,
        negative_prompt="", generator=torch.Generator().manual_seed(42), output_type="latent",
    ).frames


@pytest.mark.processes
def test_a_run_with_a_lora_is_diffusers_with_it_fused(tmp_path, lora):
    ours, without = latents_of(tmp_path / "with", "--lora", f"{lora}:0.8"), latents_of(tmp_path / "without")
    expected = by_diffusers(lora, 0.8)
    assert ours.shape == expected.shape and (ours - expected).abs().max() < 1e-5 * expected.abs().max()  # 1.2e-5 of 4 on an AMD EPYC
    assert (without - expected).abs().max() > 0.05
    [report] = (tmp_path / "with").glob("*.json")
    assert json.loads(report.read_text())["spec"]["loras"][0].endswith(":0.8")


@pytest.mark.processes
def test_a_lora_that_does_not_fit_is_one_line_and_makes_nothing(tmp_path, lora):
    keys = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 63), "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(64, 4)}
    other = loras.write(tmp_path / "b.safetensors", keys)
    arguments = ["--model", "tiny-wan", "--prompt", "a", "--dualparal_degree", "2", "--output_directory", tmp_path / "out", "--lora", other]
    code, output = commands.run(arguments, tmp_path / "log")
    assert code == 2 and output.count("\n") == 1 and "self_attn.q.lora_A.weight of shape [4, 63], which does not fit blocks.0.attn1.to_q.weight" in output
    assert not (tmp_path / "out").exists()
