"""The measures on clips whose truth is known: right ones score full marks, each fault is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xdualparal.demo import quality
from xdualparal.demo import scenes as demo

torch.set_num_threads(1)
SCENE = demo.Scene("circle", "red", "dark")


def clips_of(scenes, num_frames=81, seed=0):
    """Videos (frames, 32, 32, 3) in 0..1."""
    clips, _ = demo.make_clips(scenes, num_frames, torch.Generator().manual_seed(seed))
    return [clip.permute(1, 2, 3, 0).numpy() / 2 + 0.5 for clip in clips]


def clip_at(scene, centres):
    """One video whose object is at `centres`, a list of (x, y) in pixels."""
    clips, _ = demo.render([scene], torch.tensor(centres, dtype=torch.float32)[None])
    return clips[0].permute(1, 2, 3, 0).numpy() / 2 + 0.5


def line(frames=40, speed=0.4):
    return [(8 + speed * i, 16.0) for i in range(frames)]


def test_true_clips_score_full_marks_for_every_scene():
    scenes = demo.all_scenes()
    measured = [quality.measure(v, s.prompt) for v, s in zip(clips_of(scenes), scenes)]
    assert all(m.one_object == m.colour == m.shape == m.background == 1 for m in measured)
    assert all(m.all_right for m in measured)
    assert max(m.speed_error_px for m in measured) < 0.05
    assert max(m.longest_step_px for m in measured) < 1.1


def test_speed_is_the_one_that_was_drawn():
    motion = demo.random_motion(48, torch.Generator().manual_seed(0))
    videos = clips_of(demo.all_scenes())
    speeds = [quality.measure(v, s.prompt).speed_px for v, s in zip(videos, demo.all_scenes())]
    np.testing.assert_allclose(speeds, motion.velocity_px.norm(dim=1), atol=0.05)


@pytest.mark.parametrize(
    "part, other", [("colour", "magenta"), ("colour", "yellow"), ("shape", "square"), ("background", "grey")]
)
def test_what_does_not_follow_the_prompt_is_seen(part, other):
    video = clips_of([replace(SCENE, **{part: other})])[0]
    measures = quality.measure(video, SCENE.prompt)
    assert getattr(measures, part) == 0
    assert {name for name in ("one_object", "colour", "shape", "background") if getattr(measures, name) < 1} == {part}
    assert not measures.all_right


def test_second_object_is_seen_even_in_another_colour():
    one = clip_at(SCENE, [(8.0, 8.0)] * 20)
    for colour in ("red", "blue"):
        two = clip_at(replace(SCENE, colour=colour), [(24.0, 24.0)] * 20)
        both = np.where(quality.chroma(two)[..., None] > 0.1, two, one)
        assert quality.measure(both, SCENE.prompt).one_object == 0


def test_missing_object_is_seen():
    video = clip_at(SCENE, line(20))
    video[5:] = demo.background_image("dark").permute(1, 2, 0).numpy()
    measures = quality.measure(video, SCENE.prompt)
    assert measures.one_object == measures.colour == measures.shape == 0.25
    empty = quality.measure(video[10:], SCENE.prompt)
    assert empty.one_object == 0 and np.isnan(empty.speed_px) and not empty.all_right


def test_jump_is_seen():
    measures = quality.measure(clip_at(SCENE, [(8.0, 8.0)] * 10 + [(20.0, 20.0)] * 10), SCENE.prompt)
    assert measures.longest_step_px == pytest.approx(np.hypot(12, 12), abs=0.2)
    assert not measures.all_right


def test_unsteady_motion_raises_the_speed_error_and_bounces_do_not():
    steady = quality.measure(clip_at(SCENE, line()), SCENE.prompt)
    jitter = np.random.default_rng(0).normal(0, 0.3, (40, 2))
    shaky = quality.measure(clip_at(SCENE, np.array(line()) + jitter), SCENE.prompt)
    bouncing = quality.measure(clips_of([SCENE], 257, seed=2)[0], SCENE.prompt)
    assert steady.speed_px == pytest.approx(0.4, abs=0.02)
    assert steady.speed_error_px < 0.02 and bouncing.speed_error_px < 0.05 and shaky.speed_error_px > 0.15


def test_turning_round_in_the_middle_is_not_a_bounce():
    there_and_back = [(12 + 0.5 * min(i % 12, 12 - i % 12), 16.0) for i in range(48)]
    centres = np.array(there_and_back)
    assert not quality.bounces(centres, 6.0, 32).any()


def test_shape_is_told_from_blurred_and_smaller_objects():
    for shape in demo.SHAPES:
        scene = replace(SCENE, shape=shape)
        video = clips_of([scene], 9)[0]
        blurred = sum(np.roll(video, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
        assert quality.measure(blurred, scene.prompt).shape == 1


def test_summary_counts_clips():
    good = quality.measure(clip_at(SCENE, line()), SCENE.prompt)
    wrong = quality.measure(clip_at(SCENE, line()), replace(SCENE, colour="blue").prompt)
    summary = quality.summary([good, good, good, wrong])
    assert summary["clips"] == 4
    assert summary["colour_accuracy"] == summary["all_right"] == 0.75
    assert summary["shape_accuracy"] == summary["one_object_clips"] == 1


def test_frames_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="48 x 32"):
        quality.to_demo_size(np.zeros((1, 32, 48, 3)))
