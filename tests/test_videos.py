"""Several videos side by side: each is to the byte what it is alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import EXPERTS, Case, engine_config
from dualparal_testing.small_wan import TEXT_DIM, small_pipeline

from xdualparal import DualParalPipeline

pytestmark = pytest.mark.processes
CASES = [
    Case("more blocks than steps", num_frames=120, num_steps=3),
    Case("fewer blocks than stages: half passes, which two videos need less", num_frames=37, num_steps=5),
    Case("no context", num_frames=77, num_steps=4, context=0),
    Case("last block shorter than the context", num_frames=61, num_steps=4, context=3),
    Case("stagger 2", num_frames=77, num_steps=4, stagger=2),
    Case("no guidance", num_frames=77, num_steps=4, guidance_scale=1.0),
    Case("stochastic", num_frames=57, num_steps=3, scheduler="stochastic euler"),
    Case("sde", num_frames=57, num_steps=3, scheduler="sde-dpm++"),
    replace(EXPERTS[0], num_frames=57),
]
LONG = CASES[0]
DEGREES = [
    (1, dict(stages=1)), (2, dict(stages=2)), (4, dict(stages=4)), (4, dict(stages=2, ulysses_degree=2)),
    (4, dict(stages=2, use_cfg_parallel=True)),
]


def pipeline_of(case, degrees, **config):
    """A pipeline for ``case``."""
    wan = small_pipeline(case.scheduler, boundary_ratio=case.boundary_ratio)
    return DualParalPipeline(wan, engine_config(**degrees), replace(case.config(), **config))


def arguments_of(case, video, **other):
    """Those of a video of ``case`` with a text, a seed and a guidance scale of its own."""
    numbers = torch.Generator().manual_seed(100 + video)
    embeds = {name: torch.randn(1, 8, TEXT_DIM, generator=numbers) for name in ("prompt_embeds", "negative_prompt_embeds")}
    scale = case.guidance_scale + video * (case.guidance_scale > 1)
    return case.arguments() | embeds | dict(guidance_scale=scale, generator=torch.Generator().manual_seed(video)) | other


def joined(segments):
    """A video of its segments, None without any."""
    return torch.cat(segments, dim=2).numpy() if segments else None


def collected(run, count):
    """The segments of each of ``count`` videos of a GroupRun."""
    segments = [[] for _ in range(count)]
    for number, segment in run:
        segments[number].append(segment)
    return segments


def alone_and_together(rank, degrees, count):
    """{case: [(latents alone, latents beside the others)]}, None off the output rank."""
    made = {}
    for case in CASES:
        pipeline = pipeline_of(case, degrees)
        alone = [joined(list(pipeline.stream(**arguments_of(case, video)))) for video in range(count)]
        run = pipeline.side_by_side([pipeline.video(**arguments_of(case, video)) for video in range(count)])
        together = [joined(segments) for segments in collected(run, count)]
        assert run.outcome.value == "finished"
        made[case.name] = list(zip(alone, together))
    return made if pipeline.is_output_rank else None


@pytest.mark.parametrize("count, processes, degrees", [(2, *one) for one in DEGREES] + [(3, *DEGREES[0]), (3, *DEGREES[2])])
def test_a_video_is_the_same_beside_others(count, processes, degrees):
    *_, made = run_ranks(alone_and_together, processes, degrees, count)
    for name, pairs in made.items():
        assert len(pairs) == count and not np.array_equal(pairs[0][0], pairs[1][0]), name
        for alone, together in pairs:
            assert np.array_equal(alone, together), name


def frames_of_all_decoders(rank, stages, **degrees):
    """{place of decoding: [[frames alone, frames beside the others]]}."""
    made = {}
    for place in ("thread", "inline", "end"):
        pipeline = pipeline_of(LONG, dict(stages=stages, **degrees), decode=place)
        arguments = [arguments_of(LONG, video, output_type="uint8") for video in range(3)]
        alone = [[*pipeline.stream(**arguments_of(LONG, video, output_type="uint8"))] for video in range(3)]
        together = collected(pipeline.side_by_side([pipeline.video(**one) for one in arguments]), 3)
        made[place] = [[np.concatenate(one) if one else None for one in pair] for pair in zip(alone, together)]
    return made


@pytest.mark.parametrize("stages, degrees", [(1, {}), (2, {}), (2, dict(use_parallel_vae=True))])
def test_each_video_has_a_decoder_of_its_own(stages, degrees):
    *_, made = run_ranks(frames_of_all_decoders, stages, stages, **degrees)
    for place, pairs in made.items():
        for alone, together in pairs:
            assert alone.shape[0] == LONG.num_frames and np.array_equal(alone, together), place


def resumed(rank, folder, degrees):
    """[(the whole video, that of a run alone)] of videos that are left side by side and resumed: together, one alone, with a fresh one."""
    pipeline = pipeline_of(LONG, degrees)
    alone = [joined([*pipeline.stream(**arguments_of(LONG, video))]) for video in range(3)]

    def video_of(video, kept=()):
        pipeline.config = replace(LONG.config(), checkpoint=f"{folder}/{video}", checkpoint_waves=2)
        return pipeline.video(blocks_kept=len(kept), **arguments_of(LONG, video))

    def run_until(segments, numbers):
        """Makes videos side by side until the first has ``segments``; what all have then, what was kept of each, and the run."""
        videos = [video_of(number, had[number]) for number in numbers]
        for number, video in zip(numbers, videos):
            del had[number][video.blocks_kept:]
        run = pipeline.side_by_side(videos)
        waves.append(run.plan.first_waves)
        for place, segment in run:
            had[numbers[place]].append(segment)
            if len(had[numbers[0]]) == segments:
                break
        return run

    had, waves = {number: [] for number in range(3)}, []
    # Ranks other than the output rank end where it leaves its loop.
    run_until(3, [0, 1])       # left with a few blocks
    run_until(5, [1])          # one of them goes on alone
    run_until(6, [0, 2, 1])    # with a fresh one, each from another wave
    last = run_until(None, [2, 0, 1])
    again = [video.outcome.value for video in (video_of(0, had[0]), video_of(1, had[1]))]
    return [(joined(had[number]), alone[number]) for number in range(3)], waves, last.outcome.value, again


@pytest.mark.parametrize("degrees", [dict(stages=1), dict(stages=1, ulysses_degree=1)][:1])
def test_videos_are_resumed_side_by_side_and_alone(tmp_path, degrees):
    [(pairs, waves, outcome, again)] = run_ranks(resumed, 1, str(tmp_path), degrees)
    assert outcome == "finished" and again == ["already finished"] * 2
    assert len(set(waves[2])) == 3 and 0 in waves[2], waves  # all three from other waves
    for together, alone in pairs:
        assert np.array_equal(together, alone)
