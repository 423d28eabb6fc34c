"""The second world's scores on clips whose truth is known: right ones score full marks, each fault is seen by its own measure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xdualparal.demo import quality, world, world_score, world_seen
from xdualparal.demo.world_score import score

torch.set_num_threads(1)
SCENE = world.EXAMPLE  # a red circle that turns yellow, a blue square, a checked background that moves left
SHARES = ("objects", "front_colour", "back_colour", "front_shape", "back_shape", "texture", "in_front", "identity")


def clip(scene=SCENE, num_frames=97, seed=1):
    return world.clip_of(scene, num_frames, seed)[0].numpy()


def faults(scored):
    """The names of the shares that are not all 1."""
    return {name for name in SHARES if getattr(scored, name) < 1}


@pytest.fixture(scope="module")
def right():
    return score(clip(), SCENE)


def test_the_example_clip_shows_all_that_is_scored(right):
    assert not any(np.isnan(value) for value in vars(right).values())
    assert right.pan_px == pytest.approx(-0.5, abs=0.02)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(world.all_scenes()), st.integers(0, 2**31))
def test_true_clips_score_full_marks(scene, seed):
    scored = score(clip(scene, 65, seed), scene)
    assert not faults(scored) and scored.all_right
    assert scored.pan_error_px < 0.03 and scored.longest_step_px < 1.6  # a place is 0.25 pixels
    assert scored.front_area == pytest.approx(1, abs=0.02) and (np.isnan(scored.back_area) or scored.back_area == pytest.approx(1, abs=0.03))
    assert scored.fade_error < 0.03 if scene.turns else np.isnan(scored.fade_error)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(world.all_scenes()), st.integers(0, 2**31), st.sampled_from(("front_shape", "back_shape", "texture", "pan")), st.integers(1, 2))
def test_what_does_not_follow_the_prompt_is_seen_by_its_own_measure(scene, seed, part, other):
    known = {"front_shape": world.SHAPES, "back_shape": world.SHAPES, "texture": world.TEXTURES, "pan": tuple(world.PANS)}[part]
    wrong = replace(scene, **{part: next(word for word in known[::other * 2 - 3] if word != getattr(scene, part))})
    scored = score(clip(wrong, 49, seed), scene)
    if part == "pan":
        assert not faults(scored) and scored.pan_error_px > 0.4 and not scored.all_right
    elif part == "back_shape" and np.isnan(scored.back_shape):
        assert not faults(scored)  # the objects touch all the time: nothing to see
    else:
        assert getattr(scored, part) == 0 and not scored.all_right
        assert faults(scored) <= {part, "in_front"} and not scored.identity < 1


@pytest.mark.parametrize("part, colour", [("back_colour", "cyan"), ("turned_colour", "magenta")])
def test_another_colour_is_seen(part, colour):
    scene = replace(SCENE, back_colour="cyan", turned_colour="red") if part == "turned_colour" else SCENE
    scored = score(clip(replace(scene, **{part: colour})), scene)
    assert min(scored.front_colour, scored.back_colour) < 1 and not scored.all_right


def test_a_colour_that_stays_where_the_script_says_that_it_turns_is_seen(right):
    scored = score(clip(replace(SCENE, turned_colour="red")), SCENE)
    assert not faults(scored) and scored.fade_error > 0.2 > 0.05 > right.fade_error and not scored.all_right


def test_frozen_frames_are_seen():
    scored = score(np.repeat(clip()[40:41], 97, axis=0), SCENE)
    assert scored.fade_error > 0.2 and scored.pan_px == 0 and scored.pan_error_px == pytest.approx(0.5)
    assert not scored.all_right


def test_a_plain_background_has_no_texture():
    video = clip()
    grey = quality.chroma(video) < 0.1
    scored = score(np.where(grey[..., None], 0.45, video), SCENE)
    assert scored.texture == 0 and faults(scored) == {"texture"} and not scored.all_right


def layers_swapped(scene, num_frames=97, seed=1):
    """The clip with the back object in front."""
    truth = world.clip_of(scene, num_frames, seed)[1]
    clips, covered = world.render([scene], truth)
    share = covered[0, 1, ..., None]
    return ((clips[0].permute(1, 2, 3, 0) + 1) / 2 * (1 - share) + share * truth.colours[0, 1][:, None, None]).numpy()


def test_the_wrong_object_in_front_is_seen():
    scored = score(layers_swapped(SCENE), SCENE)
    assert scored.in_front == 0 and not scored.all_right


def test_a_missing_object_is_seen():
    video, truth = world.clip_of(SCENE, 97, 1)
    empty = world.background(SCENE.texture, truth.background_px[0]).permute(1, 2, 3, 0)
    video[48:] = empty[48:]
    scored = score(video.numpy(), SCENE)
    assert scored.objects == scored.front_colour == scored.back_colour == pytest.approx(48 / 97)
    assert scored.texture == 1 and not scored.all_right
    nothing = score(empty.numpy(), SCENE)
    assert nothing.objects == 0 and np.isnan(nothing.longest_step_px) and not nothing.all_right


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(("red", "blue")), st.integers(0, 3))
def test_a_third_object_is_seen_in_either_colour(colour, corner):
    video = clip(num_frames=17)
    top, left = 56 * (corner // 2), 56 * (corner % 2)
    video[:, top:top + 6, left:left + 6] = np.array(world.COLOURS[colour]) / 255
    assert score(video, SCENE).objects == 0


@pytest.mark.parametrize("change", [{"back_shape": "circle"}, {"front_shape": "square"}, {"back_colour": "magenta", "front_colour": "yellow"}])
def test_objects_that_are_others_after_they_pass_have_lost_their_identity(change, right):
    scene = replace(SCENE, turned_colour="yellow", back_colour="cyan", front_colour="yellow") if "back_colour" in change else SCENE
    other = replace(scene, **{"back_colour": "magenta"} if "back_colour" in change else change)
    front, _ = world_seen.observe(clip(scene), scene)
    start, end = world_score.passes(front.clear)[0]
    middle = (start + end) // 2
    before = clip(scene)
    scored = score(np.concatenate([before[:middle], clip(other)[middle:]]), scene)
    assert scored.identity < 1 == right.identity and not scored.all_right


def test_objects_that_change_lanes_while_they_pass_have_lost_their_identity():
    front, _ = world_seen.observe(clip(), SCENE)
    start, end = world_score.passes(front.clear)[0]
    video = clip()
    middle = (start + end) // 2
    video[middle:] = np.roll(video[middle:], 5, axis=1)
    assert score(video, SCENE).identity < 1


def test_a_jump_is_seen():
    video = clip()
    video[50:] = np.roll(video[50:], 5, axis=1)
    scored = score(video, SCENE)
    assert 4.5 < scored.longest_step_px < 6.5 and not scored.all_right


def test_blur_and_a_little_noise_are_no_fault():
    video = clip()
    blurred = sum(np.roll(video, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    noisy = blurred + np.random.default_rng(0).normal(0, 0.01, video.shape)
    scored = score(noisy, SCENE)
    assert scored.all_right and scored.pan_error_px < 0.1


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 32, 32, 3\)"):
        score(np.zeros((2, 32, 32, 3)), SCENE)
