"""``xdit-dualparal decode`` of what is not right: exit code 2, one line, no mp4 and no lock left. In this process."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from xdualparal.xdit.demo_model import TINY_WAN_FOLDER
from xdualparal.output.latents_file import LatentsFile, facts_of
from xdualparal.run_spec import RunSpec
from xdualparal.xdit import commands, screen

VAE = "vae/diffusion_pytorch_model.safetensors"


def kept(folder, *values):
    """A file of latents of 5 frames a block, each block of one value."""
    with LatentsFile(folder / "kept", facts_of(RunSpec(model="tiny-wan", num_frames=5 * len(values), output_type="uint8"))) as file:
        for block, value in enumerate(values):
            file.append(block, torch.full((1, 8, 2, 8, 8), value))
    return folder / "kept"


def refused(capsys, *argv):
    """The one line that decoding ends with."""
    with pytest.raises(SystemExit) as ended:
        commands.main(list(map(str, argv)))
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and errors.count("xdit-dualparal: error: ") == 1 and errors.splitlines()[-1].startswith("xdit-dualparal: error: ")
    return errors.splitlines()[-1]


@pytest.fixture(autouse=True)
def plain_screen(monkeypatch):
    """Leaves the loggers of this process as they are."""
    monkeypatch.setattr(screen, "set_up", lambda with_dualparal: None)


@pytest.mark.parametrize("values, block", [([float("nan")], 0), ([0.0, float("-inf")], 1)])
def test_latents_that_are_not_finite(tmp_path, capsys, values, block):
    line = refused(capsys, kept(tmp_path, *values), "--model_path", TINY_WAN_FOLDER)
    assert f"block {block} of {tmp_path / 'kept'} has a NaN or an infinity" in line
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("value, words", [
    (float("nan"), "weight decoder.conv_out.weight of the vae"), (3e38, "the VAE made frames with a NaN"),
])
def test_a_vae_that_makes_no_frames(tmp_path, capsys, value, words):
    """The second one has finite weights, and overflows."""
    weights = shutil.copytree(TINY_WAN_FOLDER, tmp_path / "weights")
    tensors = load_file(weights / VAE)
    tensors["decoder.conv_out.weight"].fill_(value)
    save_file(tensors, weights / VAE, metadata={"format": "pt"})
    (tmp_path / "kept.mp4").write_text("a user's")
    assert words in refused(capsys, kept(tmp_path, 1.0), "--model_path", weights, "--overwrite")
    assert (tmp_path / "kept.mp4").read_text() == "a user's"  # nothing took its place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.mp4", "weights"]


@pytest.mark.parametrize("output, words", [
    ("a\nb.mp4", "control character"), ("\udcff.mp4", "no UTF-8 text"), ("video", "ends in .mp4"), ("no/v.mp4", "no folder"), ("kept", "are one file"),
])
def test_an_output_that_cannot_be(tmp_path, capsys, monkeypatch, output, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, kept(tmp_path, 1.0), "--model_path", TINY_WAN_FOLDER, "--output", output)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
