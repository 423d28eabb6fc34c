"""The command, as a user gives it."""

import json
import os
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from dualparal_testing.processes import free_port

from xdualparal.xdit.launcher import run_environment, split_launch_args, torchrun_command

LAUNCHER = [sys.executable, "-m", "xdualparal.xdit.launcher"]
DEMO = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "2"]
LIMIT_S = 240


def run(*command):
    """The finished process; everything it started has ended with it."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)


def frames(folder):
    """The frames of the only mp4 in ``folder``."""
    [file] = folder.glob("*.mp4")
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.processes
def test_a_video_from_one_command(tmp_path):
    videos = {}
    for degree in (1, 2):
        folder = tmp_path / str(degree)
        done = run(*LAUNCHER, *DEMO, "--num_frames", "67", "--dualparal_degree", str(degree), "--output_directory",
                   str(folder), "--dualparal_trace", str(folder / "trace.json"))
        assert done.returncode == 0, done.stderr
        assert re.search(r"4/4 \[.*<.*pass", done.stderr)  # the progress bar, with the time to go: 2 blocks, 2 steps
        videos[degree] = frames(folder)
        [seconds] = json.loads((folder / "timings.json").read_text())
        assert seconds > 0
        events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        assert {event["tid"] for event in events} == set(range(degree))
    assert videos[2].shape == (67, 32, 32, 3)
    assert np.array_equal(videos[1], videos[2])


@pytest.mark.processes
def test_a_compiled_video(tmp_path):
    done = run(*LAUNCHER, *DEMO, "--num_frames", "67", "--dualparal_degree", "2", "--output_directory", str(tmp_path),
               "--use_torch_compile")
    assert done.returncode == 0, done.stderr
    assert "Warming up torch compiler" in done.stderr + done.stdout
    assert frames(tmp_path).shape == (67, 32, 32, 3)


@pytest.mark.processes
def test_a_file_of_prompts_over_two_replicas(tmp_path):
    """The second negative prompt belongs to the second prompt; the others' videos are the same without it."""
    (tmp_path / "prompts.csv").write_text("prompt\na red circle\na blue square\na green circle\n")
    common = ["--model", "tiny-wan", "--dataset_path", str(tmp_path / "prompts.csv"), "--num_inference_steps", "2",
              "--num_frames", "5", "--dualparal_degree", "1"]
    runs = {"two": ["--data_parallel_degree", "2", "--batch_size", "1"],
            "one": ["--batch_size", "2", "--negative_prompt", "", "a red square", ""]}
    videos = {}
    for name, flags in runs.items():
        done = run(*LAUNCHER, *common, *flags, "--output_directory", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        videos[name] = [file.read_bytes() for file in sorted((tmp_path / name).glob("*.mp4"))]
    assert [a == b for a, b in zip(videos["one"], videos["two"], strict=True)] == [True, False, True]


@pytest.mark.processes
def test_plain_torchrun_and_two_prompts(tmp_path):
    done = run(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "xdualparal.xdit.runner", *DEMO[:2], "--prompt", "a red circle on a dark background",
               "a blue square on a light background", "--num_inference_steps", "1", "--num_frames", "5",
               "--dualparal_degree", "2", "--output_directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [file.name[-6:] for file in sorted(tmp_path.glob("*.mp4"))] == ["_0.mp4", "_1.mp4"]


@pytest.mark.processes
def test_a_bad_command_is_one_line_and_exit_code_2(tmp_path):
    done = run(*LAUNCHER, *DEMO, "--dualparal_degree", "9", "--output_directory", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("xdit-dualparal: error: --dualparal_degree is 9")
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.processes
def test_processes_that_do_not_fit_the_degrees(tmp_path):
    done = run(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "xdualparal.xdit.runner", *DEMO, "--dualparal_degree", "4", "--output_directory", str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("make 4 processes and 2 were started") == 1  # from one rank
    assert "ValueError" not in done.stderr


@pytest.mark.processes
def test_two_nodes(tmp_path):
    """Two launchers, as on two machines, here on one; each starts its own process."""
    port = str(free_port())
    command = [*LAUNCHER, *DEMO, "--num_frames", "17", "--dualparal_degree", "2", "--nnodes", "2", "--master_addr",
               "localhost", "--master_port", port, "--output_directory", str(tmp_path)]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    nodes = [
        subprocess.Popen([*command, "--node_rank", str(rank)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    try:
        for node in nodes:
            _, errors = node.communicate(timeout=LIMIT_S)
            assert node.returncode == 0, errors
    finally:
        for node in nodes:
            node.kill()
    assert frames(tmp_path).shape == (17, 32, 32, 3)


def test_launch_flags_are_torchruns_and_the_rest_the_runners():
    launch, rest = split_launch_args(
        ["--model", "m", "--nnodes", "2", "--node-rank=1", "--master_addr", "host", "--master_port", "1234", "--seed", "3"]
    )
    assert rest == ["--model", "m", "--seed", "3"]
    command = torchrun_command(launch, 4, rest)
    for part in ("--nproc_per_node=4", "--nnodes=2", "--node_rank=1", "--master_addr=host", "--master_port=1234"):
        assert part in command
    assert command[-6:] == ["-m", "xdualparal.xdit.runner", *rest]


@pytest.mark.parametrize("cores, processes, threads", [(8, 2, "4"), (2, 2, "1"), (2, 4, "1"), (None, 1, "1")])
def test_cores_are_shared_out(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run_environment(processes)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert run_environment(processes)["OMP_NUM_THREADS"] == "3"


def test_one_node_gets_a_free_port():
    launch, _ = split_launch_args([])
    ports = {next(p for p in torchrun_command(launch, 1, []) if p.startswith("--master_port")) for _ in range(3)}
    assert "--master_port=29500" not in ports and launch.nnodes == 1
