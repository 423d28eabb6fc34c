"""Metrics of the second demo world: a true video is perfect, and each damage moves its own figures and no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xdualparal.demo import world, world_score
from xdualparal.quality.facts import VideoFacts
from xdualparal.quality.measure import measure_video
from xdualparal.quality.worlds import TWO_OBJECTS

torch.set_num_threads(1)
FACTS, SCENE, FRAMES, HALF = VideoFacts(8, 4), world.EXAMPLE, 129, 64
SHARES = ("objects", "front_colour", "back_colour", "front_shape", "back_shape", "texture", "in_front", "identity", "prompt", "all_right")
NEAR = dict(  # how near to a true video's figure counts as not moved
    dict.fromkeys(SHARES, 0.02), frozen_share=0, loop_share=0.1, colour_error=0.02, colour_drift=0.02, area_drift=0.02, fade_error=0.03,
    pan_error_px=0.03, seam_pan_error_px=0.1, seam_jump_px=0.3, other_jump_px=0.3, longest_step_px=0.5, seam_first_ratio=0.3,
    saturation_drift=0.01,
)


def true(scene=SCENE, seed=1):
    return TWO_OBJECTS.clip(scene, FRAMES, seed)


def drawn(**changed):
    """The example's true clip (seed 1) with some of its truth changed, each by a function."""
    truth = world.clip_of(SCENE, FRAMES, 1)[1]
    clips, _ = world.render([SCENE], replace(truth, **{name: of(getattr(truth, name)) for name, of in changed.items()}))
    return (clips[0].permute(1, 2, 3, 0) * 127.5 + 127.5).round().byte().numpy()


@pytest.fixture(scope="module")
def perfect():
    return measure_video(true(), FACTS, SCENE)


def seams():
    """A jump at each seam: every second block is 3 frames further on."""
    late = np.arange(FRAMES)
    for number, seam in enumerate(FACTS.seams(FRAMES)):
        late[seam:] += 3 * (-1) ** number
    return TWO_OBJECTS.clip(SCENE, FRAMES + 3, 1)[late]


def frozen():
    return np.repeat(true()[:1], FRAMES, axis=0)


def paler():
    """All colours lose a quarter of their chroma by the end."""
    video = true().astype(np.float32)
    grey = video.mean(axis=-1, keepdims=True)
    return (grey + (video - grey) * np.linspace(1, 0.75, FRAMES)[:, None, None, None]).round().astype(np.uint8)


def vanished():
    """The back object is not there in the second half."""

    def away(centres):
        centres = centres.clone()
        centres[:, 1, HALF:] = -100
        return centres
    return drawn(centres_px=away)


def stopped_pan():
    return drawn(background_px=lambda shift: torch.where(torch.arange(FRAMES) < HALF, shift, shift[:, HALF:HALF + 1]))


def other_texture():
    return np.concatenate([true()[:HALF], true(replace(SCENE, texture="dotted"))[HALF:]])


def other_colour():
    """In the second half the back object is cyan, and the front one stays red."""
    return np.concatenate([true()[:HALF], true(replace(SCENE, back_colour="cyan", turned_colour="red"))[HALF:]])


@pytest.mark.parametrize("damage, moved", [
    # 3 frames of 0.75 to 1.25 pixels, 4 against the direction; of the background 0.5
    (seams, dict(seam_jump_px=(2, 5), seam_pan_error_px=1.5, seam_first_ratio=(1.3, 2), longest_step_px=(3, 5.5), pan_error_px=(0.02, 0.06),
                 fade_error=(0.02, 0.06), all_right=0)),
    # the objects are apart in the first frame: nothing is covered and nothing passes
    (frozen, dict(frozen_share=1, pan_error_px=0.5, fade_error=(0.25, 0.45), seam_pan_error_px=0.5, seam_first_ratio=None, in_front=None,
                  identity=None, longest_step_px=0, all_right=0)),
    (paler, dict(colour_drift=(0.1, 0.2), colour_error=(0.05, 0.12), saturation_drift=(-0.05, -0.01))),
    # one of two passes is before it; one object alone comes back more often
    (vanished, dict(objects=HALF / FRAMES, back_colour=HALF / FRAMES, prompt=HALF / FRAMES, identity=0.5, saturation_drift=(-0.1, -0.03),
                    loop_share=(0.2, 0.6), all_right=0)),
    (stopped_pan, dict(pan_error_px=0.25, seam_pan_error_px=1 / 3, all_right=0)),  # before the second one of three seams
    # the second half's other texture is looked for in vain: where it is found is chance
    (other_texture, dict(texture=HALF / FRAMES, prompt=HALF / FRAMES, pan_error_px=(0.03, 0.2), all_right=0)),
    (other_colour, dict(back_colour=HALF / FRAMES, prompt=HALF / FRAMES, fade_error=(0.2, 0.3), colour_error=(0.1, 0.2), colour_drift=(0.2, 0.3),
                        identity=2 / 3, all_right=0)),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_damage_moves_its_figures_and_no_others(perfect, damage, moved):
    found = measure_video(damage(), FACTS, SCENE)
    for name, value in moved.items():
        if isinstance(value, tuple):
            assert value[0] <= found[name] <= value[1], name
        else:
            assert found[name] == (None if value is None else pytest.approx(value, abs=0.03)), name
    for name in set(NEAR) - set(moved):
        assert found[name] == pytest.approx(perfect[name], abs=NEAR[name]), name


def test_a_true_video_is_perfect(perfect):
    assert all(perfect[name] == 1 for name in SHARES)
    assert perfect["frozen_share"] == 0 and perfect["seam_jump_px"] < 0.1 and perfect["pan_error_px"] < 0.03 and perfect["fade_error"] < 0.03
    assert perfect["colour_error"] < 0.05 and abs(perfect["colour_drift"]) < 0.01 and abs(perfect["area_drift"]) < 0.01


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_short_video(count):
    assert measure_video(true()[:count], FACTS, SCENE)["objects"] == 1


def test_an_empty_background():
    truth = world.clip_of(SCENE, FRAMES, 1)[1]
    video = (world.background(SCENE.texture, truth.background_px[0]).permute(1, 2, 3, 0) * 255).round().byte().numpy()
    found = measure_video(video, FACTS, SCENE)
    assert found["objects"] == found["prompt"] == 0 and found["texture"] == 1 and found["pan_error_px"] < 0.03
    assert found["seam_jump_px"] is found["colour_error"] is found["area_drift"] is found["identity"] is None


def test_frames_are_seen_one_by_one_as_all_at_once(perfect):
    """In chunks of 64, the last one of one frame, but for the order of float32 sums; and at twice the size."""
    scored = vars(world_score.score(true() / np.float32(255), SCENE))
    assert {name: perfect[name] for name in scored} == pytest.approx(scored, abs=1e-4)
    large = measure_video(true().repeat(2, axis=1).repeat(2, axis=2), FACTS, SCENE)
    assert {name: large[name] for name in scored} == pytest.approx(scored, abs=1e-4)
