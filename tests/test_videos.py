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
    Case("cached context", num_frames=61, num_steps=4, context=3, stagger=2, cached=True, anchors=1),
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
        if "use_cfg_parallel" in degrees and case.guidance_scale <= 1:
            continue  # one branch is not split
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


RESUMED = replace(LONG, num_frames=261)


def resumed(rank, folder):
    """Videos that are left side by side and resumed: one alone, with a fresh one, together.

    [(the whole video, that of a run alone)], the waves with which the videos of each run began, the last run's outcome, and what is
    said of the finished videos.
    """
    pipeline = pipeline_of(RESUMED, dict(stages=1))
    alone = [joined([*pipeline.stream(**arguments_of(RESUMED, video))]) for video in range(3)]

    def video_of(video, kept=()):
        pipeline.config = replace(RESUMED.config(), checkpoint=f"{folder}/{video}", checkpoint_waves=2)
        return pipeline.video(blocks_kept=len(kept), **arguments_of(RESUMED, video))

    def run_until(segments, numbers):
        """The run that makes videos side by side and is left when the first one has so many segments."""
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
    run_until(2, [0, 1])
    run_until(9, [1])
    run_until(5, [0, 2, 1])
    last = run_until(None, [2, 0, 1])
    again = [video_of(number, had[number]).outcome.value for number in range(3)]
    return [(joined(had[number]), alone[number]) for number in range(3)], waves, last.outcome.value, again


def test_videos_are_resumed_side_by_side_and_alone(tmp_path):
    [(pairs, waves, outcome, again)] = run_ranks(resumed, 1, str(tmp_path))
    assert outcome == "finished" and again == ["already finished"] * 3
    assert len(set(waves[2])) == 3 and waves[2][1] == 0 and len(set(waves[3])) == 3, waves  # each begins with another wave
    for together, alone in pairs:
        assert np.array_equal(together, alone)


def stopped(rank, stages):
    """Of videos that run.stop() ends: outcomes, and for each (segments, the beginning of the same video alone)."""
    pipeline = pipeline_of(RESUMED, dict(stages=stages))
    alone = [joined([*pipeline.stream(**arguments_of(RESUMED, video))]) for video in range(2)]
    run, segments = pipeline.side_by_side([pipeline.video(**arguments_of(RESUMED, video)) for video in range(2)]), [[], []]
    for number, segment in run:
        segments[number].append(segment)
        run.stop()
    return [one["outcome"] for one in run.status()["videos"]], list(zip(map(joined, segments), alone))


def test_a_stop_ends_all_videos():
    *_, (outcomes, pairs) = run_ranks(stopped, 2, 2)
    assert outcomes == ["stopped", "stopped"]
    for together, alone in pairs:
        assert 0 < together.shape[2] < alone.shape[2] and np.array_equal(together, alone[:, :, :together.shape[2]])


def call_and_refusals(rank):
    """[latents of 3 prompts with one generator, 1, 2 and 3 at a time], and what is said of videos that cannot share the stages."""
    made, said = [], []
    for videos in (1, 2, 3):
        pipeline = pipeline_of(LONG, dict(stages=1), videos_in_flight=videos)
        arguments = arguments_of(LONG, 0)
        arguments |= {name: arguments[name].repeat(3, 1, 1) for name in ("prompt_embeds", "negative_prompt_embeds")}
        made.append(pipeline(**arguments).frames.numpy())
    first = pipeline.video(**arguments_of(LONG, 0))
    others = [dict(num_frames=77), dict(num_inference_steps=2), dict(guidance_scale=1.0), dict(height=64), dict(output_type="np")]
    groups = [[first, pipeline.video(**arguments_of(LONG, 1) | other)] for other in others]
    text = torch.randn(1, 9, TEXT_DIM)
    groups += [[first, pipeline.video(**arguments_of(LONG, 1) | dict(prompt_embeds=text, negative_prompt_embeds=text))], [], [first, first]]
    for group in groups:
        with pytest.raises(ValueError) as caught:
            pipeline.side_by_side(group)
        said.append(str(caught.value))
    return made, said


def test_a_call_and_what_cannot_share_the_stages():
    [(made, said)] = run_ranks(call_and_refusals, 1)
    assert not np.array_equal(made[0][0], made[0][1])  # each draws from what the one before has left of the generator
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])
    expected = ["num_frames is 120 of video 0 and 77 of video 1: give all", "num_inference_steps is 3", "guidance_branches is 2",
                "height is 32", "decode is 'none' of video 0 and 'thread'", "text_tokens is 8", "there is no video", "given twice"]
    assert len(said) == len(expected) and all(part in line for part, line in zip(expected, said)), said
