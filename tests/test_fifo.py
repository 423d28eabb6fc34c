"""FIFO-Diffusion by real processes over gloo against a sequential program of its definition (dualparal_testing/sequential_fifo.py)."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import SEED, SIZE, engine_config
from dualparal_testing.sequential_fifo import fifo_latents
from dualparal_testing.small_wan import SCHEDULERS, STOCHASTIC, small_pipeline, small_transformer, texts

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.engine.noise import StepNoise, noise_blocks
from xdualparal.plan.actions import Pass
from xdualparal.plan.layout import Layout
from xdualparal.strategies.fifo import FifoPlan

BAR = 1e-5  # relative, float32; the issue's


@dataclass(frozen=True)
class Case:
    """A video for the engine and for the sequential program."""

    name: str
    num_frames: int = 41
    num_steps: int = 6
    window: int = 4
    lookahead: int = 2
    guidance_scale: float = 5.0
    scheduler: str = "unipc"

    def config(self):
        """The DualParalConfig of the case."""
        return DualParalConfig(strategy="fifo", fifo_window_latents=self.window, fifo_lookahead_latents=self.lookahead)

    def arguments(self, **changed):
        """The arguments of a pipeline call."""
        positive, negative = texts()
        return dict(
            prompt_embeds=positive, negative_prompt_embeds=negative, height=SIZE, width=SIZE, num_frames=self.num_frames,
            num_inference_steps=self.num_steps, guidance_scale=self.guidance_scale, generator=torch.Generator().manual_seed(SEED),
            output_type="latent",
        ) | changed

    def sequential(self, **broken):
        """The sequential program's latents."""
        layout = Layout(self.window, 0, 1 + -(-(self.num_frames - 1) // 4))
        noise = torch.cat(list(noise_blocks(layout, (16, 4, 4), torch.Generator().manual_seed(SEED), fresh=1.0)), dim=2)
        settings = dict(num_steps=self.num_steps, window=self.window, lookahead=self.lookahead) | broken
        if self.scheduler in STOCHASTIC:
            step_noise = StepNoise(torch.Generator().manual_seed(SEED))
            settings["step_noise"] = lambda frame, step: step_noise.generator(Pass(0, frame, step))
        return fifo_latents(
            small_transformer(), (SCHEDULERS | STOCHASTIC)[self.scheduler], noise=noise, texts=texts() if self.guidance_scale > 1 else texts()[:1],
            guidance_scale=self.guidance_scale, **settings,
        ).numpy()


CASE = Case("lookahead")
CASES = [
    CASE,
    Case("as many steps as windows of whole length", num_steps=8, scheduler="dpm++"),
    Case("without lookahead, no guidance", lookahead=0, guidance_scale=1.0),
    Case("a frame at a time", num_frames=21, num_steps=3, window=3, lookahead=2),
    Case("more steps than latent frames, a short last block", num_frames=21, num_steps=9),
    Case("fewer steps than a window", num_frames=33, num_steps=2, window=5, lookahead=1),
    Case("one latent frame", num_frames=1, num_steps=3),
]


STOCHASTIC_CASES = [Case(f"{name} adds noise in its steps", num_frames=21, num_steps=4, scheduler=name) for name in STOCHASTIC]


def error(latents, expected):
    """The largest difference, relative to the largest number."""
    return np.abs(latents - expected).max() / np.abs(expected).max()


def latents_of(rank, lanes, cases, **degrees):
    """The engine's latents of each case by name, as numpy arrays; None off the output rank."""
    engine, latents = engine_config(lanes, **degrees), {}
    for case in cases:
        output = DualParalPipeline(small_pipeline(case.scheduler), engine, case.config())(**case.arguments())
        latents[case.name] = None if output is None else output.frames.numpy()
    return latents


@pytest.mark.processes
def test_the_queue_is_the_sequential_program():
    by_lanes = {}
    for lanes in (1, 2, 4):
        *others, by_lanes[lanes] = run_ranks(latents_of, lanes, lanes, CASES + STOCHASTIC_CASES)
        assert all(one is None for other in others for one in other.values())
    for case in CASES + STOCHASTIC_CASES:
        assert error(by_lanes[1][case.name], case.sequential()) <= BAR, case.name
        assert all(np.array_equal(by_lanes[1][case.name], made[case.name]) for made in by_lanes.values()), case.name


def test_every_part_of_the_definition_matters():
    """Of the sequential program: each change is far from what the test above allows."""
    expected = CASE.sequential()
    for broken in (dict(lookahead=1), dict(window=5), dict(diagonal=False)):
        assert error(CASE.sequential(**broken), expected) > 100 * BAR, broken


@pytest.mark.processes
@pytest.mark.parametrize("degrees", [dict(ulysses_degree=2), dict(use_cfg_parallel=True)], ids=str)
def test_with_other_degrees(degrees):
    *_, last = run_ranks(latents_of, 4, 2, [CASE, STOCHASTIC_CASES[0]], **degrees)
    for case in (CASE, STOCHASTIC_CASES[0]):
        assert error(last[case.name], case.sequential()) <= BAR


def streamed(rank, lanes):
    """(the segments of a video of 41 frames; the first two of one without end; the run's status after its stop)."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(lanes), CASE.config())
    whole = [segment.numpy() for segment in pipeline.stream(**CASE.arguments())]
    first, run = [], pipeline.stream(**CASE.arguments(num_frames=0))
    for segment in run:
        first.append(segment.numpy())
        if len(first) == 2:
            run.stop()
    return whole, first, run.status()


@pytest.mark.processes
def test_it_streams_blocks_and_needs_no_end():
    _, (whole, first, status) = run_ranks(streamed, 2, 2)
    assert [segment.shape[2] for segment in whole] == [4, 4, 3]
    assert np.array_equal(first[0], whole[0]) and status["outcome"] == "stopped" and status["blocks_finished"] == len(first) >= 2


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("steps, window, lookahead", [(6, 4, 2), (5, 3, 0), (2, 8, 4), (9, 4, 3)])
def test_every_latent_frame_does_every_step_once_and_is_given_once(steps, window, lookahead, lanes):
    for latent_frames in (1, 2, 11, 12):
        plan = FifoPlan(Layout(window, 0, latent_frames), steps, lanes, lookahead, "inline")
        done, given = [], []
        for wave in range(plan.num_waves):
            passes = [one for lane in range(lanes) for one in plan.passes_of_lane(lane, wave)]
            assert passes == plan.passes(wave) and [frame for one in passes for frame in plan.predicted(one)] == list(plan.in_queue(wave))
            done += [(frame, wave - frame) for frame in plan.in_queue(wave)]
            given += plan.given(wave)
            assert all(plan.spec(one).window_latents <= window for one in passes)
        assert sorted(done) == [(frame, step) for frame in range(latent_frames) for step in range(steps)]
        assert given == list(range(plan.num_blocks)) and plan.finished(plan.num_waves) == plan.num_blocks
        assert not plan.passes(plan.num_waves) and plan.started(0) == 0 and plan.started(plan.num_waves) == plan.num_blocks


@pytest.mark.parametrize("settings, message", [
    (dict(fifo_window_latents=0), "fifo_window_latents is 0: give a whole number from 1"),
    (dict(fifo_window_latents=4, fifo_lookahead_latents=4), "fifo_lookahead_latents is 4: give a whole number from 0 to 3"),
    (dict(strategy="dualparal", fifo_window_latents=4), "fifo_window_latents is 4 and strategy is dualparal, which has no fifo_window_latents"),
    (dict(context_latents=2), "context_latents is 2 and strategy is fifo"),
])
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        DualParalConfig(**dict(strategy="fifo") | settings)


def test_refuses_two_experts():
    from xdualparal.strategies.base import Lanes
    from xdualparal.strategies.fifo import Fifo

    with pytest.raises(ValueError, match="strategy is fifo.*the model has an expert for some"):
        Fifo().plan(DualParalConfig(strategy="fifo"), 11, 6, Lanes(1, "none", False), (0, 3))
