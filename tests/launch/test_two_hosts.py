"""One video from two hosts, as a user starts it on each of them."""

import os
import subprocess
import time

import av
import numpy as np
import pytest
from dualparal_testing.commands import LAUNCHER, LIMIT_S, run
from dualparal_testing.hosts import ADDRESSES, INTERFACE, NoHosts, on_host, two_hosts

pytestmark = pytest.mark.processes

COMMAND = ["--model", "tiny-wan", "--dualparal_degree", "2", "--num_frames", "33", "--num_inference_steps", "2", "--prompt",
           "a red circle on a dark background"]
PORT = "29500"  # in a new namespace every port is free
NODES = ["--nnodes", "2", "--master_addr", ADDRESSES[0], "--master_port", PORT]


@pytest.fixture
def hosts():
    """Two hosts with a cable between them."""
    try:
        with two_hosts() as names:
            yield names
    except NoHosts as reason:
        pytest.skip(f"no network namespaces: {reason}")


def start(command, folder):
    """The command's process; what it writes goes to the file log in ``folder``, where its video goes, too."""
    folder.mkdir()
    # A host's own name may stand for the loopback address in /etc/hosts, so gloo must be told the interface.
    environment = dict(os.environ, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=INTERFACE)
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [*command, "--output_directory", str(folder)], env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def wait(processes):
    """The exit codes, when all have ended, or one has failed, or the time is over; those still running are killed."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end and None in (codes := [process.poll() for process in processes]) and not any(codes):
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    return [process.returncode for process in processes]


def frames(folder):
    """The frames of the only mp4 in ``folder``."""
    [file] = folder.glob("*.mp4")
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_two_hosts_make_the_video_of_one(hosts, tmp_path):
    nodes = [
        start([*on_host(host, [*LAUNCHER, *COMMAND, *NODES]), "--node_rank", str(rank)], tmp_path / str(rank))
        for rank, host in enumerate(hosts)
    ]
    assert wait(nodes) == [0, 0], "".join((tmp_path / folder / "log").read_text() for folder in "01")
    assert not list((tmp_path / "0").glob("*.mp4"))  # the last process writes the video
    code, output = run([*COMMAND, "--output_directory", tmp_path / "one"], tmp_path / "log")
    assert code == 0, output
    video = frames(tmp_path / "1")
    assert video.shape == (33, 32, 32, 3)
    assert np.array_equal(video, frames(tmp_path / "one"))
