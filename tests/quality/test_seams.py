"""Seams in videos whose jumps are known."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from dualparal_testing.drawn import SCENE, at, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from xdualparal.plan.layout import Layout
from xdualparal.quality.facts import VideoFacts, facts_of
from xdualparal.quality.measure import measure_video
from xdualparal.run_spec import RunSpec
from xdualparal.strategies.clips import ClipLayout


def with_jumps(frames, size=60):
    """A still video that jumps at each of ``frames``."""
    video = np.full((129, 8, 8, 3), 60, np.int64)
    for number, frame in enumerate(frames):
        video[frame:] += size * (-1) ** number
    video += (np.arange(129) % 2)[:, None, None, None]  # elsewhere it moves a little
    return video.astype(np.uint8)



@pytest.fixture
def scene():
    return SCENE


@given(block=st.integers(1, 9), context=st.integers(0, 9), per_latent=st.integers(1, 5), num_frames=st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_seams_are_where_the_layout_cuts(block, context, per_latent, num_frames):
    """Against plan/layout.py, which cuts the videos."""
    context = min(context, block)
    layout = Layout(block, context, 1 - (1 - num_frames) // per_latent)
    cuts = [layout.frames_of(count, num_frames, per_latent) for count in range(1, layout.num_blocks)]
    assert VideoFacts(block, context, per_latent).seams(num_frames).tolist() == cuts


@given(clips=st.integers(1, 9), per_latent=st.integers(1, 5), num_frames=st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_seams_of_clips_are_where_the_layout_cuts(clips, per_latent, num_frames):
    latents = 1 - (1 - num_frames) // per_latent
    clips = min(clips, latents)
    layout = ClipLayout(1, 0, latents, clips=clips)
    cuts = [layout.frames_of(count, num_frames, per_latent) for count in range(1, clips)]
    assert VideoFacts(frames_per_latent=per_latent, clips=clips).seams(num_frames).tolist() == cuts


def test_a_jump_between_clips_is_found(scene):
    facts = VideoFacts(clips=3)
    found, smooth = (measure_video(with_jumps(jumps), facts) for jumps in (facts.seams(129), []))
    assert found["seams"] == 2 and "seam_first_rank" not in found
    assert found["seam_first_ratio"] > 1.5 > 1.2 > smooth["seam_first_ratio"]


@pytest.mark.parametrize("strategy, sizes, seams", [
    ("chunks", dict(chunk_latents=6, chunk_overlap_latents=2), [1 + 4 * 3, 1 + 4 * 7, 1 + 4 * 11]), ("chunks", dict(chunk_latents=6), [21, 45]),
    ("video_infinity", dict(clips=2), [25]), ("full", {}, []),
])
def test_each_strategys_seams_are_read(tmp_path, strategy, sizes, seams):
    (tmp_path / "video.json").write_text(json.dumps(dict(spec=asdict(RunSpec(model="tiny-wan", strategy=strategy, **sizes)))))
    assert facts_of(tmp_path / "video.mp4").seams(53).tolist() == seams


@pytest.mark.parametrize("continues_at, num_frames, cuts", [(0, 97, [32, 64, 96]), (77, 141, [77, 109]), (80, 141, [80, 112]), (5, 60, [5, 37])])
def test_seams_behind_a_video_that_is_continued(continues_at, num_frames, cuts):
    facts = VideoFacts(8, 4, continues_at=continues_at)
    assert facts.seams(num_frames).tolist() == cuts
    latents, starts = facts.boundaries(num_frames)
    assert starts.min() >= 1 and starts.max() < num_frames and set((latents % 8 == 4).tolist()) == {False, True}
    assert starts.min() > continues_at - 32


@pytest.mark.parametrize("block, context", [(8, 4), (8, 0), (8, 8), (4, 1), (2, 2)])
@pytest.mark.parametrize("late", [0, 1, 2, 3])
def test_a_jump_at_seams_is_found_at_the_true_phase_only(block, context, late):
    """``late``: frames behind the seam, as the decoder shows it."""
    facts = VideoFacts(block, context)
    video = with_jumps([seam + late for seam in facts.seams(129)])
    found = measure_video(video, facts)
    assert found["seam_first_rank"] == 1 and found["seam_first_ratio"] > 5
    for other in range(block):
        moved = VideoFacts(block, other)
        if other % block != context % block:
            assert measure_video(video, moved)["seam_first_ratio"] < 1


def test_the_ratio_is_the_known_one():
    """Steps of 1 of 255, and one of 60 (59 or 61 with the step) in the 4 of a seam's latent frame."""
    facts = VideoFacts(8, 4)
    found = measure_video(with_jumps(facts.seams(129)), facts)
    assert found["seams"] == 3 and found["seam_first_ratio"] == pytest.approx((60 + 3) / 4, rel=0.01)


def test_equal_steps_have_ratio_1_and_the_middle_rank():
    video = np.full((129, 4, 4, 3), 60, np.uint8)
    video[1::2] += 10
    found = measure_video(video, VideoFacts(8, 4))
    assert found["seam_first_ratio"] == pytest.approx(1) and found["seam_first_rank"] == 4.5


def test_by_chance_the_rank_is_in_the_middle(scene):
    ranks = [measure_video(drawn(scene, 257, seed), VideoFacts(8, 4))["seam_first_rank"] for seed in range(16)]
    assert 3 < np.mean(ranks) < 6


def test_a_centroid_that_jumps_at_seams(scene):
    """5 pixels, away from walls; the rest moves at one speed."""
    facts, x, centres = VideoFacts(4, 2), 10.0, []
    seams = set(facts.seams(49).tolist())
    for frame in range(49):
        x += 0.1 + (2.0 if frame in seams else 0)
        centres.append((x, 16.0))
    found = measure_video(at(scene, centres), facts, scene)
    assert found["seam_jump_px"] == pytest.approx(2.0, abs=0.15) and found["longest_jump_px"] == pytest.approx(2.0, abs=0.15)
    assert found["other_jump_px"] < 0.3


@pytest.mark.parametrize("facts", [VideoFacts(), VideoFacts(8, 8), VideoFacts(1, 1)])
def test_without_seams_there_is_no_figure(facts):
    assert "seam_first_ratio" not in measure_video(np.zeros((40, 8, 8, 3), np.uint8), facts)


@pytest.mark.parametrize("sizes, words", [((8,), "give the other one too"), ((0, 0), "give 1 or more"), ((4, 5), "0 to block_latents"), ((4, 4, 0), "frames_per_latent is 0")])
def test_sizes_that_cannot_be(sizes, words):
    with pytest.raises(ValueError, match=words):
        VideoFacts(*sizes)
