"""Small checkpoints in the real file format, run by the launcher, against the sequential program and diffusers' own pipeline."""

import copy

import pytest
import torch
from diffusers import WanPipeline
from dualparal_testing import loras
from dualparal_testing.checkpoints import SCHEDULER, TRANSFORMERS, write_checkpoint
from dualparal_testing.commands import run
from dualparal_testing.sequential import sequential_latents
from safetensors.torch import save_file
from xfuser.model_executor.models.runner_models.wan import _DistilledWanScheduler

from xdualparal import initial_noise
from xdualparal.engine.noise import StepNoise
from xdualparal.models.fixed_steps import RenoisedStepsScheduler
from xdualparal.models.names import original_name
from xdualparal.output.latents_file import read_latents
from xdualparal.plan.actions import Pass

pytestmark = pytest.mark.processes
PROMPT, NEGATIVE, SEED, STEPS = "a red circle moves to the right", "a blue square", 7, 4
BLOCK, CONTEXT, SIZE = 4, 2, 32
FRAMES, ONE_BLOCK = 57, 21  # blocks of 6, 4, 4 and 1 latent frames; of 6
COMMON = ["--prompt", PROMPT, "--num_inference_steps", STEPS, "--seed", SEED,
          "--dualparal_block_latents", BLOCK, "--dualparal_context_latents", CONTEXT]
DEGREES = {"1 stage": ["--dualparal_degree", "1"], "2 stages": ["--dualparal_degree", "2"], "4 stages": ["--dualparal_degree", "4"],
           "2 stages, Ulysses 2": ["--dualparal_degree", "2", "--ulysses_degree", "2"]}
SCALES = {"Wan2.1-T2V-1.3B": (5.0,), "Wan2.1-T2V": (5.0,), "Wan2.2-T2V": (4.0, 3.0), "Wan2.2-TI2V": (5.0,)}  # the models' own
SIDES = {"Wan2.2-TI2V": 2 * SIZE}  # pixels, where a latent is 16 x 16 of them
SIZES = {"Wan2.1-T2V": dict(num_attention_heads=6, num_layers=6)}  # where not checkpoints.py's


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{model: the folder of a small checkpoint of it}."""
    place = tmp_path_factory.mktemp("models")
    return {model: write_checkpoint(place / model, model, **SIZES.get(model, {})) for model in TRANSFORMERS}


def launched(tmp_path, model, folder, num_frames, name, *flags, dtype="float32"):
    """The latents, (1, channels, latent frames, 4, 4), of a command with the degrees ``name``."""
    side = SIDES.get(model, SIZE)
    latents = tmp_path / f"{name}.latents"
    arguments = ["--model", model, "--model_path", folder, *COMMON, "--height", side, "--width", side, "--num_frames", num_frames, *DEGREES[name], *flags,
                 "--dualparal_latents_out", latents, "--output_directory", tmp_path / name]
    code, output = run(arguments, tmp_path / "log", dtype)
    assert code == 0, output
    return torch.cat([block for _, block in read_latents(latents)], dim=2)


def sequential(pipeline, scales, make_scheduler=None, num_steps=STEPS, **more):
    """The sequential program's latents of the same video. ``scales``: each expert's guidance. ``make_scheduler``: another one than
    the pipeline's. ``more``: of sequential_latents."""
    with torch.no_grad():
        texts = pipeline.encode_prompt(PROMPT, NEGATIVE, scales[0] > 1, max_sequence_length=512, device="cpu")
    latent_frames = 1 + -(-(FRAMES - 1) // 4)
    blocks = 1 + -(-(latent_frames - BLOCK - CONTEXT) // BLOCK)
    noise = initial_noise(blocks, BLOCK, CONTEXT, (pipeline.transformer.config.in_channels, 4, 4), torch.Generator().manual_seed(SEED), latent_frames)
    experts = [one for one in (pipeline.transformer, pipeline.transformer_2) if one is not None]
    boundary = pipeline.config.boundary_ratio and pipeline.config.boundary_ratio * 1000
    return sequential_latents(
        experts, make_scheduler or (lambda: type(pipeline.scheduler).from_config(pipeline.scheduler.config)), num_steps, noise,
        [one for one in texts if one is not None], scales if boundary else scales[0], BLOCK, CONTEXT, boundary=boundary, **more,
    )


def assert_close(latents, expected):
    """To 1e-5 of the largest number, as in test_pipeline.py. That is 4 here: the sequential program in float32 is 1.4e-5 off the one in
    float64, and Ulysses 2 is 1.06e-5 off it on an Intel Xeon, while 1, 2 and 4 stages are not off it at all."""
    torch.testing.assert_close(latents, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_the_launcher_is_the_sequential_program(tmp_path, folders, model):
    expected = sequential(WanPipeline.from_pretrained(folders[model]), SCALES[model])
    made = {name: launched(tmp_path, model, folders[model], FRAMES, name, "--negative_prompt", NEGATIVE) for name in DEGREES}
    for latents in made.values():
        assert_close(latents, expected)
    assert torch.equal(made["1 stage"], made["2 stages"]) and torch.equal(made["1 stage"], made["4 stages"])


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_one_block_is_the_ordinary_pipelines(tmp_path, folders, model):
    pipeline = WanPipeline.from_pretrained(folders[model])
    second = {} if len(SCALES[model]) == 1 else dict(guidance_scale_2=SCALES[model][1])
    expected = pipeline(
        PROMPT, NEGATIVE, SIDES.get(model, SIZE), SIDES.get(model, SIZE), ONE_BLOCK, STEPS, SCALES[model][0], **second, generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).frames
    made = launched(tmp_path, model, folders[model], ONE_BLOCK, "2 stages", "--negative_prompt", NEGATIVE)
    assert_close(made, expected)


def test_both_experts_are_used(folders):
    """Else the tests above would say nothing of them: each one's own guidance counts, and neither expert does for both."""
    pipeline = WanPipeline.from_pretrained(folders["Wan2.2-T2V"])
    right = sequential(pipeline, (4.0, 3.0))
    others = [sequential(pipeline, scales) for scales in ((4.0, 4.0), (3.0, 3.0))]
    experts = pipeline.transformer, pipeline.transformer_2
    for one in experts:
        pipeline.transformer, pipeline.transformer_2 = copy.deepcopy(one), copy.deepcopy(one)
        others.append(sequential(pipeline, (4.0, 3.0)))
    assert all((other - right).abs().max() > 1e-3 for other in others)


def test_in_the_models_own_bfloat16_the_bits_are_equal(tmp_path, folders):
    made = [launched(tmp_path, "Wan2.2-T2V", folders["Wan2.2-T2V"], FRAMES, name, dtype=None) for name in ("1 stage", "2 stages", "4 stages")]
    assert made[0].isfinite().all() and torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_distilled_experts_over_the_base_model(tmp_path, folders):
    """In LightX2V's own layout, at its fixed steps, without guidance."""
    other = WanPipeline.from_pretrained(write_checkpoint(tmp_path / "other", "Wan2.2-T2V", first_seed=5))
    flags = []
    for part in ("transformer", "transformer_2"):
        file = tmp_path / f"{part}.safetensors"
        save_file({original_name(name): one.clone() for name, one in getattr(other, part).state_dict().items()}, file)
        flags += [f"--distilled_{part}_path", file]
    expected = sequential(other, (1.0, 1.0), _DistilledWanScheduler, cached=True)  # as its default is
    for name in ("2 stages", "4 stages"):
        assert_close(launched(tmp_path, "Wan2.2-Distilled-T2V", folders["Wan2.2-T2V"], FRAMES, name, *flags), expected)


@pytest.mark.parametrize("few_steps", [False, True])
def test_a_lora_on_each_expert(tmp_path, folders, few_steps):
    """Fused as diffusers does, each into its own expert; also where four steps and no guidance are what they are for."""
    pipeline, files = WanPipeline.from_pretrained(folders["Wan2.2-T2V"]), []
    for seed, part in enumerate(("transformer", "transformer_2"), 11):
        files.append(loras.write(tmp_path / f"{part}.safetensors", loras.original_format(loras.pairs(getattr(pipeline, part), seed=seed))))
        pipeline.load_lora_weights(files[-1], adapter_name=part, load_into_transformer_2=part == "transformer_2")
    pipeline.fuse_lora(components=["transformer", "transformer_2"])
    pipeline.unload_lora_weights()
    scales = (1.0, 1.0) if few_steps else SCALES["Wan2.2-T2V"]
    flags = ["--guidance_scale", "1"] if few_steps else ["--negative_prompt", NEGATIVE]
    expected = sequential(pipeline, scales)
    made = launched(tmp_path, "Wan2.2-T2V", folders["Wan2.2-T2V"], FRAMES, "4 stages", *flags, "--lora", files[0], "--lora_2", files[1])
    assert_close(made, expected)
    assert (expected - sequential(WanPipeline.from_pretrained(folders["Wan2.2-T2V"]), scales)).abs().max() > 1e-2


@pytest.mark.parametrize("scheduler, flags, shift", [
    (dict(_class_name="FlowMatchEulerDiscreteScheduler", shift=5.0), [], 5.0), (SCHEDULER, ["--flow_shift", "8"], 8.0),
], ids=["Euler, as stored", "UniPC, --flow_shift"])
def test_few_steps_without_guidance(tmp_path, scheduler, flags, shift):
    folder = write_checkpoint(tmp_path / "model", "Wan2.2-T2V", scheduler)
    pipeline = WanPipeline.from_pretrained(folder)
    name = "shift" if "shift" in scheduler else "flow_shift"
    expected = sequential(pipeline, (1.0, 1.0), lambda: type(pipeline.scheduler).from_config(pipeline.scheduler.config, **{name: shift}))
    assert_close(launched(tmp_path, "Wan2.2-T2V", folder, FRAMES, "2 stages", "--guidance_scale", "1", *flags), expected)


def test_renoised_steps_are_the_sequential_programs(tmp_path, folders):
    """FastWan2.2-TI2V: three steps, each with new noise, which the seed decides, and cached context by default."""
    latents, folder, noise = tmp_path / "made.latents", folders["Wan2.2-TI2V"], StepNoise(torch.Generator().manual_seed(SEED))
    place = COMMON.index("--num_inference_steps")
    flags, side, made = COMMON[:place] + COMMON[place + 2:], SIDES["Wan2.2-TI2V"], []
    for name in ("1 stage", "2 stages, Ulysses 2"):
        code, output = run(["--model", "FastWan2.2-TI2V", "--model_path", folder, *flags, "--height", side, "--width", side, "--num_frames", FRAMES, *DEGREES[name],
                            "--dualparal_latents_out", latents, "--output_directory", tmp_path, "--dualparal_overwrite"], tmp_path / "log", "float32")
        assert code == 0, output
        made.append(torch.cat([block for _, block in read_latents(latents)], dim=2))
    expected = sequential(WanPipeline.from_pretrained(folder), (1.0,), RenoisedStepsScheduler, num_steps=3, cached=True,
                          step_generator=lambda block, step: noise.generator(Pass(0, block, step)))
    for one in made:
        assert_close(one, expected)
