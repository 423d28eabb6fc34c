"""The folders that killed launchers have left: removed at a later start, and nothing else is."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from xdualparal.launch import run_folder as module
from xdualparal.launch.run_folder import remove_abandoned, run_folder

LAUNCHER = """
import signal, sys
from xdualparal.launch.run_folder import run_folder
with run_folder() as folder:
    (folder / "rank0").write_bytes(b"x")
    print(folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def started(folder):
    """A launcher under way, which leads no workers, and its folder's name."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), TMPDIR=str(folder))
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True, env=environment)
    return process, os.path.basename(process.stdout.readline().strip())


def test_what_a_killed_launcher_left_is_removed_and_what_a_running_one_has_is_not(temporary):
    (killed, left), (running, kept) = started(temporary), started(temporary)
    with killed, running:
        try:
            killed.send_signal(signal.SIGKILL)
            killed.wait(30)
            assert sorted(os.listdir(temporary)) == sorted([left, kept])
            with run_folder() as own:
                assert sorted(os.listdir(temporary)) == sorted([kept, own.name])
        finally:
            running.kill()
    remove_abandoned()
    assert os.listdir(temporary) == []


def abandoned(folder, name="abcdefg_"):
    made = folder / (module._PREFIX + name)
    made.mkdir()
    (made / "rank0").write_text("x")
    return made


def test_nothing_of_another_kind_is_removed(temporary, monkeypatch):
    """Other names, another host's, a file, a link and what it leads to, another user's."""
    kept = [temporary / "xdualparal", temporary / "xdualparal-mailbox-of-mine", temporary / "xdualparal-mailbox-elsewhere.x-abcdefgh"]
    for folder in kept:
        folder.mkdir()
        (folder / "precious").write_text("x")
    kept += [abandoned(temporary, "abcdefgh1"), temporary / (module._PREFIX + "is_afile"), temporary / (module._PREFIX + "is_alink")]
    kept[-2].write_text("x")
    kept[-1].symlink_to(kept[0])
    gone = abandoned(temporary)
    remove_abandoned()
    assert sorted(temporary.iterdir()) == sorted(kept) and not gone.exists() and (kept[0] / "precious").exists()
    others = abandoned(temporary)
    monkeypatch.setattr(module.os, "getuid", lambda: others.stat().st_uid + 1)
    remove_abandoned()
    assert others.exists()


def test_a_link_in_the_place_of_the_lock_is_not_followed(temporary):
    target = temporary / "precious"
    target.write_text("stays")
    left = abandoned(temporary)
    (left / module._LOCK).symlink_to(target)
    remove_abandoned()
    assert target.read_text() == "stays"


def test_many_that_start_at_once_each_have_a_folder(temporary):
    """Each looks for abandoned folders while others make theirs: one that is not locked yet may be taken for abandoned."""
    lost = []

    def start_often():
        for _ in range(100):
            with run_folder() as folder:
                if not folder.is_dir():
                    lost.append(folder)

    threads = [threading.Thread(target=start_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost and os.listdir(temporary) == []


@pytest.fixture
def third(monkeypatch):
    """What another run holds which, between a run's opening of its first lock and its check, has put a locked file of its own there."""
    locked, held = module._locked, []

    def late(folder, how=0):
        lock = locked(folder, how)
        if not held:
            (folder / module._LOCK).unlink()
            held.append(folder)
            held.append(locked(folder))
        return lock

    monkeypatch.setattr(module, "_locked", late)
    yield held
    os.close(held[1])


def test_the_lock_of_a_removed_file_does_not_let_a_folder_be_removed(temporary, third):
    folder = abandoned(temporary)
    remove_abandoned()
    assert folder.exists() and third[0] == folder


def test_the_lock_of_a_removed_file_does_not_let_a_folder_be_used(temporary, third):
    with run_folder() as own:
        assert own != third[0] and sorted(temporary.iterdir()) == sorted([own, third[0]])


@pytest.mark.parametrize("written, why", [(100, "No space left on device"), (None, "Disk quota exceeded")])
def test_without_space_nothing_is_started_and_nothing_is_left(temporary, monkeypatch, written, why):
    def write(descriptor, content):
        if written is None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return written

    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(ValueError, match=rf"temporary files cannot be written \({why}\): free some space there, or set TMPDIR"):
        with run_folder():
            raise AssertionError("not reached")
    assert os.listdir(temporary) == []


def test_without_a_folder_for_temporary_files(temporary, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(temporary / "missing"))
    with pytest.raises(ValueError, match="set TMPDIR to another folder"):
        with run_folder():
            raise AssertionError("not reached")
