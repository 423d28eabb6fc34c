"""SkyReels-V2-DF against the sequential program and against diffusers' own diffusion forcing pipeline, in real processes over gloo."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SEED, SIZE, engine_config, latents_of_cases, left_after_one
from dualparal_testing.small_skyreels import DFCase, small_df_pipeline

from xdualparal import DualParalPipeline, initial_noise

pytestmark = pytest.mark.processes
BAR = 1e-5  # relative, float32; the issue's
PLAIN = DFCase("more blocks than steps", num_frames=120, num_steps=3)
NOISY_CONTEXT = DFCase("noise in a finished context", num_frames=77, num_steps=4, stagger=2, context_noise=40)
CASES = [
    PLAIN,
    DFCase("14B's: no frames a second", num_frames=57, num_steps=4, has_rate=False),
    DFCase("stagger 2, short last block, dpm++", num_frames=61, num_steps=6, context=3, stagger=2, scheduler="dpm++"),
    DFCase("the window's timestep", num_frames=77, num_steps=4, context_timestep="own"),
    NOISY_CONTEXT,
    DFCase("cached context", num_frames=77, num_steps=4, cached=True),
    DFCase("no context, no guidance", num_frames=57, num_steps=3, context=0, guidance_scale=1.0),
    DFCase("goes on from a video, with an anchor", num_frames=60, num_steps=3, continued=3, anchors=1),
    DFCase("goes on from a video, noise in its frames, stagger 2", num_frames=60, num_steps=4, stagger=2, continued=2, context_noise=40),
    DFCase("goes on from a video, cached context", num_frames=60, num_steps=4, continued=2, cached=True),
    DFCase("an image", num_frames=77, num_steps=4, has_image=True),
    DFCase("an image with noise, an anchor", num_frames=77, num_steps=3, has_image=True, context_noise=30, anchors=1),
    DFCase("an image, cached context", num_frames=57, num_steps=4, has_image=True, cached=True),
]
BFLOAT16 = DFCase("bfloat16", num_frames=77, num_steps=3, dtype=torch.bfloat16)
DEGREES = {
    "1 stage": {}, "2 stages": dict(stages=2), "4 stages": dict(stages=4), "2 stages, Ulysses 2": dict(stages=2, ulysses_degree=2),
    "2 stages, ring 2": dict(stages=2, ring_degree=2, attention_backend="SDPA_FLASH"), "2 stages, CFG 2": dict(stages=2, use_cfg_parallel=True),
}

def cases_of(name):
    """The cases for the degrees ``name``: all for stages alone."""
    return [PLAIN, *(case for case in CASES if case.cached or case.context_noise or case.has_image or case.continued)] if "," in name else CASES


@pytest.fixture(scope="module")
def latents():
    """By the name of the degrees, the executor's latents of the cases, from the last rank."""
    found = {}
    for name, degrees in DEGREES.items():
        stages = degrees.get("stages", 1)
        others = {key: value for key, value in degrees.items() if key != "stages"}
        count = stages * (2 if others else 1)
        *_, found[name] = run_ranks(latents_of_cases, count, stages, [*cases_of(name), BFLOAT16], **others)
    return found


def difference(a, b):
    """The largest difference relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("name", DEGREES)
def test_every_degree_is_the_sequential_program(latents, name):
    for case in cases_of(name):
        assert difference(latents[name][case.name], case.sequential().numpy()) <= BAR, case.name


def test_stages_and_guidance_ranks_change_no_bit(latents):
    for case in [*CASES, BFLOAT16]:
        for name in ("2 stages", "4 stages"):
            assert np.array_equal(latents[name][case.name], latents["1 stage"][case.name]), case.name
    for case in [*cases_of("2 stages, CFG 2"), BFLOAT16]:
        assert np.array_equal(latents["2 stages, CFG 2"][case.name], latents["1 stage"][case.name]), case.name


def test_the_bar_would_see_a_broken_rule():
    right = PLAIN.sequential().numpy()
    broken = [PLAIN.sequential(true_timesteps=False), PLAIN.sequential(next_context=False), replace(PLAIN, has_rate=False).sequential()]
    assert all(difference(one.numpy(), right) > 100 * BAR for one in broken)
    for case in (case for case in CASES if case.has_image):
        broken = case.sequential(image=None), case.sequential(image_timestep=case.context_noise + 300)
        assert all(difference(one.numpy(), case.sequential().numpy()) > 100 * BAR for one in broken)
    for case in (case for case in CASES if case.continued and not case.cached):
        broken = case.sequential(given_clean=False), case.sequential(image_timestep=case.context_noise + 300), case.sequential(given=-case.given()[:, :, -2:])
        assert all(difference(one.numpy(), case.sequential().numpy()) > 100 * BAR for one in broken)
    noisy = NOISY_CONTEXT
    other_noise = noisy.context_noise, lambda block, step: noisy.noise_of_context(block, step + 1)
    broken = [noisy.sequential(context_noise=other) for other in ((0, None), (50, noisy.noise_of_context), other_noise)]
    assert all(difference(one.numpy(), noisy.sequential().numpy()) > 100 * BAR for one in broken)


def left_and_resumed(rank, folder):
    """(a video with noise in its context and its image, the same made by a run that is left after the first block and by one that goes on)."""
    case, engine = replace(NOISY_CONTEXT, has_image=True), engine_config()
    whole = DualParalPipeline(case.pipeline(), engine, case.config())(**case.arguments()).frames.numpy()
    pipeline = DualParalPipeline(case.pipeline(), engine, replace(case.config(), checkpoint=folder, checkpoint_waves=1))
    parts, kept = left_after_one(pipeline, case.arguments)
    return whole, torch.cat(parts, dim=2).numpy(), kept


def test_a_video_with_noise_in_its_context_is_resumed_to_the_same_bits(tmp_path):
    [(whole, made, kept)] = run_ranks(left_and_resumed, 1, str(tmp_path / "checkpoint"))
    assert kept == 1 and np.array_equal(whole, made)


# diffusers' own pipeline.

ONE_BLOCK = DFCase("one block", num_frames=21, num_steps=4)
OF_DPM = replace(ONE_BLOCK, name="one block, DPM++", scheduler="dpm++")
STEPS, STAGGER, BLOCK = 6, 2, 3
CAUSAL = DFCase("causal", num_frames=21, num_steps=STEPS, block=BLOCK, context=0, stagger=STAGGER)  # two blocks of 3 latent frames
CLIPS = DFCase("clips", num_frames=53, num_steps=STEPS, block=4, context=2, stagger=STEPS)  # of 6, 4 and 4 latent frames
NOISY = replace(CLIPS, context_noise=20)
SHORT_END = replace(CLIPS, num_frames=45, context=1)  # of 5, 4 and 3
OF_IMAGE = replace(ONE_BLOCK, name="one block of an image", has_picture=True)
ON = replace(CLIPS, name="goes on", num_frames=16, has_video=True)  # of 2 given latent frames and 4
NOISY_ON = replace(ON, name="goes on, noisy", context_noise=30)
CLIPS_ON = replace(NOISY_ON, name="goes on in clips", num_frames=48)  # of 6, 4 and 4, of which 2 are given
NOISY_IMAGE = replace(OF_IMAGE, name="one block of a noisy image", context_noise=30)
IMAGE_CLIPS = replace(NOISY, name="clips of a noisy image", has_picture=True)


def ours(rank, cases):
    """The latents of ``cases``."""
    engine = engine_config()
    return [DualParalPipeline(case.pipeline(), engine, case.config())(**case.arguments()).frames.numpy() for case in cases]


@pytest.fixture(scope="module")
def own():
    """Our latents, by the case's name."""
    cases = [ONE_BLOCK, OF_DPM, CAUSAL, CLIPS, replace(SHORT_END, name="short end"), replace(NOISY, name="noisy"), OF_IMAGE, NOISY_IMAGE, IMAGE_CLIPS, ON, NOISY_ON, CLIPS_ON]
    [found] = run_ranks(ours, 1, cases)
    return {case.name: latents for case, latents in zip(cases, found)}


class RememberingUniPC(UniPCMultistepScheduler):
    """UniPC that keeps what it was given: diffusers' pipeline gives it views of its latents, and then changes these, so that the corrector of
    the second step starts from what the first one made."""

    def step(self, model_output, timestep, sample, return_dict=True):
        """As UniPC's."""
        return super().step(model_output, timestep, sample.clone(), return_dict)


def diffusers_pipeline(case):
    """A small pipeline of diffusers for ``case``; its UniPC remembers right."""
    pipeline, scheduler = case.pipeline(), case.scheduler
    if scheduler == "unipc":
        pipeline.scheduler = RememberingUniPC.from_config(pipeline.scheduler.config)
    return pipeline


@pytest.mark.parametrize("case", [ONE_BLOCK, OF_DPM, OF_IMAGE, NOISY_IMAGE], ids=["UniPC", "DPM++", "an image", "a noisy image"])
def test_one_block_is_diffusers_pipeline(own, monkeypatch, case):
    draw_as_ours(monkeypatch, case, blocks=1)
    expected = diffusers_pipeline(case)(**case.ordinary_arguments(), addnoise_condition=case.context_noise).frames.numpy()
    assert expected.shape == own[case.name].shape == (1, 16, 6, SIZE // 8, SIZE // 8)
    assert difference(own[case.name], expected) <= BAR


def draw_as_ours(monkeypatch, case, blocks):
    """diffusers draws the noise of ``addnoise_condition`` from no generator of the caller's."""
    given = {block: case.context for block in range(1, blocks)} | ({0: 1} if case.has_picture else {0: case.context} if case.has_video else {})
    drawn = (case.noise_of_context(block, step, count) for block, count in sorted(given.items()) for step in range(case.num_steps))
    monkeypatch.setattr(torch, "randn_like", lambda latents: next(drawn))


def test_diffusers_unipc_still_forgets(own):
    """If not, RememberingUniPC goes, and what models/skyreels.py says of it."""
    assert difference(own["one block"], small_df_pipeline()(**ONE_BLOCK.ordinary_arguments()).frames.numpy()) > 100 * BAR


def test_defaults_are_diffusers_pipelines():
    [spec] = run_ranks(spec_by_default, 1)
    assert (spec.height, spec.width, spec.num_frames, spec.num_inference_steps, spec.guidance_scale) == (544, 960, 97, 50, 6.0)
    assert spec.context_timestep == "true"


def spec_by_default(rank):
    """The RunSpec of a call that says nothing of length, size, steps and guidance."""
    pipeline, arguments = DualParalPipeline(small_df_pipeline(), engine_config()), PLAIN.arguments()
    return pipeline.run_spec(**{name: arguments[name] for name in ("prompt_embeds", "negative_prompt_embeds")})


def blocks_noise(case, latent_frames, blocks):
    """The noise that a video of ``case`` starts from, block by block."""
    generator = torch.Generator().manual_seed(SEED)
    return initial_noise(blocks, case.block, case.context, (16, SIZE // 8, SIZE // 8), generator, latent_frames)


def test_the_first_of_two_causal_blocks_is_that_of_diffusers_asynchronous_mode(own):
    """Both are alone with their past, which is nothing. The second one differs: it sees the first one there, and no context here."""
    noise = torch.cat(blocks_noise(CAUSAL, 2 * BLOCK, 2), dim=2)
    arguments = CAUSAL.ordinary_arguments() | dict(ar_step=STAGGER, causal_block_size=BLOCK)
    expected = from_noise(CAUSAL, [noise])(**arguments).frames.numpy()
    assert difference(own["causal"][:, :, :BLOCK], expected[:, :, :BLOCK]) <= BAR
    assert difference(own["causal"][:, :, BLOCK:], expected[:, :, BLOCK:]) > 100 * BAR


def from_noise(case, noises):
    """A small pipeline of diffusers whose clips start from ``noises``: of what each has more than the one before, (1, 16, frames, 4, 4)."""
    pipeline = diffusers_pipeline(case)
    prepare, noises = pipeline.prepare_latents, iter(noises)

    def prepare_latents(*args, **options):
        latents, frames, prefix, prefix_frames = prepare(*args, **options)
        started = torch.cat([latents[:, :, :prefix_frames], next(noises)], dim=2)[:, :, -frames:]
        return started, frames, prefix, prefix_frames

    pipeline.prepare_latents = prepare_latents
    return pipeline


@pytest.mark.parametrize("case, name", [(CLIPS, "clips"), (SHORT_END, "short end"), (NOISY, "noisy"), (IMAGE_CLIPS, IMAGE_CLIPS.name)],
                         ids=["whole clips", "a short last clip", "with noise", "of a noisy image"])
def test_a_stagger_of_all_steps_is_diffusers_long_video(own, monkeypatch, case, name):
    """A clip there, of base_num_frames with overlap_history of them from the one before, is a window here."""
    latent_frames = 1 + (case.num_frames - 1) // 4
    noise = blocks_noise(case, latent_frames, 3)
    arguments = case.ordinary_arguments() | dict(
        base_num_frames=1 + 4 * (case.block + case.context - 1), overlap_history=1 + 4 * (case.context - 1),
        addnoise_condition=case.context_noise,
    )
    draw_as_ours(monkeypatch, case, blocks=3)
    expected = from_noise(case, noise)(**arguments).frames.numpy()
    assert expected.shape == own[name].shape == (1, 16, latent_frames, SIZE // 8, SIZE // 8)
    assert difference(own[name], expected) <= BAR


@pytest.mark.parametrize("case", [ON, NOISY_ON, CLIPS_ON], ids=["one window", "with noise", "clips"])
def test_going_on_from_a_video_is_diffusers_video_to_video(own, monkeypatch, case):
    """Which encodes overlap_history frames, counts them in num_frames and, unlike ours, gives them back."""
    latent_frames, overlap = case.context + case.num_frames // 4, 1 + 4 * (case.context - 1)
    noise = blocks_noise(case, latent_frames, 3 if case is CLIPS_ON else 1)
    arguments = case.ordinary_arguments() | dict(
        num_frames=4 * latent_frames - 3, base_num_frames=1 + 4 * (case.block + case.context - 1), overlap_history=overlap,
        addnoise_condition=case.context_noise,
    )
    draw_as_ours(monkeypatch, case, blocks=len(noise))
    expected = from_noise(case, noise)(**arguments).frames.numpy()
    assert own[case.name].shape == (1, 16, case.num_frames // 4, SIZE // 8, SIZE // 8)
    assert difference(own[case.name], expected[:, :, case.context:]) <= BAR
