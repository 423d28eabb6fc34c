"""Processes that are started, watched and ended together; here they are a few lines of Python."""

import json
import os
import subprocess
import sys
import time

import pytest

from xdualparal.launch.environment import MAX_PROCESSES, Node, shared_environment, worker_environments
from xdualparal.launch.mailbox import failure_line

SUPERVISE = """
import subprocess, sys
from xdualparal.launch.supervisor import supervise
ranks = [{"RANK": str(n), "PATH": "/usr/bin:/bin"} for n in range(int(sys.argv[1]))]
sys.exit(supervise(lambda env: subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=env, start_new_session=True), ranks))
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


def test_a_refusal_is_printed_once_whichever_rank_reports_it_first():
    program = """
import json, os, pathlib, sys, time
rank = int(os.environ["RANK"])
time.sleep(0 if rank else 60)
failure = dict(rank=rank, kind="refused", cause="the degree is 9", time=time.time())
(pathlib.Path(os.environ["XDUALPARAL_FOLDER"]) / f"failure{rank}").write_text(json.dumps(failure))
sys.exit(2)
"""
    code, errors, _ = supervised(program, 3)
    assert (code, errors) == (2, "xdit-dualparal: error: the degree is 9\n")


def test_a_worker_that_cannot_be_started_leaves_none_behind():
    program = """
import os, subprocess, sys
from xdualparal.launch.supervisor import supervise
started = []
def start(environment):
    if started:
        raise OSError("no more processes")
    started.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
    return started[0]
try:
    supervise(start, [{"RANK": "0"}, {"RANK": "1"}])
except OSError as error:
    print(error, started[0].poll())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "no more processes -9\n", done.stderr


def test_nodes_number_their_processes():
    node = Node(nnodes=2, node_rank=1, master_addr="host", master_port=1234)
    workers = worker_environments(node, 4, 1234)
    assert [worker["RANK"] for worker in workers] == ["4", "5", "6", "7"]
    for name, value in dict(MASTER_ADDR="host", MASTER_PORT="1234", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4").items():
        assert all(worker[name] == value for worker in workers)
    assert [worker["LOCAL_RANK"] for worker in workers] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("node, world_size, processes", [
    (Node(), 8, 8), (Node(nnodes=2), 8, 4), (Node(nnodes=2, nproc_per_node=1), 8, 1), (Node(), 0, 1), (Node(), -4, 1), (Node(nnodes=3), 2, 1),
])
def test_processes_of_a_node(node, world_size, processes):
    assert node.processes(world_size) == processes


def test_a_node_that_cannot_be():
    with pytest.raises(ValueError, match="--nnodes is 0: give a whole number from 1 to 4096"):
        Node(nnodes=0)
    with pytest.raises(ValueError, match="--node_rank is 2 and there are 2 nodes: give 0 to 1"):
        Node(nnodes=2, node_rank=2)
    with pytest.raises(ValueError, match=f"{MAX_PROCESSES} is the limit: lower a degree"):
        Node().processes(MAX_PROCESSES + 1)


@pytest.mark.parametrize("cores, processes, threads", [(8, 2, "4"), (2, 2, "1"), (2, 4, "1"), (None, 1, "1")])
def test_cores_are_shared_out(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert shared_environment(processes)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert shared_environment(processes)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("kind, line", [
    ("raised", "rank 3, stage 1, action 1F0.0: OSError: no space"), ("hang", "rank 3, stage 1: OSError: no space"),
])
def test_a_failure_in_a_line(kind, line):
    failure = dict(rank=3, stage=1, doing="action 1F0.0", kind=kind, cause="OSError:\nno space", time=0, details="")
    assert failure_line(json.loads(json.dumps(failure))) == line


@pytest.mark.parametrize("ranks, started", [(8, 8), (9, 1)])
def test_of_many_the_first_checks_the_command_alone(tmp_path, ranks, started):
    """It refuses; of few the others have been started by then."""
    program = f"import os, pathlib, sys, time; pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).touch(); time.sleep(3); sys.exit(2)"
    code, _, _ = supervised(program, ranks)
    assert code == 2 and len(list(tmp_path.iterdir())) == started


def test_of_many_the_others_follow(tmp_path):
    program = f"""
import os, pathlib
pathlib.Path({str(tmp_path)!r}, os.environ["RANK"]).touch()
pathlib.Path(os.environ["XDUALPARAL_FOLDER"], "rank" + os.environ["RANK"]).write_text("runs")
"""
    assert supervised(program, 9)[0] == 0 and len(list(tmp_path.iterdir())) == 9


def test_who_stops_a_run_while_it_is_imported_does_not_wait_for_that():
    """The worker sleeps as one that reads from a slow disk, and reads no message."""
    program = "import os, signal, sys, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)"
    assert supervised(program)[:2] == (130, "")
