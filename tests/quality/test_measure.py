"""Drift, freezing, loops, objects and prompts of videos whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from dualparal_testing.drawn import SCENE, at, drawn

from xdualparal.demo import scenes as demo
from xdualparal.quality.facts import VideoFacts
from xdualparal.quality.measure import measure_video
from xdualparal.quality.series import MOST_ANCHORS, Series
from xdualparal.quality.worlds import scene_of

FACTS = VideoFacts(8, 4)



@pytest.fixture
def scene():
    return SCENE


@pytest.mark.parametrize("scene", demo.evaluation_scenes(6), ids=lambda s: s.prompt)
def test_a_drawn_video_is_perfect(scene):
    found = measure_video(iter(drawn(scene, 129)), FACTS, scene)
    assert found["prompt"] == found["colour"] == found["shape"] == found["background"] == found["one_object"] == 1
    assert found["frozen_share"] == 0 and found["loop_share"] == 0 and found["loop_excess"] <= 0
    assert found["hue_error_deg"] < 0.5 and found["area_spread"] < 0.01 and abs(found["area_drift"]) < 0.01
    assert found["longest_jump_px"] < demo.SPEED_RANGE_PX[0] / 2  # centres are seen so well that half the slowest speed is a fault
    if scene.background != "striped":  # there an object covers brighter and darker stripes as it moves
        assert abs(found["luminance_drift"]) < 0.001


@pytest.mark.parametrize("part, other", [("colour", "magenta"), ("shape", "square"), ("background", "grey")])
def test_what_the_prompt_does_not_say_is_seen(scene, part, other):
    found = measure_video(drawn(replace(scene, **{part: other}), 60), FACTS, scene)
    assert found[part] == 0 and found["prompt"] == 0
    assert (found["hue_error_deg"] > 40) == (part == "colour")


def test_a_colour_that_changes_half_way(scene):
    video = np.concatenate([drawn(scene, 50), drawn(replace(scene, colour="yellow"), 50)])
    found = measure_video(video, FACTS, scene)
    assert found["colour"] == 0.5 and found["hue_drift_deg"] == pytest.approx(57, abs=3)  # 0 and 57 degrees in COLOURS


def test_a_slow_darkening_has_its_drift():
    """From 200 to 100 of 255 in a line: the tenths' means are 195.2 and 104.8 (their middles)."""
    levels = np.linspace(200, 100, 200).round().astype(np.uint8)
    found = measure_video((np.full((8, 8, 3), level) for level in levels))
    assert found["luminance_drift"] == pytest.approx((levels[-20:].mean() - levels[:20].mean()) / 255, abs=1e-4)
    assert found["saturation_drift"] == 0 and found["sharpness_drift"] is None  # nothing to compare with: it has no edges


def test_sharpness_and_saturation_drift():
    sharp = np.zeros((8, 8, 3), np.uint8)
    sharp[:, ::2] = 200
    coloured = sharp.copy()
    coloured[..., 0] = np.minimum(coloured[..., 0], 100)
    found = measure_video([*[sharp] * 50, *[sharp // 2] * 50])
    assert found["sharpness_drift"] == pytest.approx(-0.5, abs=0.01)
    assert measure_video([*[sharp] * 50, *[coloured] * 50])["saturation_drift"] == pytest.approx(0.5 * 100 / 255, abs=1e-3)


def test_a_frozen_video_is_frozen_and_no_loop(scene):
    moving = drawn(scene, 101)
    still = np.repeat(moving[:1], 101, axis=0)
    assert measure_video(still)["frozen_share"] == 1 and measure_video(still)["loop_share"] == 0
    half = np.concatenate([moving, np.repeat(moving[-1:], 100, axis=0)])
    assert measure_video(half)["frozen_share"] == 0.5


@pytest.mark.parametrize("period", [48, 50, 63])
def test_a_looped_video_is_a_loop(scene, period):
    """Also when its period is not on the grid of thumbnails. A multiple of the period is as right."""
    found = measure_video(np.concatenate([drawn(scene, period)] * 5), FACTS, scene)
    off = found["loop_lag_frames"] % period
    assert found["loop_share"] > 0.7 and found["loop_excess"] > 0.5 and min(off, period - off) <= 2


def test_a_drawn_video_repeats_no_more_than_drawn_videos(scene):
    excess = [measure_video(drawn(scene, 513, seed), FACTS, scene)["loop_excess"] for seed in range(6)]
    assert abs(np.mean(excess)) < 0.15


def test_two_objects(scene):
    one, other = at(scene, [(8.0, 8.0)] * 8), at(scene, [(24.0, 24.0)] * 8)
    found = measure_video(np.maximum(one, other), FACTS, scene)
    assert found["object_count"] == 2 and found["one_object"] == found["prompt"] == 0


def test_no_object(scene):
    found = measure_video(np.full((20, 32, 32, 3), 32, np.uint8), FACTS, scene)
    assert found["object_count"] == 0 and found["hue_error_deg"] is None and found["area_drift"] is None


@pytest.mark.parametrize("frames, words", [
    ([], "no frame"), ([np.zeros((8, 8, 3))], "give uint8"), ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], "give one size"),
])
def test_frames_that_cannot_be_measured(frames, words):
    with pytest.raises(ValueError, match=words):
        measure_video(frames)


def test_frames_that_are_not_the_demos(scene):
    with pytest.raises(ValueError, match="48 x 32"):
        measure_video([np.zeros((32, 48, 3), np.uint8)], FACTS, scene)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_short_video(scene, count):
    assert measure_video(drawn(scene, count), FACTS, scene)["frames"] == count


def test_memory_does_not_grow_with_length():
    """At most MOST_ANCHORS thumbnails, evenly spaced, and a few numbers a frame."""
    series = Series(anchor_stride=1)
    for number in range(3 * MOST_ANCHORS):
        series.add(np.full((2, 2, 3), number % 256, np.uint8))
    assert series.anchor_stride == 4 and len(series.anchors) == 3 * MOST_ANCHORS // 4
    np.testing.assert_allclose(series.anchors[:, 0, 0, 0] * 255, np.arange(0, 3 * MOST_ANCHORS, 4) % 256, atol=1e-3)


def test_scenes_of_prompts(scene):
    assert scene_of(scene.prompt) == scene and scene_of("a ship in a storm") is None and scene_of(None) is None
