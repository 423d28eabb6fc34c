"""A run whose output goes nowhere, whose terminal is closed, and what its errors look like."""

import os
import signal
import subprocess
import sys
import time

import pytest

from xdualparal.launch import supervisor
from xdualparal.launch.mailbox import failure_line, signals_that_stop
from xdualparal.launch.supervisor import TRACEBACK, keep_traceback
from xdualparal.xdit import cli

ENVIRONMENT = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
PRINTS = """
import sys
from xdualparal.launch.streams import survive_closed_output
survive_closed_output()
for stream in (sys.stdout, sys.stderr):
    for _ in range(3):
        print("x" * 100_000, file=stream, flush=True)
open(sys.argv[1], "w").write("done")
"""
HUNG_UP = """
import os, subprocess, sys
from xdualparal.launch.supervisor import supervise
worker = "import os, pathlib, sys, time\\npathlib.Path(os.environ['XDUALPARAL_FOLDER'], 'rank0').write_text('runs')\\nwhile not (stop := pathlib.Path(os.environ['XDUALPARAL_FOLDER'], 'stop')).exists(): time.sleep(.05)\\n" \\
    "pathlib.Path(sys.argv[1]).write_text(stop.read_text()); sys.exit(130)"
print("ready", flush=True)
sys.exit(supervise(lambda env: subprocess.Popen([sys.executable, "-c", worker, sys.argv[1]], env=env), [dict(os.environ, RANK="0")]))
"""


@pytest.mark.parametrize("kind", ["closed pipe", "full disk"])
def test_what_cannot_be_printed_does_not_end_a_run(tmp_path, kind):
    if kind == "closed pipe":
        output = closed_pipe()
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    done = subprocess.run([sys.executable, "-c", PRINTS, str(tmp_path / "done")], stdout=output, stderr=output, timeout=60, env=ENVIRONMENT)
    os.close(output)
    assert done.returncode == 0 and (tmp_path / "done").read_text() == "done"


def closed_pipe():
    reader, output = os.pipe()
    os.close(reader)
    return output


@pytest.mark.parametrize("arguments, code", [(["--help"], 0), (["--version"], 0), (["--nnodes", "0"], 2), (["decode"], 2)])
def test_a_command_whose_output_nobody_reads_ends_as_else(arguments, code):
    output = closed_pipe()
    command = [sys.executable, "-m", "xdualparal.xdit.cli", *arguments]
    assert subprocess.run(command, stdout=output, stderr=output, timeout=60, env=ENVIRONMENT).returncode == code
    started = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, env=ENVIRONMENT)
    assert started.returncode == code and len(started.stderr.splitlines()) == (1 if code else 0), started.stderr
    os.close(output)


@pytest.mark.parametrize("raised, code, line", [
    (KeyboardInterrupt(), 130, ""), (BlockingIOError(11, "Resource temporarily unavailable"), 2, "1 processes cannot be started"),
    (ValueError("no folder for temporary files"), 2, "no folder for temporary files"),
])
def test_what_ends_the_launcher_before_there_are_workers_is_no_traceback(monkeypatch, capsys, raised, code, line):
    def fails(*_):
        raise raised

    monkeypatch.setattr(cli, "supervise", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--model", "tiny-wan"])
    errors = capsys.readouterr().err
    assert ended.value.code == code and line in errors and len(errors.splitlines()) == bool(line)


def test_a_closed_terminal_finishes_a_run_as_ctrl_c_does(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HUNG_UP, str(tmp_path / "stop")], stdout=subprocess.PIPE, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as launcher:
        launcher.stdout.readline()
        time.sleep(1)
        launcher.send_signal(signal.SIGHUP)
        assert launcher.wait(30) == 130
    assert (tmp_path / "stop").read_text() == "finish"


def test_nohup_lets_a_run_go_on(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in signals_that_stop()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in signals_that_stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("cause", [
    "DistNetworkError: Connection reset\nException raised from recvBytes at /pytorch/Utils.hpp:678 (most recent call first):\nframe #0: c10::Error",
    "DistNetworkError: Connection reset\nframe #0: c10::Error\nframe #1: x", "DistNetworkError: Connection reset\nC++ CapturedTraceback:\n#4 x",
])
def test_no_stack_of_cpp_is_in_the_line(cause):
    failure = dict(rank=1, stage=0, kind="lost", doing="waits", cause=cause)
    assert failure_line(failure) == "rank 1, stage 0, waits: DistNetworkError: Connection reset"


def test_tracebacks_do_not_pile_up(tmp_path, monkeypatch):
    target = tmp_path / "precious"
    target.write_text("stays")
    (tmp_path / TRACEBACK).symlink_to(target)
    for details in ("first", "second"):
        path = keep_traceback(details, str(tmp_path))
    assert path == str(tmp_path / TRACEBACK) and (tmp_path / TRACEBACK).read_text() == "second"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["precious", TRACEBACK] and target.read_text() == "stays"
    assert (tmp_path / TRACEBACK).stat().st_mode & 0o077 == 0


def test_a_traceback_goes_elsewhere_where_the_folder_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor.tempfile, "gettempdir", lambda: str(tmp_path))
    assert keep_traceback("details", str(tmp_path / "missing")) == str(tmp_path / TRACEBACK)
