"""Small SkyReels-V2-DF checkpoints in the real file format, run by the launcher, against the sequential program."""

import json

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, SkyReelsV2Transformer3DModel
from dualparal_testing.checkpoints import SCHEDULER, SKYREELS, SKYREELS_IMAGES, write_checkpoint
from dualparal_testing.commands import run
from dualparal_testing.pictures import encoded, picture
from dualparal_testing.sequential import sequential_latents
from dualparal_testing.small_skyreels import DiffusionForcing
from PIL import Image

from xdualparal import initial_noise
from xdualparal.engine.noise import StepNoise
from xdualparal.output.latents_file import read_latents
from xdualparal.plan.actions import Pass
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import dualparal_config, make_parser
from xdualparal.xdit.memory import sizes_of
from xdualparal.xdit.registry import DUALPARAL_MODELS

PROMPT, NEGATIVE, SEED, STEPS = "a red circle moves to the right", "a blue square", 7, 3
BLOCK, CONTEXT, SIZE, FRAMES = 4, 2, 32, 57  # blocks of 6, 4, 4 and 1 latent frames
COMMON = ["--prompt", PROMPT, "--negative_prompt", NEGATIVE, "--height", SIZE, "--width", SIZE, "--num_inference_steps", STEPS, "--seed", SEED,
          "--num_frames", FRAMES, "--dualparal_block_latents", BLOCK, "--dualparal_context_latents", CONTEXT]
RUNS = {
    "SkyReels-V2-DF-1.3B": {"2 stages": ["--dualparal_degree", "2"], "2 stages, Ulysses 2": ["--dualparal_degree", "2", "--ulysses_degree", "2"]},
    "SkyReels-V2-DF-14B": {"4 stages": ["--dualparal_degree", "4"]},
}


def sequential(pipeline, latent_frames=15, **other):
    """The sequential program's latents of the command, with the model's own guidance of 6. ``other``: arguments of it."""
    with torch.no_grad():
        texts = pipeline.encode_prompt(PROMPT, NEGATIVE, True, max_sequence_length=512, device="cpu")
    noise = initial_noise(4, BLOCK, CONTEXT, (16, 4, 4), torch.Generator().manual_seed(SEED), latent_frames)
    return sequential_latents(
        [DiffusionForcing(pipeline.transformer)], lambda: type(pipeline.scheduler).from_config(pipeline.scheduler.config), STEPS, noise,
        texts, 6.0, BLOCK, CONTEXT, true_timesteps=True, **other,
    )


def launched(tmp_path, folder, model, name, *flags):
    """The latents of a command."""
    latents = tmp_path / f"{name}.latents"
    code, output = run(
        ["--model", model, "--model_path", folder, *COMMON, *flags, "--dualparal_latents_out", latents, "--output_directory", tmp_path / name],
        tmp_path / "log", "float32",
    )
    assert code == 0, output
    return torch.cat([block for _, block in read_latents(latents)], dim=2)


def is_near(made, expected):
    torch.testing.assert_close(made, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.processes
@pytest.mark.parametrize("model", SKYREELS)
def test_the_launcher_is_the_sequential_program(tmp_path, model):
    folder = write_checkpoint(tmp_path / "model", model, SCHEDULER | dict(flow_shift=8.0))
    expected = sequential(SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder))
    for name, degrees in RUNS[model].items():
        is_near(launched(tmp_path, folder, model, name, *degrees), expected)
    [report] = (tmp_path / name).glob("*.json")
    spec = json.loads(report.read_text())["spec"]
    assert (spec["context_timestep"], spec["fps"], spec["flow_shift"]) == ("true", 24, 8.0)


def noise_of_context(block, step, count=CONTEXT):
    """What a finished context, or an image, gets at ``step``."""
    generator = StepNoise(torch.Generator().manual_seed(SEED), "context ").generator(Pass(0, block, step))
    return torch.randn(1, 16, count, 4, 4, generator=generator)


@pytest.mark.processes
def test_of_an_image_the_launcher_is_the_sequential_program(tmp_path):
    model = "SkyReels-V2-DF-1.3B"
    folder, path = write_checkpoint(tmp_path / "model", model), picture(tmp_path / "a.png", SIZE, SIZE)
    pipeline, flags = SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder), ["--input_images", path, "--task", "i2v"]
    image = encoded(pipeline, Image.open(path))
    is_near(launched(tmp_path, folder, model, "clean", *flags, "--dualparal_degree", "2"), sequential(pipeline, image=image))
    made = launched(tmp_path, folder, model, "noisy", *flags, "--dualparal_degree", "2", "--ulysses_degree", "2", "--dualparal_context_noise", "20")
    is_near(made, sequential(pipeline, image=image, context_noise=(20, noise_of_context)))
    is_near(made[:, :, :1], image)


@pytest.mark.processes
def test_going_on_the_launcher_is_the_sequential_program(tmp_path):
    """From latents, clean or with noise: not with the noise that they were made of, as Wan's."""
    model = "SkyReels-V2-DF-14B"
    folder = write_checkpoint(tmp_path / "model", model)
    pipeline = SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder)
    before = launched(tmp_path, folder, model, "before", "--dualparal_degree", "1")
    flags = ["--num_frames", 56, "--dualparal_continue", tmp_path / "before.latents", "--dualparal_degree", "2"]
    for noise in (0, 20):
        made = launched(tmp_path, folder, model, f"on {noise}", *flags, "--dualparal_context_noise", noise)
        given = before[:, :, -CONTEXT:]
        is_near(made, sequential(pipeline, 16, given=given, context_noise=(noise, noise_of_context)))


def args_of(model, *flags):
    """Parsed flags of a command for ``model``."""
    return vars(make_parser().parse_args(["--model", model, "--prompt", "a ship", "--dualparal_degree", "2", *flags]))


@pytest.mark.parametrize("model, flags, timestep", [
    ("SkyReels-V2-DF-14B", [], "true"), ("SkyReels-V2-DF-14B", ["--dualparal_context_timestep", "own"], "own"),
    ("SkyReels-V2-DF-1.3B", ["--dualparal_context", "cached"], "own"), ("SkyReels-V2-DF-1.3B", ["--dualparal_context_latents", "0"], "own"),
    ("Wan2.1-T2V-1.3B", [], "own"), ("Wan2.1-T2V-1.3B", ["--dualparal_context_timestep", "true"], "true"),
])
def test_a_models_own_timestep_of_the_context(model, flags, timestep):
    assert dualparal_config(args_of(model, *flags), DUALPARAL_MODELS[model]).context_timestep == timestep


def test_noise_in_the_context_is_for_models_that_know_it():
    flags = "--dualparal_context_noise", "20"
    assert dualparal_config(args_of("SkyReels-V2-DF-14B", *flags), DUALPARAL_MODELS["SkyReels-V2-DF-14B"]).context_noise == 20
    with pytest.raises(ValueError, match="context_noise is 20 and Wan2.1 text-to-video was not trained on .*: leave it out, or give context_timestep true"):
        dualparal_config(args_of("Wan2.1-T2V-1.3B", *flags), DUALPARAL_MODELS["Wan2.1-T2V-1.3B"])


@pytest.mark.parametrize("model", [name for name in DUALPARAL_MODELS if "SkyReels" in name])
def test_the_models_defaults(model):
    kind = DUALPARAL_MODELS[model]
    values, is_720 = kind.default_input_values, "720P" in model
    assert (values.height, values.width, values.num_frames) == ((720, 1280, 121) if is_720 else (544, 960, 97))
    assert (values.guidance_scale, values.flow_shift) == ((5.0, 5) if "I2V" in model else (6.0, 8))
    assert (values.num_inference_steps, kind.settings.fps) == (30, 24)
    assert [one in kind.settings.model_name for one in ("DF", "I2V")] == [one in model for one in ("DF", "I2V")]
    assert ("14B" in model) == ("14B" in kind.settings.model_name) and is_720 == ("720P" in kind.settings.model_name)


@pytest.mark.parametrize("model", [name for name in DUALPARAL_MODELS if "SkyReels" in name])
def test_the_models_clips_are_as_long_as_its_default(model):
    """Which is what it was trained on: a longer pass is warned of."""
    facts, frames = DUALPARAL_MODELS[model].facts(), DUALPARAL_MODELS[model].default_input_values.num_frames
    assert facts.trained_latents == facts.latent_frames(frames) == (31 if "720P" in model else 25)


@pytest.mark.processes
@pytest.mark.parametrize("model, trained", [("SkyReels-V2-DF-14B", 25), ("SkyReels-V2-DF-14B-720P", 31)])
def test_a_pass_that_is_longer_than_its_clips_is_warned_of(tmp_path, model, trained):
    folder = write_checkpoint(tmp_path / "model", "SkyReels-V2-DF-14B")
    for seen, is_warned in ((trained, False), (trained + 1, True)):
        code, output = run(
            ["--model", model, "--model_path", folder, *COMMON, "--num_frames", 4 * seen - 3, "--num_inference_steps", 1, "--dualparal_degree", 1,
             "--dualparal_strategy", "full", "--dualparal_block_latents", 8, "--dualparal_context_latents", 4, "--dualparal_output", tmp_path / f"{seen}.mp4"],
            tmp_path / "log", "float32",
        )
        assert code == 0, output
        assert (f"a pass sees {seen} latent frames and the model was trained on {trained}" in output) == is_warned


@pytest.mark.parametrize("model", [*SKYREELS, *SKYREELS_IMAGES])
def test_full_sizes_in_memory_are_those_of_the_published_configuration(model):
    """Of a transformer that is whole on the meta device, in bfloat16 but for what diffusers keeps in float32."""
    [config] = (SKYREELS | SKYREELS_IMAGES)[model].values()
    with torch.device("meta"):
        whole = SkyReelsV2Transformer3DModel.from_config(config)
    in_float32 = set(whole._keep_in_fp32_modules)
    expected = sum(one.numel() * (4 if in_float32 & set(name.split(".")) else 2) for name, one in whole.named_parameters())
    numbers = sizes_of(args_of(model), DUALPARAL_MODELS[model])
    assert (numbers.layers, numbers.heads) == (config["num_layers"], config["num_attention_heads"])
    assert numbers.layers * numbers.layer_bytes + numbers.shared_bytes + numbers.embedding_bytes + numbers.head_bytes == expected


def test_a_folder_of_another_family_is_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "model", "SkyReels-V2-DF-1.3B")
    with pytest.raises(ValueError, match="holds SkyReels-V2 diffusion forcing.*: give --model SkyReels-V2-DF-1.3B or SkyReels-V2-DF-14B or"):
        check_command(args_of("Wan2.1-T2V-1.3B", "--model_path", str(folder)), 2)
