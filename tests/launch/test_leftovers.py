"""What a run leaves when its launcher is killed, or its disk is full."""

import logging
import resource
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from xdualparal import run_files as module
from xdualparal.launch.mailbox import FOLDER, Mailbox
from xdualparal.output.checkpoint import Checkpoint
from xdualparal.output.files import not_written, reason_of
from xdualparal.run_spec import RunSpec
from xdualparal.xdit import video_files


@contextmanager
def files_of_at_most(size):
    """What is written beyond ``size`` bytes fails as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_worker_removes_the_folder_that_a_killed_launcher_left(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    mailbox = Mailbox(0)
    assert list(folder.iterdir())
    mailbox.remove()
    assert not folder.exists()
    mailbox.remove()  # another worker has removed it
    mailbox.report(dict(kind="lost"))
    assert not caplog.messages and not folder.exists()


def test_a_full_disk_names_the_file_and_what_to_do():
    error = not_written(OSError(28, "No space left on device"), "out/a.mp4")
    assert error.errno == 28 and str(error) == (
        "out/a.mp4 could not be written (No space left on device): free some space, or give another folder, and run the command again"
    )
    assert reason_of(MemoryError()) == "MemoryError" and reason_of(OSError("odd")) == "odd"


def test_a_trace_that_does_not_fit_fails_no_video(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "gather_trace", lambda spans, group: "trace")
    monkeypatch.setattr(module, "chrome_trace", lambda trace, spec: "x" * 100_000)
    config, mesh = SimpleNamespace(trace=tmp_path / "trace.json"), SimpleNamespace(in_last_pipeline=True, pipeline=None)
    with caplog.at_level(logging.WARNING), files_of_at_most(20_000):
        module.write_trace(mesh, config, RunSpec(), [])
    assert f"the trace {tmp_path / 'trace.json'} could not be written (File too large), the video is there" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_report_that_does_not_fit_fails_no_video(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), files_of_at_most(100):
        video_files.write_report(tmp_path / "video.json", dict(prompt="x" * 1000))
    assert caplog.messages == [f"the report {tmp_path / 'video.json'} could not be written (File too large), the video is there"]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_a_stopped_run_cannot_save_is_named(tmp_path):
    """And the one before it stays."""
    checkpoint = Checkpoint(tmp_path, RunSpec(prompt="a ship"))
    checkpoint.save(dict(wave=3), 3, wait=True)
    with files_of_at_most(100), pytest.raises(OSError) as failed:
        checkpoint.save(dict(latents=torch.zeros(10_000)), 9, wait=True)
    assert str(failed.value) == (
        f"{tmp_path} could not be written (File too large): free some space, or give another folder, and run the command again"
    )
    assert checkpoint.load() == dict(wave=3) and not list(tmp_path.glob(".*.part"))
