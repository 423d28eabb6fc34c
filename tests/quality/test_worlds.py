"""What each demo world gives to metrics."""

import numpy as np
import pytest

from xdualparal.quality.facts import VideoFacts
from xdualparal.quality.reference import reference_loop_share
from xdualparal.quality.worlds import TWO_OBJECTS, WORLDS, parse_prompt, scene_of, world_of


@pytest.fixture(params=WORLDS, ids=("one object", "two objects"))
def world(request):
    return request.param


def test_a_prompt_is_of_one_world_only(world):
    scenes = world.evaluation_scenes(50)
    assert world.prompts(50) == [scene.prompt for scene in scenes] and scene_of(world.example).prompt == world.example
    for scene in scenes:
        assert scene_of(scene.prompt) == parse_prompt(scene.prompt) == scene and world_of(scene) is world
        for other in set(WORLDS) - {world}:
            with pytest.raises(ValueError):
                other.parse(scene.prompt)


def test_clips_are_equal_for_equal_seeds_and_thinned_ones_are_parts(world):
    scene = scene_of(world.example)
    clip = world.clip(scene, 17, 3)
    assert clip.dtype == np.uint8 and clip.ndim == 4 and len(clip) == 17 and np.array_equal(clip, world.clip(scene, 17, 3))
    assert not np.array_equal(clip, world.clip(scene, 17, 4)) and np.array_equal(clip[::4], world.clip(scene, 17, 3, 4))


def test_a_track_measures_and_shows_all_frames(world):
    scene = scene_of(world.example)
    track = world.track(scene)
    for frame in world.clip(scene, 70, 0):
        track.add(frame)
    found = track.metrics(VideoFacts(4, 2))
    assert found["prompt"] == 1 and {"seam_jump_px", "other_jump_px", "longest_jump_px", "area_drift"} <= set(found)
    assert all(len(values) == 70 for _, values in track.shown())


def test_a_track_refuses_frames_of_another_shape(world):
    with pytest.raises(ValueError, match="96 x 64"):
        world.track(scene_of(world.example)).add(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.parametrize("prompt, words", [
    ("a ship", "must name exactly one"), ("a red circle on a pink background", "must name exactly one background"),
    (TWO_OBJECTS.example.replace("yellow", "blue"), "red does not turn blue"), (TWO_OBJECTS.example + " slowly", "give one such as 'a red circle that"),
])
def test_the_world_with_the_most_alike_prompts_says_what_is_wrong(prompt, words):
    assert scene_of(prompt) is None
    with pytest.raises(ValueError, match=words):
        parse_prompt(prompt)


def test_true_clips_repeat_themselves_as_much_as_true_clips(world):
    scene = scene_of(world.example)
    assert 0 <= reference_loop_share(scene, 64, 4) < 0.6 and reference_loop_share(scene, 8, 4) is None
