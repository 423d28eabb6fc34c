"""Processes that are started, watched and ended together; here they are a few lines of Python."""

import json
import os
import subprocess
import sys
import time

import pytest

from xdualparal.launch.watchdog import failure_line

SUPERVISE = """
import sys
from xdualparal.launch.supervisor import supervise
ranks = [{"RANK": str(n), "PATH": "/usr/bin:/bin"} for n in range(int(sys.argv[1]))]
sys.exit(supervise([sys.executable, "-c", sys.argv[2]], ranks))
"""


def supervised(program, ranks=2):
    """(exit code, stderr, seconds) of ``ranks`` processes that run ``program``."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SUPERVISE, str(ranks), program], capture_output=True, text=True, timeout=60,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
    )
    return done.returncode, done.stderr, time.monotonic() - start


def test_all_end_well():
    assert supervised("pass", 3)[:2] == (0, "")


def test_one_that_ends_ends_all_and_is_named():
    code, errors, took_s = supervised("import os, time; time.sleep(60 if os.environ['RANK'] == '0' else 0); os._exit(7)")
    assert code == 1 and took_s < 30
    assert errors.strip() == "xdit-dualparal: error: rank 1, starts: it ended with exit code 7: all processes were ended"


def test_one_that_is_killed_is_named_before_those_that_lost_it():
    program = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(os.environ["XDUALPARAL_FOLDER"]), os.environ["RANK"]
(folder / ("rank" + rank)).write_text("action 1F2.3   ")
if rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.5)
failure = dict(rank=0, stage=0, doing="waits", kind="lost", cause="Connection closed by peer", time=1, details="")
(folder / "failure0").write_text(json.dumps(failure))
sys.exit(1)
"""
    code, errors, _ = supervised(program)
    assert code == 1
    assert errors.strip() == "xdit-dualparal: error: rank 1, action 1F2.3: it was killed by SIGKILL: all processes were ended"


def test_one_that_raises_is_named_with_its_traceback():
    program = """
import json, os, pathlib, sys, time
if os.environ["RANK"] == "1":
    failure = dict(rank=1, stage=1, doing="action 1S0.4", kind="raised", cause="FloatingPointError: NaN", time=1, details="Trace")
    (pathlib.Path(os.environ["XDUALPARAL_FOLDER"]) / "failure1").write_text(json.dumps(failure))
    sys.exit(1)
time.sleep(60)
"""
    code, errors, took_s = supervised(program)
    assert code == 1 and took_s < 30 and errors.strip().count("\\n") == 0
    line, _, rest = errors.strip().partition(" (traceback in ")
    assert line == "xdit-dualparal: error: rank 1, stage 1, action 1S0.4: FloatingPointError: NaN"
    with open(rest.partition(")")[0]) as file:
        assert file.read() == "Trace"
    os.unlink(rest.partition(")")[0])


def test_exit_code_2_has_said_why_itself():
    code, errors, _ = supervised("import os, sys, time; os.environ['RANK'] == '0' or time.sleep(60); sys.stderr.write('bad\\n'); sys.exit(2)")
    assert (code, errors) == (2, "bad\n")


@pytest.mark.parametrize("kind, line", [
    ("raised", "rank 3, stage 1, action 1F0.0: OSError: no space"), ("hang", "rank 3, stage 1: OSError: no space"),
])
def test_a_failure_in_a_line(kind, line):
    failure = dict(rank=3, stage=1, doing="action 1F0.0", kind=kind, cause="OSError:\nno space", time=0, details="")
    assert failure_line(json.loads(json.dumps(failure))) == line
