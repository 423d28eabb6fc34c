"""The mp4."""

import os
import signal
import subprocess
import sys

import av
import numpy as np
import pytest

from xdualparal.output.h264 import X264
from xdualparal.output.left_video import frames_in, label_of
from xdualparal.output.mp4 import COPIED_FRAMES, VideoWriter


def read(path):
    """(frames, height, width, 3) uint8, and the frame rate."""
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, container.streams.video[0].average_rate


def clip(count):
    """A white square that moves to the right, floats in 0..1."""
    frames = np.zeros((count, 32, 32, 3), np.float32)
    for n, frame in enumerate(frames):
        frame[8:20, n:n + 12] = 1.0
    return frames


@pytest.mark.parametrize("as_type", [np.float32, np.uint8])
def test_frames_come_back(tmp_path, as_type):
    frames = clip(10) if as_type is np.float32 else (clip(10) * 255).astype(np.uint8)
    with VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        writer.write(frames[:7])
        writer.write(frames[7:])
    back, rate = read(tmp_path / "a.mp4")
    assert writer.frames_written == len(back) == 10 and rate == 16
    assert np.abs(back.astype(float) - clip(10) * 255).mean() < 3


def test_an_error_leaves_a_file_that_plays(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        writer.write(clip(5))
        raise KeyError
    assert len(read(tmp_path / "a.mp4")[0]) == 5


def test_the_same_frames_give_the_same_file(tmp_path):
    files, frames = [], np.random.default_rng(0).random((12, 12, 3)).repeat(4, 0).repeat(4, 1)
    for n in range(12):
        with VideoWriter(tmp_path / f"{n}.mp4", fps=16) as writer:
            writer.write(np.stack([np.roll(frames, shift, axis=1) for shift in range(64)]))
        files.append((tmp_path / f"{n}.mp4").read_bytes())
    assert all(file == files[0] for file in files)


KILLED = """
import os, signal, sys
import numpy as np
from xdualparal.output.mp4 import VideoWriter
VideoWriter(sys.argv[1], fps=16).write(np.zeros((200, 32, 32, 3), np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_written_plays_after_a_kill(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a.mp4")])
    assert done.returncode == -signal.SIGKILL
    assert len(read(tmp_path / "a.mp4")[0]) == 200 == frames_in(tmp_path / "a.mp4")


SEGMENTS = np.split(clip(20).repeat(4, 0), [45, 61])


@pytest.fixture
def whole(tmp_path):
    """The bytes of a video of SEGMENTS."""
    with VideoWriter(tmp_path / "whole.mp4", fps=16) as writer:
        for segment in SEGMENTS:
            writer.write(segment)
    return (tmp_path / "whole.mp4").read_bytes()


ON_A_FULL_DISK = """
import resource, sys
import numpy as np
from xdualparal.output.mp4 import VideoWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
writer = VideoWriter(sys.argv[1], fps=16)
while True:
    writer.write(np.random.default_rng(writer.frames_written).random((5, 32, 32, 3)))
"""


def test_a_segment_that_does_not_fit_is_not_there_at_all(tmp_path):
    """A limit on the file's size is here what a full disk is."""
    done = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    what = f"OSError: {tmp_path / 'a.mp4'} could not be written (File too large): free some space, or give another folder"
    assert what in done.stderr
    assert len(read(tmp_path / "a.mp4")[0]) == frames_in(tmp_path / "a.mp4") > 0
    assert frames_in(tmp_path / "a.mp4") % 5 == 0


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("lost_bytes", [0, 700])
@pytest.mark.parametrize("piece", [1, 20, COPIED_FRAMES])
def test_a_resumed_video_has_the_same_bytes(tmp_path, monkeypatch, whole, closed, lost_bytes, piece):
    """After a proper end, and after a kill that cut the last segment short; what is kept is copied in pieces."""
    monkeypatch.setattr("xdualparal.output.mp4.COPIED_FRAMES", piece)
    file = tmp_path / "a.mp4"
    writer = VideoWriter(file, fps=16)
    for segment in SEGMENTS[:2]:
        writer.write(segment)
    if closed:
        writer.close()
    elif lost_bytes:
        os.truncate(file, file.stat().st_size - lost_bytes)
        assert 45 <= frames_in(file) < 61
    kept = 45 if lost_bytes else 61
    with VideoWriter(file, fps=16, frames_kept=kept) as writer:
        for segment in SEGMENTS[1 if lost_bytes else 2:]:
            writer.write(segment)
    assert file.read_bytes() == whole
    assert [other.name for other in tmp_path.iterdir() if other.suffix == ".part"] == []


def test_a_segment_is_in_the_file_when_it_is_written(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        assert frames_in(tmp_path / "a.mp4") == 0
        for segment in SEGMENTS:
            writer.write(segment)
            assert frames_in(tmp_path / "a.mp4") == len(read(tmp_path / "a.mp4")[0]) == writer.frames_written


def test_frames_have_their_own_times(tmp_path, whole):
    with av.open(str(tmp_path / "whole.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == [n / 16 for n in range(80)]


def test_a_better_quality_is_a_bigger_file(tmp_path):
    sizes = []
    for quality in (10, 30):
        with VideoWriter(tmp_path / f"{quality}.mp4", fps=16, quality=quality) as writer:
            writer.write(np.random.default_rng(0).random((5, 32, 32, 3)))
        sizes.append((tmp_path / f"{quality}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_a_file_carries_its_label(tmp_path):
    """While it grows, when it is closed, and when it is gone on with."""
    file = tmp_path / "a.mp4"
    assert label_of(file) == ""
    with VideoWriter(file, fps=16, label="that run") as writer:
        writer.write(clip(10))
        assert label_of(file) == "that run"
    assert label_of(file) == "that run"
    with VideoWriter(file, fps=16, frames_kept=10, label="that run") as writer:
        assert label_of(file) == "that run"
        writer.write(clip(10))
    assert label_of(file) == "that run" and frames_in(file) == 20


def test_a_closed_file_takes_nothing_more(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", fps=16)
    writer.write(clip(5))
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write(clip(5))
    assert frames_in(tmp_path / "a.mp4") == 5


def test_a_closed_file_says_how_long_it_is(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        writer.write(clip(10))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == 10


def test_nothing_written_leaves_what_was_there(tmp_path, whole):
    writer = VideoWriter(tmp_path / "whole.mp4", fps=16, overwrite=True)
    assert (tmp_path / "whole.mp4").read_bytes() == whole
    writer.close()
    assert (tmp_path / "whole.mp4").read_bytes() == whole and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("settings, named", [
    (dict(fps=16, quality=30), r"quality is 18.0 there and 30.0 here"),
    (dict(fps=16, quality=19), r"quality is 18.0 there and 19.0 here"),
    (dict(fps=24), "fps is 16 there and 24 here"),
])
def test_frames_of_another_encoding_are_refused(tmp_path, closed, settings, named):
    """The file has one codec header: appended frames that need another one would be decoded to garbage."""
    file = tmp_path / "a.mp4"
    writer = VideoWriter(file, fps=16)
    writer.write(SEGMENTS[0])
    if closed:
        writer.close()
    before, files = file.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"a.mp4 has frames of another encoding.*{named}.*: give the same settings"):
        VideoWriter(file, frames_kept=len(SEGMENTS[0]), **settings)
    assert file.read_bytes() == before and sorted(tmp_path.iterdir()) == files


def test_another_encoders_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.mp4"
    with monkeypatch.context() as other:
        other.setattr("xdualparal.output.h264.X264", X264 + ":cabac=0")
        with VideoWriter(file, fps=16) as writer:
            writer.write(clip(5))
    before = file.read_bytes()
    with pytest.raises(ValueError, match="header is 0164.* there and 0164.* here"):
        VideoWriter(file, fps=16, frames_kept=5)
    assert file.read_bytes() == before


@pytest.mark.parametrize("frames_kept", [0, 10])
def test_frames_of_another_size_are_refused(tmp_path, frames_kept):
    file = tmp_path / "a.mp4"
    with VideoWriter(file, fps=16) as writer:
        writer.write(clip(10))
    before = file.read_bytes()
    with VideoWriter(file, fps=16, frames_kept=frames_kept, overwrite=True) as writer:
        if not frames_kept:
            writer.write(clip(10))
        with pytest.raises(ValueError, match="these frames are 32 x 48 pixels and those in .*a.mp4 32 x 32: write another"):
            writer.write(np.zeros((5, 48, 32, 3)))
    assert file.read_bytes() == before
