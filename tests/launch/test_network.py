"""Where a run listens, what is on its path, and addresses and ports that cannot be had."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dualparal_testing.commands import Run, kill

from xdualparal.launch import network
from xdualparal.launch.environment import Node, worker_environments
from xdualparal.launch.network import LOOPBACK, check_master, loopback_interface, open_store_socket
from xdualparal.xdit import cli

DEMO = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "4"]
LISTENS, LOOPBACK_IN_PROC = "0A", "0100007F"  # proc_pid_net(5): the state, and the address in the machine's byte order


def listening(pids):
    """The addresses, as /proc/net writes them, on which the processes listen."""
    inodes = set()
    for descriptor in (entry for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir()):
        try:
            inodes |= set(re.findall(r"socket:.(\d+)", os.readlink(descriptor)))
        except FileNotFoundError:
            pass  # closed since
    rows = [row.split() for file in ("tcp", "tcp6") for row in Path(f"/proc/net/{file}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENS and row[9] in inodes}


@pytest.mark.processes
def test_on_one_node_nothing_listens_to_others(tmp_path):
    with Run([*DEMO, "--dualparal_degree", "2", "--num_frames", "0", "--output_directory", tmp_path], tmp_path / "log") as run:
        run.wait_until(lambda: "frames written" in run.output())
        assert listening([run.launcher.pid, *run.workers()]) == {LOOPBACK_IN_PROC}, run.output()
        kill(run.launcher.pid, 15)
        assert run.ended(60) == 0, run.output()


@pytest.mark.processes
def test_what_is_in_the_current_folder_is_not_executed(tmp_path):
    for module in ("random.py", "torch.py", "xfuser.py"):
        (tmp_path / module).write_text("open('executed', 'w')\nraise SystemExit(9)\n")
    command = [sys.executable, "-P", "-m", "xdualparal.xdit.cli", *DEMO, "--dualparal_degree", "1", "--num_frames", "1"]
    done = subprocess.run([*command, "--output_directory", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists() and list((tmp_path / "out").glob("*.mp4"))


def test_one_node_gets_a_socket_of_its_own():
    with open_store_socket(Node()) as one, open_store_socket(Node(master_addr="elsewhere")) as other:
        assert {one.getsockname()[0], other.getsockname()[0]} == {LOOPBACK}
        assert one.getsockname()[1] != other.getsockname()[1]


def test_the_other_nodes_open_none():
    assert open_store_socket(Node(nnodes=2, node_rank=1)) is None


def test_the_first_of_several_nodes_listens_to_all():
    with open_store_socket(Node(nnodes=2, master_port=free_port())) as store:
        assert store.getsockname()[0] in ("::", "0.0.0.0")


def free_port():
    """A port that is free now."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("nnodes", [1, 2])
def test_a_port_that_is_taken_is_refused(nnodes, capsys):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match="2"):
            cli.main([*DEMO, "--nnodes", str(nnodes), "--master_port", str(port)], start=None)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xdit-dualparal: error: --master_port {port} cannot be had on this machine (Address already in use): give")


@pytest.mark.parametrize("address", ["nowhere.invalid", "", "a..b", "999.1.1.1", "x" * 300, "two words"])
def test_an_address_that_stands_for_no_machine_is_refused(address, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*DEMO, "--nnodes", "2", "--node_rank", "1", "--master_addr", address], start=None)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"xdit-dualparal: error: --master_addr {address} cannot be resolved (".replace("  ", " "))


def test_a_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(network, "_RESOLVE_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answered.wait(30))
    with pytest.raises(ValueError, match="no answer within"):
        check_master(Node(nnodes=2, master_addr="host"))
    answered.set()


@pytest.mark.parametrize("address", ["localhost", LOOPBACK, "::1"])
def test_an_address_that_stands_for_a_machine(address):
    check_master(Node(nnodes=2, master_addr=address))


def test_one_node_keeps_to_the_loopback_interface(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    [one] = worker_environments(Node(master_addr="elsewhere"), 1, 1234)
    assert (one["MASTER_ADDR"], one["MASTER_PORT"]) == (LOOPBACK, "1234")
    assert one.get("GLOO_SOCKET_IFNAME") == loopback_interface() and one["NCCL_SOCKET_IFNAME"] == "=" + loopback_interface()
    [several] = worker_environments(Node(nnodes=2), 1, 1234)
    assert "GLOO_SOCKET_IFNAME" not in several and "NCCL_SOCKET_IFNAME" not in several


def test_the_users_interface_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert worker_environments(Node(), 1, 1)[0]["GLOO_SOCKET_IFNAME"] == "eth7"


def test_a_machine_whose_interfaces_cannot_be_listed(monkeypatch):
    def fail():
        raise OSError("not here")

    monkeypatch.setattr(socket, "if_nameindex", fail)
    assert loopback_interface() is None
