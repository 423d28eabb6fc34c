"""The second demo world: words, exact truth, pictures."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xdualparal.demo import world

torch.set_num_threads(1)
SCENES = world.all_scenes()
scenes = st.sampled_from(SCENES)


def test_every_prompt_says_its_scene_in_17_words():
    assert len(SCENES) == len({scene.prompt for scene in SCENES}) == 1512
    assert [world.Scene.from_prompt(scene.prompt) for scene in SCENES] == SCENES
    assert {len(scene.prompt.split()) for scene in SCENES} == {17}
    assert {word for scene in SCENES for word in scene.prompt.split()} == set(world.vocabulary())


def test_case_and_punctuation_do_not_matter():
    prompt = "A red circle, that turns yellow, passes a BLUE square on a checked background that moves left."
    assert world.Scene.from_prompt(prompt) == world.EXAMPLE


@given(scenes, st.integers(0, 16))
def test_a_prompt_that_lacks_a_word_is_refused(scene, place):
    words = scene.prompt.split()
    prompt = " ".join(words[:place] + words[place + 1:])
    with pytest.raises(ValueError, match=re.escape(repr(prompt))):
        world.Scene.from_prompt(prompt)


@pytest.mark.parametrize("old, new", [
    ("turns yellow", "stays yellow"), ("turns yellow", "turns green"), ("blue", "green"), ("circle", "disc"), ("moves left", "stays left"),
    ("checked", "plain"), ("moves left", "moves still"),
])
def test_what_the_world_does_not_have_is_refused(old, new):
    with pytest.raises(ValueError):
        world.Scene.from_prompt(world.EXAMPLE.prompt.replace(old, new))


def test_held_out_scenes_are_never_trained_on_but_all_their_words_are():
    training, held_out = world.training_scenes(), world.held_out_scenes()
    assert not set(training) & set(held_out) and len(training) + len(held_out) == len(SCENES)
    assert len(held_out) == len(SCENES) // 9
    for part in ("front_shape", "front_colour", "turned_colour", "back_shape", "back_colour", "texture", "pan"):
        assert {getattr(s, part) for s in held_out} == {getattr(s, part) for s in training}
    pairs = [{(s.front_colour, s.turned_colour, s.back_colour, s.back_shape) for s in some} for some in (training, held_out)]
    assert pairs[1] <= pairs[0]


def test_fifty_evaluation_scenes_are_different_and_ten_are_held_out():
    chosen = world.evaluation_scenes(50)
    assert len(set(chosen)) == 50 and len(set(chosen) & set(world.held_out_scenes())) == 10
    assert {word for scene in chosen for word in scene.prompt.split()} == set(world.vocabulary())


@settings(max_examples=15, deadline=None)
@given(scenes, st.integers(0, 2**31))
def test_a_clip_is_a_function_of_scene_and_seed(scene, seed):
    frames, truth = world.clip_of(scene, 5, seed)
    again, _ = world.clip_of(scene.prompt, 5, seed)
    assert frames.shape == (5, 64, 64, 3) and torch.equal(frames, again)
    assert not torch.equal(frames, world.clip_of(scene, 5, seed + 1)[0])
    assert 0 < frames.min() and frames.max() < 1
    longer, _ = world.clip_of(scene, 9, seed)
    assert torch.equal(longer[:5], frames)
    assert truth.centres_px.shape == (1, 2, 5, 2) and truth.colours.shape == (1, 2, 5, 3) and truth.background_px.shape == (1, 5)


@settings(max_examples=15, deadline=None)
@given(scenes, st.integers(0, 2**31))
def test_the_truth_keeps_the_worlds_rules(scene, seed):
    frames, truth = world.clip_of(scene, 257, seed)
    x, y = truth.centres_px[0].unbind(-1)
    apart = (y[0] - y[1]).abs()
    assert (y == y[:, :1]).all() and (apart >= 9 - 1e-4).all() and (apart <= 12 + 1e-4).all()
    assert (x >= 9 - 1e-4).all() and (x <= 55 + 1e-4).all() and x.diff(dim=1).abs().max() <= 1.25 + 1e-4
    assert ((x[0] - x[1]).sign().diff() != 0).sum() >= 2  # they pass
    moved = (truth.background_px[0].diff() + 8).remainder(16) - 8
    torch.testing.assert_close(moved, torch.full_like(moved, {"left": -0.5, "still": 0.0, "right": 0.5}[scene.pan]), atol=1e-4, rtol=0)
    front = truth.colours[0, 0]
    torch.testing.assert_close(front[64:], front[:-64], atol=1e-4, rtol=0)
    assert torch.equal(front.max(0).values, front.min(0).values) != scene.turns


@settings(max_examples=15, deadline=None)
@given(scenes, st.integers(0, 2**31))
def test_the_pixel_at_an_objects_centre_has_its_colour_and_the_front_one_covers_the_other(scene, seed):
    frames, truth = world.clip_of(scene, 65, seed)
    for t in range(0, 65, 8):
        x, y = truth.centres_px[0, 0, t].int().tolist()
        torch.testing.assert_close(frames[t, y, x], truth.colours[0, 0, t])
    far = (truth.centres_px[0, 0] - truth.centres_px[0, 1]).norm(dim=-1) > 20
    for t in far.nonzero().flatten().tolist():
        x, y = truth.centres_px[0, 1, t].int().tolist()
        torch.testing.assert_close(frames[t, y, x], truth.colours[0, 1, t])


def test_a_texture_repeats_and_moves_with_its_shift():
    for texture in world.TEXTURES:
        shares = world.texture_share(texture, torch.tensor([0.0, 3.0, 16.0]))
        torch.testing.assert_close(shares[0], shares[2])
        torch.testing.assert_close(shares[0].roll(3, dims=1), shares[1])
        assert 0.2 < shares.mean() < 0.6 and not torch.allclose(shares[0], shares[1])


def test_circle_and_square_have_about_the_same_area():
    area = world.coverage(["circle", "square"], torch.full((2, 1, 2), 32.0)).sum(dim=(1, 2, 3))
    assert area.tolist() == pytest.approx([np.pi * 100, 324], rel=0.01)
