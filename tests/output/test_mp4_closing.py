"""What an mp4 is when it is closed, and what it says about its run."""

import json
import signal
import subprocess
import sys

import av
import numpy as np
import pytest

from xdualparal.output.files import remove_left_beside
from xdualparal.output.left_video import frames_in, label_of
from xdualparal.output.mp4 import VideoWriter
from xdualparal.output.tags import tags_of


def clip(count):
    """Noise, floats in 0..1."""
    return np.random.default_rng(0).random((count, 32, 32, 3))


def num_frames(path):
    """How many can be decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def top_level(path):
    """The kinds of the file's boxes, in order."""
    content, kinds, start = path.read_bytes(), [], 0
    while start < len(content):
        kinds.append(content[start + 4:start + 8])
        start += int.from_bytes(content[start:start + 4], "big")
    return kinds


def test_a_closed_file_has_its_index_in_front(tmp_path):
    """A browser can play it before it has all of it."""
    with VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        for _ in range(3):
            writer.write(clip(20))
    kinds = top_level(tmp_path / "a.mp4")
    assert kinds[:2] == [b"ftyp", b"moov"] and kinds.count(b"mdat") == 1 and b"moof" not in kinds


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 0.99])
def test_a_full_disk_at_closing_loses_nothing(tmp_path, share):
    """It stays as it grew: here the second file, of which there is no more room for than ``share``, cannot be written."""
    file = tmp_path / "a.mp4"
    done = subprocess.run([sys.executable, "-c", CLOSED_ON_A_FULL_DISK, str(file), str(share)], capture_output=True, text=True)
    assert done.returncode == 0 and "a.mp4 stays fragmented" in done.stderr, done.stderr
    assert num_frames(file) == frames_in(file) == 60 and label_of(file) == "it"
    assert [other.name for other in tmp_path.iterdir()] == ["a.mp4"]


CLOSED_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from xdualparal.output.mp4 import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, share = Path(sys.argv[1]), float(sys.argv[2])
with VideoWriter(path.with_name("b.mp4"), fps=16, label="it") as writer:
    writer.write(np.random.default_rng(0).random((60, 32, 32, 3)))
limit = int(path.with_name("b.mp4").stat().st_size * share)
path.with_name("b.mp4").unlink()
with VideoWriter(path, fps=16, label="it") as writer:
    writer.write(np.random.default_rng(0).random((60, 32, 32, 3)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""

IN_CLOSING = """
import os, signal, sys
import numpy as np
from xdualparal.output.mp4 import VideoWriter
writer = VideoWriter(sys.argv[1], fps=16, label="it")
writer.write(np.zeros((200, 32, 32, 3), np.uint8))
setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
writer.close()
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_in_closing_loses_nothing(tmp_path, call):
    """When the second file is made, before and after it was told to the disk; the next writer clears it away."""
    file = tmp_path / "a.mp4"
    done = subprocess.run([sys.executable, "-c", IN_CLOSING, str(file), call])
    assert done.returncode == -signal.SIGKILL
    assert num_frames(file) == frames_in(file) == 200 and label_of(file) == "it"
    with VideoWriter(file, fps=16, frames_kept=200, label="it"):
        pass
    remove_left_beside(file)  # as who holds the lock on it does
    assert top_level(file)[:2] == [b"ftyp", b"moov"] and [other.name for other in tmp_path.iterdir()] == ["a.mp4"]


def test_the_tags_are_in_the_file_at_every_moment(tmp_path):
    tags = tags_of(dict(prompt="ein Schiff\nim Sturm \N{SNOWFLAKE}", seed=7, height=32, width=32, fps=None, embeds=[]))
    with VideoWriter(tmp_path / "a.mp4", fps=16, label="it", tags=tags) as writer:
        writer.write(clip(3))
        growing = metadata(tmp_path / "a.mp4")
    closed = metadata(tmp_path / "a.mp4")
    for there in (growing, closed):
        assert there["title"] == "ein Schiff\nim Sturm \N{SNOWFLAKE}" and there["comment"] == "it"
        told = json.loads(there["description"])
        assert told.pop("software").startswith("xdualparal ")
        assert told == dict(prompt=there["title"], seed=7, height=32, width=32)
    assert "creation_time" not in closed


def test_half_a_character_in_a_prompt_does_not_lose_the_video(tmp_path):
    """As Python gives bytes of the command line that are no UTF-8."""
    with VideoWriter(tmp_path / "a.mp4", fps=16, tags=tags_of(dict(prompt="a ship \udcff"))) as writer:
        writer.write(clip(3))
    assert metadata(tmp_path / "a.mp4")["title"] == "a ship ?"


def metadata(path):
    """The file's tags."""
    with av.open(str(path)) as container:
        return dict(container.metadata)
