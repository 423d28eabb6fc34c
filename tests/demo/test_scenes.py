"""The demo's clips: words, pictures, motion and the checkpoint that was trained on them."""

import re

import numpy as np
import pytest
import torch

from xdualparal.demo import scenes as demo

torch.set_num_threads(1)


def test_every_prompt_parses_back_to_its_scene():
    scenes = demo.all_scenes()
    assert len(scenes) == len({s.prompt for s in scenes}) == 48
    assert [demo.parse_prompt(s.prompt) for s in scenes] == scenes
    assert demo.Scene("circle", "red", "dark").prompt == "a red circle on a dark background"


@pytest.mark.parametrize("prompt", ["a circle on a dark background", "a red blue circle on a dark background", "red"])
def test_prompt_without_exactly_one_of_each_word_is_refused(prompt):
    with pytest.raises(ValueError, match=re.escape(repr(prompt))):
        demo.parse_prompt(prompt)


def test_held_out_scenes_are_never_trained_on_but_all_their_words_are():
    training = demo.training_scenes()
    assert not set(demo.HELD_OUT) & set(training)
    assert len(training) + len(demo.HELD_OUT) == 48
    assert {w for s in training for w in s.prompt.split()} == set(demo.vocabulary())


def test_fifty_evaluation_prompts_cover_every_combination():
    scenes = demo.evaluation_scenes(50)
    assert len(scenes) == 50
    assert set(scenes) == set(demo.all_scenes())


def test_equal_seeds_give_equal_clips_and_values_stay_in_range():
    def make(seed):
        return demo.make_clips(demo.evaluation_scenes(4), 9, torch.Generator().manual_seed(seed))

    clips, coverage = make(3)
    assert clips.shape == (4, 3, 9, 32, 32) and coverage.shape == (4, 1, 9, 32, 32)
    assert torch.equal(clips, make(3)[0]) and not torch.equal(clips, make(4)[0])
    assert clips.abs().max() < 1 and coverage.min() == 0 and coverage.max() == 1


def test_objects_keep_their_speed_between_bounces_and_stay_inside():
    generator = torch.Generator().manual_seed(0)
    scenes = demo.random_scenes(32, generator)
    motion, half = demo.random_motion(32, generator), demo.half_sizes(scenes)
    centres = demo.trajectory(motion, half, 257)
    assert (centres >= half[:, None, None] - 1e-4).all() and (centres <= 32 - half[:, None, None] + 1e-4).all()
    steps = centres.diff(dim=1).abs()
    torch.testing.assert_close(steps.median(dim=1).values, motion.velocity_px.abs(), atol=1e-4, rtol=0)
    assert (steps <= motion.velocity_px.abs()[:, None] + 1e-4).all()


def test_trajectory_is_a_straight_line_folded_at_the_walls():
    motion = demo.Motion(torch.tensor([[24.0, 16.0]]), torch.tensor([[1.0, 0.0]]))
    centres = demo.trajectory(motion, torch.tensor([6.0]), 6)
    assert centres[0, :, 0].tolist() == [24, 25, 26, 25, 24, 23]
    assert centres[0, :, 1].tolist() == [16] * 6


def test_circle_and_square_have_about_the_same_area():
    scenes = [demo.Scene(shape, "red", "dark") for shape in demo.SHAPES]
    area = demo.object_coverage(scenes, torch.full((2, 1, 2), 16.0)).sum(dim=(1, 2, 3))
    assert area.tolist() == pytest.approx([np.pi * 49, 169], rel=0.02)


def test_colours_and_backgrounds_cannot_be_confused():
    colours = np.array(list(demo.COLOURS.values())) / 255
    assert (colours.max(axis=1) - colours.min(axis=1) > 0.55).all()
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(len(colours))
    assert distances.min() > 0.55
    for name in demo.BACKGROUNDS:
        image = demo.background_image(name)
        assert image.shape == (3, 32, 32)
        assert (image.max(dim=0).values - image.min(dim=0).values).max() < 0.02
