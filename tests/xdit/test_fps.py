"""``--fps``: how fast the frames are shown."""

import av
import pytest
from dualparal_testing.commands import run

from xdualparal.limits import FRAME_RATE
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.commands import main as decode
from xdualparal.xdit.flags import make_parser

COMMON = ["--model", "tiny-wan", "--prompt", "a red circle", "--num_frames", "13", "--num_inference_steps", "2", "--dualparal_degree", "1",
          "--dualparal_quality", "0"]  # lossless: the rate decides how many bits a lossy frame gets


def rate_and_frames(path):
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        return stream.average_rate, [frame.to_ndarray().tobytes() for frame in video.decode(stream)]


@pytest.mark.processes
def test_the_same_frames_at_another_rate(tmp_path):
    for name, flags in (("usual", []), ("slow", ["--fps", "8"])):
        files = ["--dualparal_output", tmp_path / f"{name}.mp4", "--dualparal_latents_out", tmp_path / f"{name}.latents", "--output_directory", tmp_path]
        code, output = run([*COMMON, *flags, *files], tmp_path / "log")
        assert code == 0, output
    usual, slow = (rate_and_frames(tmp_path / f"{name}.mp4") for name in ("usual", "slow"))
    assert (usual[0], slow[0]) == (16, 8) and usual[1] == slow[1] and len(slow[1]) == 13
    decode([str(tmp_path / "usual.latents"), "--output", str(tmp_path / "fast.mp4"), "--fps", "30", "--quality", "0"])
    assert rate_and_frames(tmp_path / "fast.mp4") == (30, usual[1])


@pytest.mark.parametrize("fps", ["0", "-1", "500"])
def test_refused(tmp_path, fps):
    args = vars(make_parser().parse_args([*COMMON, "--output_directory", str(tmp_path), "--fps", fps]))
    with pytest.raises(ValueError, match=f"fps is {fps}: give a whole number from {FRAME_RATE.at_least} to {FRAME_RATE.at_most}"):
        check_command(args, 1)
