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

from xdualparal.xdit.cli import run_environment, split_launch_args, worker_environments
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

LAUNCHER = [sys.executable, "-m", "xdualparal.xdit.cli"]
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
        assert {event["tid"] for event in events} == set(range(degree + 1))  # the last one decodes
    assert videos[2].shape == (67, 32, 32, 3)
    assert np.array_equal(videos[1], videos[2])


@pytest.mark.processes
def test_weights_from_a_folder(tmp_path):
    """In bfloat16, as the model's name wants; and decoded again."""
    weights = ["--model_path", str(TINY_WAN_FOLDER)]
    sizes = ["--height", "32", "--width", "32", "--num_frames", "9", "--num_inference_steps", "2", "--guidance_scale", "1.5"]
    latents = ["--dualparal_latents_out", str(tmp_path / "latents")]
    done = run(*LAUNCHER, "--model", "Wan2.1-T2V-1.3B", *weights, "--prompt", "a red circle", *sizes, *latents, "--dualparal_degree",
               "2", "--output_directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    made = frames(tmp_path)
    assert made.shape == (9, 32, 32, 3)
    again = run(*LAUNCHER, "decode", str(tmp_path / "latents"), *weights, "--output", str(tmp_path / "again" / "a.mp4"))
    assert again.returncode == 2 and "error" in again.stderr  # there is no such folder
    (tmp_path / "again").mkdir()
    again = run(*LAUNCHER, "decode", str(tmp_path / "latents"), *weights, "--output", str(tmp_path / "again" / "a.mp4"))
    assert again.returncode == 0, again.stderr
    assert np.array_equal(frames(tmp_path / "again"), made)


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
    workers = worker_environments(launch, 4)
    assert [worker["RANK"] for worker in workers] == ["4", "5", "6", "7"]
    for name, value in dict(MASTER_ADDR="host", MASTER_PORT="1234", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4").items():
        assert all(worker[name] == value for worker in workers)
    assert [worker["LOCAL_RANK"] for worker in workers] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("cores, processes, threads", [(8, 2, "4"), (2, 2, "1"), (2, 4, "1"), (None, 1, "1")])
def test_cores_are_shared_out(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run_environment(processes)["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert run_environment(processes)["OMP_NUM_THREADS"] == "3"


def test_one_node_gets_a_free_port():
    launch, _ = split_launch_args([])
    ports = {worker_environments(launch, 1)[0]["MASTER_PORT"] for _ in range(3)}
    assert "29500" not in ports and launch.nnodes == 1


@pytest.mark.processes
def test_latents_are_kept_and_decoded_again_to_the_same_file(tmp_path):
    kept = tmp_path / "kept.latents"
    done = run(*LAUNCHER, *DEMO, "--num_frames", "67", "--dualparal_degree", "1", "--output_directory", str(tmp_path / "run"),
               "--dualparal_latents_out", str(kept), "--dualparal_quality", "23")
    assert done.returncode == 0, done.stderr
    done = run(*LAUNCHER, "decode", str(kept), "--quality", "23")
    assert done.returncode == 0 and "67 frames are in" in done.stdout, done.stderr
    [made] = (tmp_path / "run").glob("*.mp4")
    assert (tmp_path / "kept.mp4").read_bytes() == made.read_bytes()


@pytest.mark.parametrize("content, part", [(None, "No such file"), (b"x" * 99, "has no finished block"), (b"", "no finished block")])
def test_a_file_that_cannot_be_decoded(tmp_path, content, part):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    done = run(*LAUNCHER, "decode", str(file))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and part in done.stderr, done.stderr


@pytest.mark.processes
def test_the_report_is_beside_the_video(tmp_path):
    done = run(*LAUNCHER, *DEMO, "--num_frames", "67", "--dualparal_degree", "2", "--output_directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [file] = [file for file in tmp_path.glob("*.json") if file.name != "timings.json"]
    report = json.loads(file.read_text())
    assert (report["frames"], report["passes"], report["blocks_finished"], len(report["ranks"])) == (67, 4, 2, 2)
    # 2 blocks of 12 latent frames of 16 tokens, 2 branches of dim 128 in float32, 2 steps; back: 12 + 8 frames, once and once
    assert report["ranks"][0]["sent_bytes"] == 4 * 12 * 16 * 2 * hidden_dim() * 4
    assert 0 < report["first_segment_s"] <= report["wall_s"] and 0 < report["bubble"] < 1 and report["decode_s"] > 0
    assert all(rank["peak_bytes"] > 2**27 for rank in report["ranks"])
    assert re.search(r"waiting stages +\d+\.\d%, \d+\.\d% by the schedule", done.stderr + done.stdout)


def hidden_dim():
    """The demo model's."""
    config = json.loads((TINY_WAN_FOLDER / "transformer" / "config.json").read_text())
    return config["num_attention_heads"] * config["attention_head_dim"]
