"""A video that goes on from another one's file, by the launcher."""

import itertools

import numpy as np
import pytest
import torch
from dualparal_testing.commands import Run, kill, run

from xdualparal import initial_noise
from xdualparal.models.wan import WanFamily
from xdualparal.output.latents_file import read_before, read_latents
from xdualparal.output.mp4 import VideoWriter
from xdualparal.quality.facts import facts_of
from xdualparal.quality.frames import frames_of
from xdualparal.xdit.continuing import last_noise_of

pytestmark = pytest.mark.processes
COMMAND = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "4", "--dualparal_quality", "0"]


def pictures(path):
    """(frames, height, width, 3) uint8."""
    return np.stack(list(frames_of(path)))


def make(folder, name, *flags, frames=60, stages=1):
    """Runs a command that makes folder/name.mp4 and name.latents; returns the mp4."""
    code, output = run([
        *COMMAND, "--num_frames", frames, "--dualparal_degree", stages, "--dualparal_output", folder / f"{name}.mp4", "--dualparal_latents_out",
        folder / f"{name}.latents", *flags,
    ], folder / f"{name}.log")
    assert code == 0, output
    return folder / f"{name}.mp4"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with ``first``, and ``second``, which goes on from its latents."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, "first", frames=77)
    make(folder, "second", "--seed", "1", "--dualparal_continue", folder / "first.latents", stages=2)
    return folder


def test_the_new_frames_are_alone_in_their_file(made):
    assert len(pictures(made / "second.mp4")) == 60
    before, last = read_before(made / "second.latents"), torch.cat([latents for _, latents in read_latents(made / "first.latents")], dim=2)
    assert torch.equal(before, last[:, :, -before.shape[2]:]) and read_before(made / "first.latents") is None
    assert sum(latents.shape[2] for _, latents in read_latents(made / "second.latents")) == 15


def test_its_latents_decode_to_the_same_frames(made, tmp_path):
    code, output = run(["decode", made / "second.latents", "--output", tmp_path / "again.mp4", "--quality", "0"], tmp_path / "log")
    assert code == 0, output
    assert np.array_equal(pictures(tmp_path / "again.mp4"), pictures(made / "second.mp4"))


def test_the_noise_of_what_is_continued_is_known(made):
    """By the seed and the sizes of the run that made it; not of pixels."""
    facts, shape = WanFamily.facts, (8, 8, 8)
    for name, seed, continued, frames in (("first", 42, 0, 20), ("second", 1, 4, 19)):
        whole = torch.cat(initial_noise(2, 8, 4, shape, torch.Generator().manual_seed(seed), frames), dim=2)
        assert torch.equal(last_noise_of(made / f"{name}.latents", facts, shape, 4), whole[:, :, -4:])
    assert last_noise_of(made / "first.mp4", facts, shape, 4) is None


def test_behind_a_copy_and_twice(made, tmp_path):
    """Of the same frames, and so is what goes on from there; the seams that quality looks at begin with the join."""
    both = make(tmp_path, "both", "--seed", "1", "--dualparal_continue", made / "first.latents", "--dualparal_append_to", made / "first.mp4")
    assert np.array_equal(pictures(both), np.concatenate([pictures(made / "first.mp4"), pictures(made / "second.mp4")]))
    assert facts_of(both).seams(137).tolist() == [77, 109]
    three = make(tmp_path, "three", "--seed", "2", "--dualparal_continue", tmp_path / "both.latents", "--dualparal_append_to", both, frames=9)
    assert np.array_equal(pictures(three)[:137], pictures(both)) and len(pictures(three)) == 146


def test_killed_and_resumed_to_the_same_bytes(made, tmp_path):
    flags = ["--dualparal_continue", made / "first.latents", "--dualparal_append_to", made / "first.mp4", "--dualparal_degree", "2", "--num_frames", "400"]
    whole = [*COMMAND, *flags, "--dualparal_output", tmp_path / "whole.mp4"]
    assert run(whole, tmp_path / "log") [0] == 0
    resumed = [*COMMAND, *flags, "--dualparal_output", tmp_path / "resumed.mp4", "--dualparal_checkpoint", tmp_path / "c", "--dualparal_checkpoint_waves", "1"]
    with Run(resumed, tmp_path / "killed.log") as one:
        one.wait_until(lambda: (tmp_path / "resumed.mp4").exists())
        kill(one.workers()[0], 9)
        assert one.ended() == 1
    code, output = run(resumed, tmp_path / "resumed.log")
    assert code == 0, output
    assert (tmp_path / "resumed.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_file_without_the_copy_is_not_resumed_as_one_behind_it(made, tmp_path):
    """Its frames would count as the copy's."""
    on = [*COMMAND, "--dualparal_degree", "1", "--num_frames", "400", "--dualparal_continue", made / "first.latents", "--dualparal_output",
          tmp_path / "on.mp4", "--dualparal_checkpoint", tmp_path / "c", "--dualparal_checkpoint_waves", "1"]
    with Run(on, tmp_path / "killed.log") as one:
        one.wait_until(lambda: (tmp_path / "on.mp4").exists())
        kill(one.workers()[0], 9)
        assert one.ended() == 1
    code, output = run([*on, "--dualparal_append_to", made / "first.mp4"], tmp_path / "log")
    assert code == 2 and "appended_to was " in output, output


def test_from_pixels_of_any_video(tmp_path):
    """A red object that the VAE encodes and decodes again, and the model goes on with."""
    frames = np.full((14, 32, 32, 3), 40, np.uint8)
    for number in range(14):
        frames[number, 10:20, 6 + number // 2:16 + number // 2] = (220, 40, 40)
    with VideoWriter(tmp_path / "other.mp4", fps=16) as file:
        file.write(frames)
    assert len(pictures(make(tmp_path, "on", "--dualparal_continue", tmp_path / "other.mp4", frames=8))) == 8
    before = read_before(tmp_path / "on.latents")
    assert before.shape == (1, 8, 4, 8, 8) and before.abs().max() < 10


def test_another_video_to_continue_is_another_run(made, tmp_path):
    """Its file is not replaced, and its checkpoint not resumed."""
    make(tmp_path, "on", "--dualparal_continue", made / "first.latents", frames=8)
    code, output = run([*COMMAND, "--dualparal_degree", "1", "--num_frames", "8", "--dualparal_continue", made / "second.latents", "--dualparal_output",
                        tmp_path / "on.mp4"], tmp_path / "log")
    assert code == 2 and "continued was " in output, output


NOT_THERE = [
    (["--dualparal_continue", "nothing.mp4"], "nothing.mp4 is no file: give an mp4"),
    (["--dualparal_continue", "first.json"], "first.json is no video"),
    (["--dualparal_continue", "first.mp4", "--height", "64"], "has 32 x 32 pixels and the new frames 32 x 64: give --height 32 --width 32"),
    (["--dualparal_continue", "second.mp4", "--dualparal_append_to", "first.mp4"], "first.mp4 is not the video that is continued: give .*second.mp4"),
    (["--dualparal_continue", "second.latents", "--dualparal_append_to", "first.mp4"], "are of two runs: give the files of one"),
    (["--dualparal_continue", "first.mp4", "--dualparal_append_to", "first.mp4", "--dualparal_quality", "9"], "quality 0 and the new ones have 9"),
    (["--dualparal_append_to", "first.mp4"], "nothing is continued: give continue_from too"),
    (["--dualparal_continue", "first.mp4", "--dualparal_context_latents", "0"], "context_latents is 0, and a video is continued by"),
    (["--dualparal_continue", "first.mp4", "--dualparal_strategy", "chunks"], "strategy is chunks, which cannot: choose dualparal"),
    (["--dualparal_continue", "first.mp4", "--dualparal_output", "first.mp4"], "first.mp4 are one file: give each its own"),
    (["--dualparal_continue", "first.latents", "--dualparal_latents_out", "first.latents"], "first.latents are one file: give each its own"),
]


@pytest.mark.parametrize("flags, words", NOT_THERE, ids=itertools.count())
def test_what_cannot_be_continued_is_refused_before_anything_is_loaded(made, tmp_path, monkeypatch, capsys, flags, words):
    from xdualparal.xdit.checks import check_command
    from xdualparal.xdit.flags import make_parser

    monkeypatch.chdir(made)
    flags = [*COMMAND, "--num_frames", "8", "--dualparal_degree", "1", "--output_directory", str(tmp_path), *flags]
    with pytest.raises(ValueError, match=words):
        check_command(vars(make_parser().parse_args(flags)), 1)
