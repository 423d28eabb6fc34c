"""The executor against the sequential program and against diffusers' own pipeline, in real processes over gloo."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import ANCHORED, BFLOAT16, CACHED, CASES, CONDITIONED, CONTINUED, EXPERTS, OFFLOADED, ON_HOST, SEED, SIZE, TRUE_TIMESTEPS, WITH_IMAGE, Case, engine_config, latents_of_cases
from dualparal_testing.small_wan import small_pipeline, texts

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.models.wan_vae import unnormalised

pytestmark = pytest.mark.processes
BAR = 1e-5  # relative, float32; the issue's
PLAIN = next(case for case in CASES if case.name == "more blocks than steps")


@pytest.fixture(scope="module")
def latents():
    """By number of stages, the executor's latents of every case, from the last rank."""
    by_stages = {}
    for stages in (1, 2, 4):
        *others, last = run_ranks(latents_of_cases, stages, stages, [*CASES, *OFFLOADED, *ON_HOST, *BFLOAT16])
        assert all(value is None for other in others for value in other.values())
        by_stages[stages] = last
    return by_stages


def difference(a, b):
    """The largest difference relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_executor_is_the_sequential_program(latents, stages, case):
    assert difference(latents[stages][case.name], case.sequential().numpy()) <= BAR


@pytest.mark.parametrize("case", [*CASES, *BFLOAT16], ids=lambda case: case.name)
def test_number_of_stages_does_not_change_a_bit(latents, case):
    for stages in (2, 4):
        assert np.array_equal(latents[stages][case.name], latents[1][case.name])


@pytest.mark.parametrize("case", BFLOAT16, ids=lambda case: case.name)
def test_bfloat16_is_near_the_sequential_program(latents, case):
    """That computes in float32; bfloat16 has 8 bits, and a wrong rule or memory that nobody wrote gives differences of about 1."""
    assert difference(latents[2][case.name], case.sequential().numpy()) < 0.1


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_experts_that_change_places_change_no_bit(latents, stages):
    for case, offloaded in zip(EXPERTS, OFFLOADED):
        assert np.array_equal(latents[stages][offloaded.name], latents[1][case.name])


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_kept_context_that_waits_on_the_host_changes_no_bit(latents, stages):
    for case, on_host in zip([*CACHED, ANCHORED[0]], ON_HOST, strict=True):
        assert np.array_equal(latents[stages][on_host.name], latents[1][case.name])


@pytest.mark.parametrize("case, broken", [
    (PLAIN, dict(next_context=False)), (PLAIN, dict(previous_context_after=False)), (EXPERTS[0], dict(crossing=True)), (TRUE_TIMESTEPS[0], dict(true_timesteps=False)),
    (CACHED[0], dict(of_step=1)), (CACHED[0], dict(next_context=False)), (CACHED[0], dict(cached=False)), (CACHED[-1], dict(in_float8=False)),
    (CONTINUED[0], dict(given=-CONTINUED[0].given()[:, :, -2:])), (CONTINUED[0], dict(given_noise=1.0)), (CONTINUED[3], dict(its_noise=None)),
    (ANCHORED[0], dict(anchors=0)), (ANCHORED[0], dict(anchors_moved=False)), (ANCHORED[2], dict(in_float8=False)), (CONDITIONED[0], dict(condition=torch.zeros(1, 20, 31, 4, 4))),
    (CONDITIONED[3], dict(image_embeds=torch.zeros(1, 5, 24))), (WITH_IMAGE[0], dict(image=None)), (WITH_IMAGE[0], dict(image_timestep=500)),
    (replace(EXPERTS[0], guidance_scale_2=5.0), {}), (replace(EXPERTS[0], boundary_ratio=0.7), {}),
])
def test_the_bar_would_see_a_broken_rule(case, broken):
    right = EXPERTS[0] if case.boundary_ratio else case
    assert difference(case.sequential(**broken).numpy(), right.sequential().numpy()) > 100 * BAR


ONE_BLOCK = [(45, 8, 4), (33, 8, 4), (1, 8, 4), (81, 13, 8)]  # frames, B, C


def one_block(rank):
    """[(ours, diffusers') frames] of videos that fit in block 0, of two prompts with one seed."""
    pairs, engine = [], engine_config()
    for frames, block, context in ONE_BLOCK:
        case = Case("one block", num_frames=frames, num_steps=3, block=block, context=context)
        pairs.append(_ours_and_ordinary(engine, case))
    case = Case("two experts", num_frames=33, num_steps=4, block=8, context=4, boundary_ratio=0.9, guidance_scale_2=2.0)
    return [*pairs, _ours_and_ordinary(engine, case)]


def _ours_and_ordinary(engine, case):
    arguments = case.arguments() | {"output_type": "np"}
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        arguments[name] = arguments[name].repeat(2, 1, 1)
    ordinary = small_pipeline(boundary_ratio=case.boundary_ratio)(**arguments).frames
    ours = DualParalPipeline(small_pipeline(boundary_ratio=case.boundary_ratio), engine, case.config())
    return ours(**arguments | {"generator": torch.Generator().manual_seed(SEED)}).frames, ordinary


def test_one_block_is_the_ordinary_pipeline_with_the_same_seed():
    [pairs] = run_ranks(one_block, 1)
    for frames, (ours, ordinary) in zip([*(frames for frames, *_ in ONE_BLOCK), 33], pairs, strict=True):
        assert ours.shape == ordinary.shape == (2, frames, SIZE, SIZE, 3)
        assert difference(ours, ordinary) <= BAR


def outputs_of_all_kinds(rank, stages):
    """What a call and a stream give, in every output type, for two prompts and for one."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(stages), DualParalConfig(4, 2))
    case = Case("", num_frames=50, num_steps=2).arguments()
    two = case | {name: case[name].repeat(2, 1, 1) for name in ("prompt_embeds", "negative_prompt_embeds")}
    seen = {}
    for kind in ("np", "uint8", "pt", "pil", "latent"):
        output = pipeline(**two | {"output_type": kind, "generator": torch.Generator().manual_seed(SEED)})
        seen[kind] = None if output is None else _as_array(output.frames)
    output = pipeline(**two | {"output_type": "np", "generator": torch.Generator().manual_seed(SEED)}, return_dict=False)
    seen["tuple"] = output and (type(output), len(output), output[0])
    stream = pipeline.stream(**case | {"output_type": "np", "generator": torch.Generator().manual_seed(SEED)})
    seen["stream"] = [segment.shape for segment in stream]
    return seen


def _as_array(frames):
    if isinstance(frames, list):
        return np.array([[np.asarray(image) for image in video] for video in frames])
    return np.asarray(frames)


def test_output_types_and_stream():
    first, last = run_ranks(outputs_of_all_kinds, 2, 2)
    assert first == {"np": None, "uint8": None, "pt": None, "pil": None, "latent": None, "tuple": None, "stream": []}
    kind, length, frames = last["tuple"]
    assert (kind, length) == (tuple, 1) and np.array_equal(frames, last["np"])
    # 50 frames need 14 latent frames: blocks of 6, 4 and 4 latent frames, 21, 16 and 13 (of 16) frames
    assert last["np"].shape == last["pil"].shape == (2, 50, SIZE, SIZE, 3)
    assert last["pt"].shape == (2, 50, 3, SIZE, SIZE)
    assert last["latent"].shape == (2, 16, 14, 4, 4)
    assert last["stream"] == [(21, SIZE, SIZE, 3), (16, SIZE, SIZE, 3), (13, SIZE, SIZE, 3)]
    assert last["uint8"].dtype == np.uint8 and np.array_equal(last["uint8"], (last["np"] * 255).round())
    assert np.array_equal(last["np"], last["pt"].transpose(0, 1, 3, 4, 2))
    assert not np.array_equal(last["np"][0], last["np"][1])  # each video has its own noise


def refusals(rank):
    """The messages of calls that cannot work."""
    engine = engine_config()
    pipeline = DualParalPipeline(small_pipeline(), engine)
    positive, negative = texts()
    good = dict(prompt_embeds=positive, negative_prompt_embeds=negative, height=SIZE, width=SIZE, num_frames=9)
    bad = [dict(num_frames=-1), dict(num_frames=0), dict(height=40), dict(num_inference_steps=0), dict(output_type="gif"), dict(guidance_scale_2=3.0),
           dict(negative_prompt_embeds=None), dict(prompt_embeds=None)]
    calls = [lambda bad=bad: pipeline(**good | bad) for bad in bad]
    calls += [lambda: pipeline.stream(**good | dict(prompt_embeds=positive.repeat(2, 1, 1))),
              lambda: DualParalPipeline(small_pipeline(boundary_ratio=0.9), engine)(**good | dict(guidance_scale=1, guidance_scale_2=3)),
              lambda: DualParalPipeline(small_pipeline(), engine, DualParalConfig(expert_offload=True)),
              lambda: DualParalPipeline("not a pipeline", engine)]
    messages = []
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        messages.append(str(caught.value))
    return messages


def test_refusals_say_what_to_do():
    [messages] = run_ranks(refusals, 1)
    parts = ["num_frames is -1", "without end: its frames must be kept", "40", "num_inference_steps is 0", "np, uint8, pil, pt, latent", "this one has one: give guidance_scale", "guidance_scale 1",
             "prompt", "a stream is one video", "guidance_scale_2 is 3 and guidance_scale is 1, which is without", "expert_offload is for models with two transformers", "WanPipeline"]
    for part, message in zip(parts, messages, strict=True):
        assert part in message and "\n" not in message


def broken_pipelines(rank, stages):
    """(kind and message of each error) of weights, embeddings and a VAE that make a NaN or an infinity."""
    engine, seen = engine_config(stages), []
    for part, name in ("transformer", "blocks.0.attn2.to_q.weight"), ("transformer", "patch_embedding.bias"), ("vae", "decoder.conv_out.bias"):
        wan = small_pipeline()
        getattr(wan, part).get_parameter(name).data.view(-1)[-1] = float("-inf")
        seen.append(error_of(lambda wan=wan: DualParalPipeline(wan, engine)))
    wan, arguments = small_pipeline(), Case("", num_frames=50, num_steps=2).arguments()
    pipeline = DualParalPipeline(wan, engine, DualParalConfig(4, 2))
    for name in "prompt_embeds", "negative_prompt_embeds":
        seen.append(error_of(lambda name=name: pipeline(**arguments | {name: arguments[name] * float("nan")})))
    wan.vae.decoder.conv_out.weight.data.fill_(3e38)  # finite, and too large
    seen.append(error_of(lambda: pipeline(**arguments | {"output_type": "np"})))
    return seen


def error_of(function):
    """(the kind of error, its text) that ``function`` ends with; None when with none."""
    try:
        function()
    except (ValueError, FloatingPointError, RuntimeError) as error:  # the last: on the ranks that lose the failed one
        return type(error).__name__, str(error)
    return None


@pytest.mark.parametrize("stages", [1, 2])
def test_what_is_not_finite_stops_the_run_and_is_named(stages):
    *others, last = run_ranks(broken_pipelines, stages, stages)
    parts = ["weight blocks.0.attn2.to_q.weight of the transformer", "weight patch_embedding.bias of the transformer",
             "weight decoder.conv_out.bias of the vae", "prompt_embeds", "negative_prompt_embeds"]
    for rank in (*others, last):  # a weight that one rank has stops all
        for part, (kind, message) in zip(parts, rank):
            assert kind == "ValueError" and part in message and "\n" not in message
    assert last[5][0] == "FloatingPointError" and "block 0 cannot be decoded: the VAE made frames with a NaN" in last[5][1]


def frames_with_vae(rank, kind):
    """(frames, latents) on two stages with the VAE changed as xDiT's flags do."""
    wan, case = small_pipeline(), Case("", num_frames=50, num_steps=2)
    config = engine_config(2, use_parallel_vae=kind == "parallel")
    pipeline = DualParalPipeline(wan, config, case.config())
    change_vae(wan.vae, kind)
    outputs = [pipeline(**case.arguments() | {"output_type": output}) for output in ("np", "latent")]
    at_once = pipeline.run_spec(**case.arguments()).one_segment
    return [at_once, *(None if output is None else np.asarray(output.frames) for output in outputs)]


def change_vae(vae, kind):
    """What --enable_tiling, --enable_slicing and --use_parallel_vae do (xfuser's vae_manager.py)."""
    if kind == "tiling":
        vae.enable_tiling(16, 16, 12, 12)
    elif kind == "slicing":
        vae.enable_slicing()
    elif kind == "parallel":
        from distvae.vae import parallel
        from xfuser.core.distributed.parallel_state import get_vae_parallel_group

        parallel.parallelize_decoder(vae, get_vae_parallel_group().device_group)


@pytest.mark.parametrize("kind", ["tiling", "slicing", "parallel"])
def test_vae_options(kind):
    first, (at_once, frames, latents) = run_ranks(frames_with_vae, 2, kind)
    assert first == [at_once, None, None] and at_once == (True if kind == "parallel" else None)
    wan = small_pipeline()
    if kind != "parallel":
        change_vae(wan.vae, kind)
    with torch.no_grad():
        video = wan.vae.decode(unnormalised(wan.vae, torch.from_numpy(latents)), return_dict=False)[0][:, :, :50]
    expected = wan.video_processor.postprocess_video(video, output_type="np")
    assert frames.shape == expected.shape == (1, 50, SIZE, SIZE, 3)
    assert np.abs(frames - expected).max() < 1e-5


def frames_by_vae_precision(rank):
    """{precision: (frames, what the RunSpec says)} of the same video."""
    made, case = {}, Case("", num_frames=50, num_steps=2).arguments() | {"output_type": "np"}
    for precision in (None, "float32", "bfloat16", "float16"):
        pipeline = DualParalPipeline(small_pipeline(), engine_config(1), DualParalConfig(4, 2, vae_precision=precision))
        generators = [torch.Generator().manual_seed(SEED) for _ in range(2)]
        spec = pipeline.run_spec(**case | {"generator": generators[0]})
        made[precision] = pipeline(**case | {"generator": generators[1]}).frames, spec.vae_precision
    return made


def test_the_vaes_precision():
    """By default as it was loaded. Rounding to 8 and 11 bits moves the frames, in 0..1, by no more than some of them."""
    [made] = run_ranks(frames_by_vae_precision, 1)
    frames = {precision: one for precision, (one, _) in made.items()}
    assert [said for _, said in made.values()] == ["float32", "float32", "bfloat16", "float16"]
    assert np.array_equal(frames[None], frames["float32"])
    errors = [np.abs(frames[one] - frames["float32"]).max() for one in ("float16", "bfloat16")]
    assert 0 < errors[0] < errors[1] < 0.1
