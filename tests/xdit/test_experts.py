"""Models by their names: their defaults, their folders, the guidance of two experts, and distilled weights."""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from dualparal_testing.checkpoints import IMAGE_TO_VIDEO, SCHEDULER, SKYREELS_IMAGES, TRANSFORMERS, VAE_OF_TI2V, write_checkpoint
from safetensors.torch import save_file
from xfuser import xFuserArgs
from xfuser.model_executor.models.runner_models import wan

from xdualparal import DualParalConfig
from xdualparal.models.fixed_steps import FixedStepsScheduler, RenoisedStepsScheduler
from xdualparal.models.schedulers import check_scheduler, flow_shift, fresh_scheduler
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import dualparal_config, make_parser, value_of
from xdualparal.xdit.outputs import video_paths
from xdualparal.xdit.registry import DUALPARAL_MODELS
from xdualparal.xdit.resume import known_values
from xdualparal.xdit.settings import CommandSettings
from xdualparal.xdit.wan_models import Wan22T2VModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{model: the folder of a small checkpoint of it}."""
    place = tmp_path_factory.mktemp("checkpoints")
    return {model: write_checkpoint(place / model, model) for model in TRANSFORMERS}


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """As if the hub could be reached."""
    monkeypatch.setattr("xdualparal.xdit.checks.check_reachable", lambda family, name: None)


def parsed(folder, model, *flags):
    """The flags of a good command, as a dict, with ``flags`` behind."""
    argv = ["--model", model, "--prompt", "a red circle", "--output_directory", str(folder), "--dualparal_degree", "2", *map(str, flags)]
    return vars(make_parser().parse_args(argv))


def checked(folder, model, *flags):
    """(the model's class, the flags) of a command that has passed its checks."""
    args = parsed(folder, model, *flags)
    return check_command(args, 2), args


def distilled(folder):
    """Flags for two files with an expert each."""
    paths = [folder / "high.safetensors", folder / "low.safetensors"]
    for number, path in enumerate(paths):
        save_file({"a": torch.full((1,), float(number))}, path)
    return ["--distilled_transformer_path", paths[0], "--distilled_transformer_2_path", paths[1]]


@pytest.mark.parametrize("name, values", [
    ("Wan2.1-T2V-1.3B", (480, 832, 81, 50, 5.0, None, 3)), ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", (480, 832, 81, 50, 5.0, None, 3)),
    ("Wan2.1-T2V", (720, 1280, 81, 50, 5.0, None, 5)), ("Wan-AI/Wan2.1-T2V-14B-Diffusers", (720, 1280, 81, 50, 5.0, None, 5)),
    ("Wan2.2-T2V", (720, 1280, 81, 40, 4.0, 3.0, 12)), ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", (720, 1280, 81, 40, 4.0, 3.0, 12)),
    ("Wan2.2-Distilled-T2V", (480, 832, 81, 4, 1.0, 1.0, None)),
])
def test_the_defaults_are_the_authors(name, values):
    """The sources are beside the numbers in wan_models.py."""
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2", "flow_shift")
    model = DUALPARAL_MODELS[name]
    assert tuple(getattr(model.default_input_values, one) for one in names) == values
    assert model.settings.fps == 16 and model.settings.model_name.startswith("Wan-AI/Wan2")
    config = DualParalConfig()
    assert config.block_latents + 2 * config.context_latents <= model.family.facts.trained_latents


@pytest.mark.parametrize("name, flags, context", [
    ("Wan2.2-Distilled-T2V", [], "cached"), ("Wan2.2-T2V", [], "recomputed"), ("Wan2.2-Distilled-T2V", ["--dualparal_context", "recomputed"], "recomputed"),
    ("Wan2.2-T2V", ["--dualparal_context", "cached"], "cached"), ("Wan2.2-Distilled-T2V", ["--dualparal_context_latents", "0"], "recomputed"),
    ("Wan2.2-Distilled-T2V", ["--dualparal_context_timestep", "true"], "recomputed"),
])
def test_few_step_models_cache_their_context_by_default(tmp_path, name, flags, context):
    args = parsed(tmp_path, name, *flags)
    assert dualparal_config(args, DUALPARAL_MODELS[name]).context == context
    dtype = ["--dualparal_context_dtype", "float8"]
    if context == "cached":
        assert dualparal_config(parsed(tmp_path, name, *flags, *dtype), DUALPARAL_MODELS[name]).context_dtype == "float8"
    else:
        with pytest.raises(ValueError, match="context_dtype is float8 and context is recomputed, which keeps nothing"):
            dualparal_config(parsed(tmp_path, name, *flags, *dtype), DUALPARAL_MODELS[name])


@pytest.mark.parametrize("name", [*TRANSFORMERS, *IMAGE_TO_VIDEO, *SKYREELS_IMAGES])
def test_a_models_sizes_are_those_of_its_published_configuration(name):
    parts, model = (TRANSFORMERS | IMAGE_TO_VIDEO | SKYREELS_IMAGES)[name], DUALPARAL_MODELS[name]
    config = parts["transformer"]
    vae = VAE_OF_TI2V if name == "Wan2.2-TI2V" else {}
    assert model.family.sizes(config, vae) == (model.num_layers, model.num_heads, model.pixels_per_token)
    assert tuple(parts) == model.family.facts.experts
    assert all(config[key] == value for key, value in model.transformer_config.items())


def test_the_settings_are_xdits(tmp_path):
    args = dict(pipefusion_parallel_degree=1, output_directory=str(tmp_path))
    theirs = wan.xFuserWan22T2VModel(xFuserArgs(model="Wan2.2-T2V", **args)).settings
    ours = Wan22T2VModel(xFuserArgs(model="Wan2.2-T2V", **args)).settings
    for name in ("model_name", "fps", "fp8_gemm_module_list", "fp8_precision_overrides", "transformer_attr_names"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("name", ["Wan2.1-VACE-14B", "Wan2.1-VACE-1.3B"])
def test_a_model_that_is_not_supported_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"^model {name} has no DualParal support: give one of .*, or leave --dualparal_degree out$"):
        checked(tmp_path, name)


@pytest.mark.parametrize("name, other, words", [
    ("Wan2.1-T2V-1.3B", "Wan2.2-T2V", "--model Wan2.1-T2V-1.3B is Wan2.1 text-to-video and --model_path .* holds Wan2.2 text-to-video, two experts: "
     "give --model Wan2.2-T2V or Wan2.2-Distilled-T2V, or another folder"),
    ("Wan2.2-T2V", "Wan2.1-T2V", "--model Wan2.2-T2V is Wan2.2 .* holds Wan2.1 text-to-video: give --model Wan2.1-T2V-1.3B or Wan2.1-T2V,"),
    ("tiny-wan", "Wan2.2-T2V", "--model tiny-wan is Wan2.1 text-to-video and .*: give --model Wan2.2-T2V"),
])
def test_a_folder_of_another_family_is_refused(tmp_path, folders, name, other, words):
    with pytest.raises(ValueError, match=words) as error:
        checked(tmp_path, name, "--model_path", folders[other])
    assert "\n" not in str(error.value)


def test_a_folder_is_what_its_configurations_say(tmp_path, folders):
    model, args = checked(tmp_path, "Wan2.2-T2V", "--model_path", folders["Wan2.2-T2V"])
    assert (model.num_layers, model.num_heads) == (5, 4) and model.family.facts.experts == ("transformer", "transformer_2")
    assert value_of(args, model, "flow_shift") is None and model.usual_shift == 12


@pytest.mark.parametrize("change, words", [
    (dict(in_channels=36), "no Wan2.2 text-to-video, two experts model .*in_channels|in_channels is 36|36"),
    (dict(image_dim=1280), "image_dim is 1280, not None"),
])
def test_an_image_models_folder_is_refused(tmp_path, change, words):
    folder = write_checkpoint(tmp_path / "model", "Wan2.2-T2V", **change)
    with pytest.raises(ValueError, match=words) as error:
        checked(tmp_path, "Wan2.2-T2V", "--model_path", folder)
    assert "\n" not in str(error.value) and "Wan2.2" in str(error.value)


@pytest.mark.parametrize("flags, scales", [
    ([], (4.0, 3.0)), (["--guidance_scale", "1"], (1.0, 1.0)), (["--guidance_scale", "5"], (5.0, 5.0)), (["--guidance_scale_2", "2"], (4.0, 2.0)),
    (["--guidance_scale", "5", "--guidance_scale_2", "2.5"], (5.0, 2.5)), (["--guidance_scale_2", "1"], (4.0, 1.0)),
])
def test_both_experts_guidance(tmp_path, folders, flags, scales):
    model, args = checked(tmp_path, "Wan2.2-T2V", "--model_path", folders["Wan2.2-T2V"], *flags)
    values = known_values(args, model, DualParalConfig(), CommandSettings())[0]
    assert (values["guidance_scale"], values["guidance_scale_2"]) == scales


@pytest.mark.parametrize("model, flags, words", [
    ("Wan2.1-T2V", ["--guidance_scale_2", "3"], "--guidance_scale_2 is 3.0 and it is for models with two experts and Wan2.1-T2V has one"),
    ("Wan2.2-T2V", ["--guidance_scale", "1", "--guidance_scale_2", "3"], "--guidance_scale_2 is 3 and --guidance_scale is 1, which is without"),
    ("Wan2.2-T2V", ["--guidance_scale_2", "nan"], "--guidance_scale_2 is nan: give a number from 0 to 100"),
    ("Wan2.2-T2V", ["--distilled_transformer_path", "a"], "--distilled_transformer_path is a and Wan2.2-T2V has weights of its own: give --model Wan2.2-Dist"),
    ("tiny-wan", ["--distilled_transformer_2_path", "a"], "--distilled_transformer_2_path is a and tiny-wan has weights of its own"),
])
def test_flags_of_experts_are_refused_by_name(tmp_path, model, flags, words):
    with pytest.raises(ValueError, match=words) as error:
        checked(tmp_path, model, *flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag, words", [
    ("--num_inference_steps=8", "--num_inference_steps is 8 and the weights are distilled for fixed steps: leave it out"),
    ("--guidance_scale=4", "--guidance_scale is 4.0 and guidance is in the distilled weights: leave it out"),
    ("--guidance_scale_2=4", "--guidance_scale_2 is 4.0 and guidance is in"), ("--flow_shift=8", "--flow_shift is 8.0 and the distilled weights"),
    ("--negative_prompt=grey", "a guidance scale of 1 guides by the prompt alone"), ("--use_cfg_parallel", "--use_cfg_parallel computes two"),
    ("--distilled_transformer_path=", "needs --distilled_transformer_path: give"), ("--distilled_transformer_2_path=no", "is no, which is not there: give the"),
])
def test_what_distilled_weights_fix_is_refused(tmp_path, flag, words):
    with pytest.raises(ValueError, match=words) as error:
        checked(tmp_path, "Wan2.2-Distilled-T2V", *distilled(tmp_path), flag)
    assert "\n" not in str(error.value)


def test_distilled_weights_are_asked_for_and_looked_at(tmp_path, folders):
    files = distilled(tmp_path)
    with pytest.raises(ValueError, match="Wan2.2-Distilled-T2V needs --distilled_transformer_path: give the safetensors file with"):
        checked(tmp_path, "Wan2.2-Distilled-T2V")
    with pytest.raises(ValueError, match="Wan2.2-Distilled-T2V needs --distilled_transformer_2_path: give .* for the last steps"):
        checked(tmp_path, "Wan2.2-Distilled-T2V", *files[:2])
    checked(tmp_path, "Wan2.2-Distilled-T2V", *files, "--num_inference_steps", "4", "--guidance_scale", "1")
    with pytest.raises(ValueError, match="high.safetensors is not the transformer of"):
        checked(tmp_path, "Wan2.2-Distilled-T2V", *files, "--model_path", folders["Wan2.2-T2V"])
    (tmp_path / "high.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="--distilled_transformer_path .* cannot be used .*cut off or damaged.*: give the safe"):
        checked(tmp_path, "Wan2.2-Distilled-T2V", *files)


def test_one_file_for_both_experts_is_refused(tmp_path):
    files = distilled(tmp_path)
    with pytest.raises(ValueError, match="--distilled_transformer_path .* and --distilled_transformer_2_path .* are one file: give each its own"):
        checked(tmp_path, "Wan2.2-Distilled-T2V", *files[:3], files[1])


def test_other_distilled_weights_are_another_video(tmp_path):
    files = distilled(tmp_path)
    model, args = checked(tmp_path, "Wan2.2-Distilled-T2V", *files)
    first = video_paths(args, model, DualParalConfig(), CommandSettings())
    save_file({"a": torch.full((1,), 5.0)}, tmp_path / "high.safetensors")
    assert video_paths(args, model, DualParalConfig(), CommandSettings()) != first
    with pytest.raises(ValueError, match="high.safetensors"):
        checked(tmp_path, "Wan2.2-Distilled-T2V", *files, "--dualparal_latents_out", tmp_path / "high.safetensors")


def test_fixed_steps_are_xdits():
    theirs, ours = wan._DistilledWanScheduler(), fresh_scheduler(FixedStepsScheduler(), 4)
    theirs.set_timesteps(4)
    assert torch.equal(theirs.sigmas, ours.sigmas) and torch.equal(theirs.timesteps, ours.timesteps)
    assert not check_scheduler(FixedStepsScheduler(), 4).draws_noise and flow_shift(FixedStepsScheduler()) == 5
    with pytest.raises(ValueError, match="the weights were distilled for the 4 steps 1000, 750, 500, 250, and not for 6: give 4"):
        check_scheduler(FixedStepsScheduler(), 6)
    assert fresh_scheduler(FixedStepsScheduler(steps=[1000, 500]), 2).timesteps.tolist() == pytest.approx([1000, 833.3333])


def test_renoised_steps_are_fastvideos():
    """Its rule, pred_noise_to_pred_video and add_noise: the level of a step is that of the nearest timestep of all, with shift 8."""
    grid = FlowMatchEulerDiscreteScheduler(shift=8.0)
    levels = [grid.sigmas[(grid.timesteps - step).abs().argmin()].item() for step in (1000, 757, 522)]
    ours = fresh_scheduler(RenoisedStepsScheduler(), 3)
    assert ours.timesteps.tolist() == [1000, 757, 522] and ours.sigmas.tolist() == pytest.approx([*levels, 0.0])
    assert check_scheduler(RenoisedStepsScheduler(), 3).draws_noise and flow_shift(RenoisedStepsScheduler()) == 8
    latents, predictions = torch.randn(4, 1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(1)).split((1, 3))
    made, expected, drawn = latents[0], latents[0], torch.Generator().manual_seed(5)
    for number, prediction in enumerate(predictions):
        made = ours.step(prediction, ours.timesteps[number], made, generator=torch.Generator().manual_seed(number), return_dict=False)[0]
        noise, level = torch.randn(made.shape, generator=drawn.manual_seed(number)), [*levels, 0.0][number + 1]
        expected = (1 - level) * (expected - levels[number] * prediction) + level * noise
        torch.testing.assert_close(made, expected)
    with pytest.raises(ValueError, match="the weights were distilled for the 3 steps 1000, 757, 522, and not for 4: give 3"):
        check_scheduler(RenoisedStepsScheduler(), 4)


@pytest.mark.parametrize("scheduler", [
    dict(SCHEDULER, flow_shift=5.0), dict(SCHEDULER, flow_shift=8.0), dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=5.0),
    dict(_class_name="FlowMatchLCMScheduler", shift=8.0),
], ids=lambda scheduler: scheduler["_class_name"])
def test_few_steps_with_the_shift_that_the_folder_stores(tmp_path, scheduler):
    folder = write_checkpoint(tmp_path / "model", "Wan2.2-T2V", scheduler)
    flags = ["--model_path", folder, "--num_inference_steps", "4", "--guidance_scale", "1"]
    model, args = checked(tmp_path, "Wan2.2-T2V", *flags)
    assert value_of(args, model, "flow_shift") is None
    _, args = checked(tmp_path, "Wan2.2-T2V", *flags, "--flow_shift", "3")
    assert value_of(args, model, "flow_shift") == 3
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "FlowMatchHeunDiscreteScheduler"]}))
    with pytest.raises(ValueError, match="the scheduler FlowMatchHeunDiscreteScheduler calls the model 7 times for 4 steps"):
        checked(tmp_path, "Wan2.2-T2V", *flags)


@pytest.mark.parametrize("name, steps, shift, warm_up", [
    ("Wan2.2-T2V", 40, 3, 2), ("Wan2.2-T2V", 40, 12, 3), ("Wan2.2-T2V", 2, 12, 1), ("Wan2.2-Distilled-T2V", 4, 5, 4), ("Wan2.1-T2V", 50, 5, 1),
])
def test_warming_up_uses_the_experts_that_the_video_uses(folders, name, steps, shift, warm_up):
    """Else the second expert would be compiled in the middle of the video."""
    cls = DUALPARAL_MODELS[name]
    model = cls.__new__(cls)
    model.pipe = WanPipeline.from_pretrained(folders["Wan2.1-T2V" if name == "Wan2.1-T2V" else "Wan2.2-T2V"])
    model.pipe.scheduler = model.scheduler(model.pipe.scheduler, shift)
    assert model._warm_up_steps(dict(num_inference_steps=steps)) == warm_up
