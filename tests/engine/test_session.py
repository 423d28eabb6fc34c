"""A run has an outcome of its own: stopping, leaving and failing do nothing to the next one."""

from dataclasses import replace

import numpy as np
import pytest
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.output.checkpoint import Checkpoint

pytestmark = pytest.mark.processes
CASE = Case("", num_frames=120, num_steps=4)
LONG = CASE.arguments() | dict(num_frames=400)


def video(pipeline):
    """(latents of CASE's video or None, the outcome) of a stream to its end."""
    run = pipeline.stream(**CASE.arguments())
    parts = [part.numpy() for part in run]
    return (np.concatenate(parts, axis=2) if parts else None), run.outcome.value


def stopped_before(rank, degrees):
    """stop() before any run, and between two: both videos are whole."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(**degrees), CASE.config())
    pipeline.stop()
    first = video(pipeline)
    pipeline.stop(), pipeline.run.stop()
    return first, video(pipeline)


def left(rank, degrees):
    """The output rank leaves a long video's loop after its first segment; the next video is whole."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(**degrees), CASE.config())
    run = pipeline.stream(**LONG)
    for _ in run:
        break
    status = run.status()
    return (status["outcome"], status["blocks_finished"] < run.plan.num_blocks), video(pipeline)


def two_pipelines(rank):
    """One's run is stopped; another one's is whole."""
    first, second = (DualParalPipeline(small_pipeline(), engine_config(1), CASE.config()) for _ in range(2))
    run = first.stream(**LONG)
    for _ in run:
        run.stop()
    return run.outcome.value, video(second)


def left_near_the_end(rank, folder):
    """(outcome, blocks kept, segments of the whole video) of a run that is left with two segments to come, and resumed."""
    config = replace(CASE.config(), checkpoint=folder, checkpoint_waves=2)
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), config)
    run, given = pipeline.stream(**CASE.arguments()), []
    for segment in run:
        given.append(segment)
        if len(given) == run.plan.num_blocks - 2:
            break
    resumed = pipeline.stream(blocks_kept=len(given), **CASE.arguments())
    kept = resumed.blocks_kept  # the state that was saved last may be older than the last segment
    parts = given[:kept] + list(resumed)
    return run.outcome.value, kept > 0, np.concatenate([part.numpy() for part in parts], axis=2), resumed.outcome.value


def left_before_it_began(rank):
    """A stream that nobody iterates over is none."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), CASE.config())
    waiting = pipeline.stream(**LONG)
    made = video(pipeline)
    return waiting.outcome.value, made


def two_at_once(rank):
    """What the pipeline says to a second run, while the first one is under way; and then the first one's rest."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), CASE.config())
    first = pipeline.stream(**CASE.arguments())
    segments = iter(first)
    parts = [next(segments)]
    messages = []
    for second in (lambda: pipeline.stream(**LONG), lambda: pipeline(**LONG), lambda: pipeline.run_spec(**LONG)):
        with pytest.raises(ValueError) as caught:
            second()
        messages.append(str(caught.value))
    parts += segments
    return messages, np.concatenate([part.numpy() for part in parts], axis=2), first.outcome.value


def failed(rank):
    """The outcome of a run whose guidance overflows, what is said to the next one if messages may be left, and else its
    video."""
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), CASE.config())
    bad = pipeline.stream(**LONG)
    bad.request.guidance_scale = 1e39  # more than a call may ask for
    with pytest.raises(FloatingPointError):
        list(bad)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError) as caught:
        patch.setattr(type(pipeline.mesh), "is_shared", True)
        pipeline.stream(**CASE.arguments())
    return bad.outcome.value, str(caught.value), video(pipeline)


def saved_before_written(rank, folder):
    """[(segments that a saved state claims, segments written)] where nothing is written before ``drain``."""
    config = replace(CASE.config(), checkpoint=folder, checkpoint_waves=1)
    pipeline = DualParalPipeline(small_pipeline(), engine_config(1), config)
    run = pipeline.stream(**CASE.arguments())
    given, written, claims = [], [], []
    run.drain = lambda: written.extend(given[len(written):])
    with pytest.MonkeyPatch.context() as patch:
        save, end = Checkpoint.save, Checkpoint.end
        patch.setattr(Checkpoint, "save", lambda self, state, *more: claims.append((state["segments_given"], len(written))) or save(self, state, *more))
        patch.setattr(Checkpoint, "end", lambda self: claims.append((run.segments_given, len(written))) or end(self))
        given.extend(run)  # one by one
    return claims, run.plan.num_blocks


@pytest.fixture(scope="module")
def expected():
    """The sequential program's latents."""
    return CASE.sequential().numpy()


def is_right(made, expected):
    """Whether a (latents, outcome) is a whole video."""
    latents, outcome = made
    return outcome == "finished" and np.abs(latents - expected).max() / np.abs(expected).max() <= 1e-5


@pytest.mark.parametrize("degrees", [dict(stages=1), dict(stages=2)])
def test_a_stop_outside_a_run_does_nothing(expected, degrees):
    *_, (first, second) = run_ranks(stopped_before, degrees["stages"], degrees)
    assert is_right(first, expected) and is_right(second, expected)


@pytest.mark.parametrize("degrees, ranks", [(dict(stages=1), 1), (dict(stages=3), 3), (dict(stages=2, use_cfg_parallel=True), 4)])
def test_a_stream_that_is_left_ends_on_all_ranks(expected, degrees, ranks):
    results = run_ranks(left, ranks, degrees)
    assert [outcome for outcome, _ in results] == [("stopped", True)] * ranks
    assert is_right(results[-1][1], expected)


def test_two_pipelines_do_not_share_a_stop(expected):
    [(outcome, made)] = run_ranks(two_pipelines, 1)
    assert outcome == "stopped" and is_right(made, expected)


def test_a_run_that_is_left_near_its_end_can_be_resumed(expected, tmp_path):
    [(outcome, is_kept, latents, resumed)] = run_ranks(left_near_the_end, 1, str(tmp_path))
    assert outcome == "stopped" and is_kept and is_right((latents, resumed), expected)


def test_a_snapshot_claims_no_segment_that_is_not_written(tmp_path):
    [(claims, blocks)] = run_ranks(saved_before_written, 1, str(tmp_path))
    assert [claim for claim in claims if claim[0] > claim[1]] == [] and claims[-1] == (blocks, blocks)
    assert len({claimed for claimed, _ in claims}) > 2


def test_a_stream_that_never_began(expected):
    [(outcome, made)] = run_ranks(left_before_it_began, 1)
    assert outcome == "ready" and is_right(made, expected)


def test_two_runs_at_once_are_refused(expected):
    [(messages, latents, outcome)] = run_ranks(two_at_once, 1)
    assert all("still being made: iterate over its stream to the end, or call its close()" in message for message in messages)
    assert is_right((latents, outcome), expected)


def test_a_failed_run_does_not_spoil_the_next(expected):
    [(outcome, message, made)] = run_ranks(failed, 1)
    assert outcome == "failed" and is_right(made, expected)
    assert "messages of it may still be under way" in message and "start new" in message
