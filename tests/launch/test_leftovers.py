"""What a run leaves when its launcher is killed, or its disk is full."""

import logging
import os
from types import SimpleNamespace

from xdualparal import pipeline as module
from xdualparal.launch.mailbox import FOLDER, Mailbox
from xdualparal.output.files import not_written
from xdualparal.run_spec import RunSpec


def test_a_worker_removes_the_folder_that_a_killed_launcher_left(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    mailbox = Mailbox(0)
    assert list(folder.iterdir())
    mailbox.remove()
    assert not folder.exists()
    mailbox.remove()  # another worker has removed it


def test_a_full_disk_names_the_file_and_what_to_do():
    error = not_written(OSError(28, "No space left on device"), "out/a.mp4")
    assert error.errno == 28 and str(error) == (
        "[Errno 28] No space left on device: free some space, or give another folder, and run the command again: 'out/a.mp4'"
    )


def test_a_trace_that_does_not_fit_fails_no_video(monkeypatch, caplog):
    monkeypatch.setattr(module, "gather_trace", lambda spans, group: "trace")
    monkeypatch.setattr(module, "chrome_trace", lambda trace: "x" * 100_000)
    mesh = SimpleNamespace(in_last_pipeline=True, pipeline=None)
    made = SimpleNamespace(config=SimpleNamespace(trace="/dev/full"), mesh=mesh)
    with caplog.at_level(logging.WARNING):
        module.DualParalPipeline._write_trace(made, SimpleNamespace(meter=SimpleNamespace(spans=[]), spec=RunSpec()))
    assert f"the trace /dev/full could not be written: [Errno 28] {os.strerror(28)}" in caplog.text
