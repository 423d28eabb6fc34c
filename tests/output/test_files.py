"""Nothing that exists is replaced by accident."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xdualparal.output import files
from xdualparal.output.lock import FileLock, lock_path
from xdualparal.output.mp4 import VideoWriter

FRAMES = np.zeros((3, 32, 32, 3), np.uint8)


def make(kind, folder):
    """Something of a kind at folder / "a.mp4"."""
    path = folder / "a.mp4"
    (folder / "target").write_text("a user's")
    if kind == "file":
        path.write_text("a user's")
    elif kind == "empty file":
        path.write_text("")
    elif kind == "read-only file":
        path.write_text("a user's"), path.chmod(0o444)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(folder / "target")
    elif kind == "link to nothing":
        path.symlink_to(folder / "nothing")
    elif kind == "device":
        path.symlink_to("/dev/null")
    return path


def state(folder):
    """All that is in ``folder``."""
    return sorted((file.name, os.lstat(file)[:4], file.read_bytes() if file.is_file() else b"") for file in folder.iterdir())


@pytest.mark.parametrize("kind, why, is_replaced", [
    ("file", "exists and is not of this run: give another name", True),
    ("empty file", "exists and is not of this run: give another name", True),
    ("read-only file", "cannot be written .it is read-only.", False),
    ("folder", "cannot be written .it is a folder.", False),
    ("pipe", "cannot be written .it is a pipe or device.", False),
    ("link", "cannot be written .it is a link.", False),
    ("link to nothing", "cannot be written .it is a link.", False),
    ("device", "cannot be written .it is a link.", False),
])
def test_a_video_replaces_nothing(tmp_path, kind, why, is_replaced):
    path = make(kind, tmp_path)
    before = state(tmp_path)
    with pytest.raises(ValueError, match=why):
        VideoWriter(path, fps=16)
    assert state(tmp_path) == before
    if is_replaced:
        with VideoWriter(path, fps=16, overwrite=True) as writer:
            writer.write(FRAMES)
        assert path.stat().st_size > 100
    else:
        with pytest.raises(ValueError, match=why):
            VideoWriter(path, fps=16, overwrite=True)
        assert state(tmp_path) == before
    assert (tmp_path / "target").read_text() == "a user's" and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_appears_while_a_video_is_made_stays(tmp_path):
    with pytest.raises(FileExistsError), VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        (tmp_path / "a.mp4").write_text("a user's")
        writer.write(FRAMES)
    assert (tmp_path / "a.mp4").read_text() == "a user's" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["a" * 254, "a" * 244, "a\0b", "a\nb", "\udcff", "a\u2028b"])
def test_a_name_that_cannot_be(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be written") as error:
        files.check_regular(tmp_path / name, "the video")
    assert len(str(error.value).splitlines()) == 1


def test_one_file_under_two_names(tmp_path):
    (tmp_path / "a").write_text(""), (tmp_path / "folder").mkdir()
    (tmp_path / "soft").symlink_to(tmp_path / "a"), os.link(tmp_path / "a", tmp_path / "hard")
    (tmp_path / "same folder").symlink_to(tmp_path / "folder")
    for other in ("a", "soft", "hard", "folder/../a"):
        with pytest.raises(ValueError, match="--one .*/a and --two .* are one file: give each its own"):
            files.check_apart([("--one", tmp_path / "a"), ("--two", tmp_path / other)])
    with pytest.raises(ValueError, match="are one file"):
        files.check_apart([("--one", tmp_path / "folder" / "new"), ("--two", tmp_path / "same folder" / "new")])
    files.check_apart([("--one", tmp_path / "b"), ("--two", tmp_path / "c")])


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    names = ["a[1].mp4", ".a[1].mp4.part", ".a[1].mp4.1234.part", "a[1].mp4.12345678.part", ".a1.mp4.12345678.part"]
    for name in names:
        (tmp_path / name).write_text("a user's")
    files.create_beside(tmp_path / "a[1].mp4")
    files.remove_left_beside(tmp_path / "a[1].mp4")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def test_a_lock_is_for_one(tmp_path):
    lock = FileLock(tmp_path / "a.mp4", "--output")
    with pytest.raises(ValueError, match=rf"--output .*a.mp4 is being written by another run \(process {os.getpid()} on .+\): wait"):
        FileLock(tmp_path / "a.mp4", "--output")
    FileLock(tmp_path, "--dualparal_checkpoint").release()
    lock.release(), lock.release()
    assert not list(tmp_path.iterdir())
    FileLock(tmp_path / "a.mp4", "--output").release()


OWNER = """
import os, sys, time
from xdualparal.output.lock import FileLock
lock = FileLock(sys.argv[1], "it")
if not os.fork():
    print("locked", flush=True)
time.sleep(100)
"""


def test_a_lock_ends_with_its_owner_though_a_child_of_it_lives(tmp_path):
    with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "a")], stdout=subprocess.PIPE, start_new_session=True) as owner:
        try:
            assert owner.stdout.readline() == b"locked\n"
            with pytest.raises(ValueError, match=f"process {owner.pid} on "):
                FileLock(tmp_path / "a", "it")
            owner.kill(), owner.wait()
            assert lock_path(tmp_path / "a").exists()
            FileLock(tmp_path / "a", "it").release()
        finally:
            os.killpg(owner.pid, 9)
    assert not list(tmp_path.iterdir())


HOLDER = """
import sys, time
from xdualparal.output.lock import FileLock
for _ in range(300):
    try:
        with FileLock(sys.argv[1], "it"), open(sys.argv[1], "x"):
            import os; os.unlink(sys.argv[1])
    except ValueError:
        pass
"""


def test_never_two_at_once(tmp_path):
    """Each removes its lock file while others open it."""
    holders = [subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "a")]) for _ in range(3)]
    assert [holder.wait(60) for holder in holders] == [0, 0, 0] and not list(tmp_path.iterdir())
