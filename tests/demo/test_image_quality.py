"""The measures of clips that begin with an image, on clips whose truth is known: right ones are all right, each fault is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xdualparal.demo import image_quality
from xdualparal.demo import scenes as demo

torch.set_num_threads(1)
SCENE = demo.Scene("circle", "red", "dark")


def video_at(scene, centres):
    """A video whose object is at ``centres``, a list of (x, y) in pixels."""
    clips, _ = demo.render([scene], torch.tensor(centres, dtype=torch.float32)[None])
    return clips[0].permute(1, 2, 3, 0).numpy() / 2 + 0.5


def line(x, y=16.0, speed=0.6, frames=16):
    return [(x + speed * i, y) for i in range(frames)]


def image_at(x, y=16.0):
    return video_at(SCENE, [(x, y)])[0]


def measured(video, image=image_at(8.0)):
    return image_quality.measure(video, SCENE.prompt, image)


def test_true_clips_are_all_right_for_every_scene():
    for seed, scene in enumerate(demo.all_scenes()):
        video = demo.drawn_frames(scene, 81, seed).numpy() / 255
        measures = image_quality.measure(video, scene.prompt, image_quality.image_of(scene, seed) / 255)
        assert measures.all_right and measures.place_error_px < 1e-3 and measures.first_step_px < 1.1


def test_a_wrong_place_is_seen_and_a_near_one_forgiven():
    assert measured(video_at(SCENE, line(9.0))).all_right
    for start in (10.0, 16.0):
        far = measured(video_at(SCENE, line(start)))
        assert far.place_error_px == pytest.approx(start - 8, abs=0.1)
        assert far.looks_right and far.motion_right and not far.place_right and not far.all_right


def test_an_object_that_leaves_its_place_in_the_first_frames_is_seen():
    jump = measured(video_at(SCENE, line(8.0, frames=3) + line(14.0)))
    assert jump.first_step_px == pytest.approx(4.8, abs=0.1)
    assert jump.place_error_px < 0.1 and not jump.place_right and not jump.motion_right


@pytest.mark.parametrize("part, other", [("colour", "magenta"), ("shape", "square"), ("background", "grey")])
def test_what_looks_wrong_is_seen(part, other):
    wrong = measured(video_at(replace(SCENE, **{part: other}), line(8.0)))
    assert wrong.place_right and wrong.motion_right and not wrong.looks_right and not wrong.all_right


@pytest.mark.parametrize("speed", [0.0, 0.1, 1.4])
def test_a_speed_of_no_object_is_seen(speed):
    wrong = measured(video_at(SCENE, line(8.0, speed=speed, frames=12)))
    assert wrong.looks_right and wrong.place_right and not wrong.motion_right and not wrong.all_right


def test_an_empty_video_has_no_place():
    empty = measured(np.full((16, 32, 32, 3), 0.1, dtype=np.float32))
    assert np.isnan(empty.place_error_px) and not empty.place_right and not empty.all_right


def test_the_summary_counts_clips_and_leaves_out_places_that_are_not_there():
    right, far = measured(video_at(SCENE, line(8.0))), measured(video_at(SCENE, line(16.0)))
    empty = measured(np.full((16, 32, 32, 3), 0.1, dtype=np.float32))
    found = image_quality.summary([right, right, far, empty])
    assert (found["clips"], found["all_right"], found["place_right"], found["looks_right"]) == (4, 0.5, 0.5, 0.75)
    assert found["place_error_px"] == pytest.approx(8 / 3, abs=0.1)


def test_the_sheet_has_a_row_for_each_image():
    videos = [video_at(SCENE, line(8.0))] * 2
    sheet = image_quality.contact_sheet([image_quality.image_of(SCENE, 0)] * 2, videos, columns=5, scale=2)
    assert sheet.shape == (2 * 2 * 34, 5 * 2 * 34, 3) and sheet.dtype == np.uint8
