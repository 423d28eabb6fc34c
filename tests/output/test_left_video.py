"""What an earlier run left of a video, whole or damaged."""

import os

import numpy as np
import pytest

from xdualparal.output.left_video import frames_in, label_of
from xdualparal.output.mp4 import VideoWriter
from xdualparal.output.seals import read_seals

SEGMENTS = [np.random.default_rng(n).integers(0, 255, (count, 32, 32, 3), np.uint8) for n, count in enumerate((9, 5, 7))]


def write(path, close):
    """A video of SEGMENTS, closed or as a killed process leaves it."""
    writer = VideoWriter(path, fps=16, label="mine")
    for segment in SEGMENTS:
        writer.write(segment)
    if close:
        writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("close", [True, False])
def test_segments_and_label_come_back(tmp_path, close):
    write(tmp_path / "a.mp4", close)
    assert [frames for frames, _ in read_seals(tmp_path / "a.mp4")] == [9, 5, 7]
    assert frames_in(tmp_path / "a.mp4") == 21 and label_of(tmp_path / "a.mp4") == "mine"


@pytest.mark.parametrize("close", [True, False])
def test_no_damage_is_kept(tmp_path, close):
    """One byte is another one, anywhere: the result is a refusal, or the frames are missing, or what is kept is the same."""
    file = tmp_path / "a.mp4"
    whole = write(file, close)
    os.truncate(file, 0), file.write_bytes(whole)
    with VideoWriter(file, fps=16, label="mine", frames_kept=14):
        pass
    right, found = file.read_bytes(), 0
    for place in np.random.default_rng(3).integers(0, len(whole), 150):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1:])
        before = file.read_bytes()
        try:
            with VideoWriter(file, fps=16, label="mine", frames_kept=14):
                pass
            assert file.read_bytes() == right, place
        except ValueError as error:
            found += 1
            assert "a.mp4" in str(error) and "\n" not in str(error) and file.read_bytes() == before
            assert [other.name for other in tmp_path.iterdir()] == ["a.mp4"]
    assert found > 50


@pytest.mark.parametrize("content", [b"", b"hello there", b"\0\0\0\x08free", b"\0\0\0\x1cfreexdualparal segments {", b"\xff" * 400])
def test_a_foreign_file_has_no_frames_and_no_label(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    assert frames_in(tmp_path / "a.mp4") == 0 and label_of(tmp_path / "a.mp4") == ""


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "folder.mp4").mkdir(), os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("folder.mp4", "pipe.mp4"):
        for read in (frames_in, label_of):
            with pytest.raises(ValueError, match="is no file: give another name"):
                read(tmp_path / name)
    assert frames_in(tmp_path / "none.mp4") == 0 and label_of(tmp_path / "none.mp4") == ""
