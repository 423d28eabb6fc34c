"""The command, as a user gives it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from dualparal_testing import commands
from dualparal_testing.commands import LAUNCHER, LIMIT_S
from dualparal_testing.processes import free_port

from xdualparal.xdit import cli, help
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

DEMO = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "2"]


def run(*command):
    """The finished process; everything it started has ended with it."""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)


def make_video(folder, *arguments):
    """What the demo command prints. Its processes are warm."""
    folder.mkdir(exist_ok=True)
    code, output = commands.run([*DEMO, "--output_directory", folder, *arguments], folder / "log")
    assert code == 0, output
    return output


def frames(folder):
    """The frames of the only mp4 in ``folder``."""
    [file] = folder.glob("*.mp4")
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.processes
def test_a_video_from_one_command(tmp_path):
    """With two stages as a user starts it."""
    videos = {}
    for degree in (1, 2):
        folder = tmp_path / str(degree)
        arguments = ["--num_frames", "67", "--dualparal_degree", str(degree), "--dualparal_trace", str(folder / "trace.json")]
        if degree == 1:
            errors = make_video(folder, *arguments)
        else:
            done = run(*LAUNCHER, *DEMO, *arguments, "--output_directory", str(folder))
            assert done.returncode == 0, done.stderr
            errors = done.stderr
            check_screen(done, *folder.glob("*.mp4"))
        assert "\nblock 2 of 2, 67 of 67 frames written\n" in errors
        videos[degree] = frames(folder)
        assert len(list(folder.glob("*.json"))) == 2  # trace and report; no timings.json, which another run would replace
        events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        assert {event["tid"] for event in events} == set(range(degree + 1))  # the last one decodes
    assert videos[2].shape == (67, 32, 32, 3)
    assert np.array_equal(videos[1], videos[2])


def check_screen(done, video):
    """Stdout is the path of the video; stderr says each phase in a plain line, and warns of nothing."""
    assert done.stdout == f"{video}\n"
    said = done.stderr.splitlines()
    for line in (r"connecting 2 processes", r"stages will wait 27% of the time .2 steps, 2 stages.: .*", "encoding the prompts",
                 r"loading the weights of .*", r'".*": 67 frames of 32 x 32, 2 steps, seed 42',
                 r"block 1 of 2, 0 of 67 frames written.*", rf"67 frames saved to {re.escape(str(video))}"):
        assert sum(re.fullmatch(line, one) is not None for one in said) == 1, (line, done.stderr)
    assert not re.search(r"warning|INFO|\.py:\d|\r|\d%\|", done.stderr, re.IGNORECASE), done.stderr
    assert len(said) < 16, done.stderr  # a line each phase and rank, as above


@pytest.mark.processes
def test_details_come_back(tmp_path):
    done = subprocess.run([*LAUNCHER, *DEMO, "--num_frames", "5", "--dualparal_degree", "1", "--output_directory", str(tmp_path)],
                          env=dict(os.environ, LOG_LEVEL="DEBUG", OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0 and re.search(r"_42_[0-9a-f]{8}\.mp4\n$", done.stdout)
    assert "runner_utils.py" in done.stderr and "Running iteration 1/1" in done.stderr


@pytest.mark.processes
def test_weights_from_a_folder(tmp_path):
    """In bfloat16, as the model's name wants; and decoded again."""
    weights = ["--model_path", str(TINY_WAN_FOLDER)]
    sizes = ["--height", "32", "--width", "32", "--num_frames", "9", "--num_inference_steps", "2", "--guidance_scale", "1.5"]
    latents = ["--dualparal_latents_out", str(tmp_path / "latents")]
    code, output = commands.run(
        ["--model", "Wan2.1-T2V-1.3B", *weights, "--prompt", "a red circle", *sizes, *latents, "--dualparal_degree", "2",
         "--output_directory", tmp_path], tmp_path / "log")
    assert code == 0, output
    made = frames(tmp_path)
    assert made.shape == (9, 32, 32, 3)
    decode = ["decode", tmp_path / "latents", *weights, "--output", tmp_path / "again" / "a.mp4"]
    code, output = commands.run(decode, tmp_path / "log")
    assert code == 2 and "error" in output  # there is no such folder
    (tmp_path / "again").mkdir()
    code, output = commands.run(decode, tmp_path / "log")
    assert code == 0, output
    assert np.array_equal(frames(tmp_path / "again"), made)


@pytest.mark.processes
def test_a_compiled_video(tmp_path):
    done = run(*LAUNCHER, *DEMO, "--num_frames", "67", "--dualparal_degree", "2", "--output_directory", str(tmp_path),
               "--use_torch_compile")
    assert done.returncode == 0, done.stderr
    assert "compiling: makes a short video first" in done.stderr
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
        code, output = commands.run([*common, *flags, "--output_directory", tmp_path / name], tmp_path / "log")
        assert code == 0, output
        videos[name] = {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.mp4")}
        assert sorted(file.partition("_")[0] for file in videos[name]) == ["a-blue-square", "a-green-circle", "a-red-circle"]
    same = {name for name in videos["one"] if videos["one"][name] == videos["two"].get(name)}
    assert sorted(name.partition("_")[0] for name in same) == ["a-green-circle", "a-red-circle"]


@pytest.mark.processes
def test_plain_torchrun_and_two_prompts(tmp_path):
    done = run(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "xdualparal.xdit.runner", *DEMO[:2], "--prompt", "a red circle on a dark background",
               "a blue square on a light background", "--num_inference_steps", "1", "--num_frames", "5",
               "--dualparal_degree", "2", "--output_directory", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = [file.name for file in sorted(tmp_path.glob("*.mp4"))]
    assert re.fullmatch(r"a-blue-square-on-a-light-background_42_[0-9a-f]{8}\.mp4", names[0]) and names[1].startswith("a-red-circle-on")


@pytest.mark.processes
def test_a_bad_command_is_one_line_and_exit_code_2(tmp_path):
    """As a user gives it."""
    done = run(*LAUNCHER, *DEMO, "--dualparal_degree", "2", "--dualparal_stagger", "9", "--output_directory", str(tmp_path / "new"))
    assert done.returncode == 2
    assert done.stderr == "xdit-dualparal: error: stagger is 9 and there are 2 steps: give 1 to 2\n"
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize("extra, line", [
    (["--dualparal_degree", "9"], "--dualparal_degree is 9: every stage needs a layer and tiny-wan has 8, give 1 to 8"),
    (["--dualparal_degree", "0"], "--dualparal_degree is 0: every stage needs a layer and tiny-wan has 8, give 1 to 8"),
    (["--dualparal_degree", "two"], "argument --dualparal_degree: invalid int value: 'two' (xdit-dualparal --help lists the flags)"),
    (["--dualparal_degree", "2", "--wings"], "unrecognized arguments: --wings (xdit-dualparal --help lists the flags)"),
    (["--dualparal_degree", "2", "--ulysses_degree", "-1"], "--ulysses_degree is -1: give a whole number from 1 to 4096 (processes)"),
    (["--dualparal_degree", "2", "--use_fp8_gemms"], "--use_fp8_gemms is given and xDiT's newer flag says it: give --gemm_quantization fp8, or leave it out"),
    (["--dualparal_degree", "2", "--guidance_scale", "nan"], "--guidance_scale is nan: give a number from 0 to 100"),
    (["--dualparal_degree", "2", "--guidance_scale_2", "3"], "--guidance_scale_2 is 3.0 and it is for models with two experts and tiny-wan has one"),
    (["--dualparal_degree", "2", "--prompt", "a circle", " "], "--prompt 2 of 2 is ' ', which says nothing: give what the video shows"),
    (["--dualparal_degree", "4", "--nproc_per_node", "2"],
     "the degrees (dualparal_degree 4) make 4 processes and 2 were started: change a degree, or start 4"),
])
def test_a_refusal_comes_from_one_rank_and_makes_nothing(tmp_path, extra, line):
    folders = ["--output_directory", tmp_path / "a" / "b", "--dualparal_checkpoint", tmp_path / "c"]
    code, output = commands.run([*DEMO, *folders, *extra], tmp_path / "log")
    assert code == 2 and output.count("\n") == 1 and output.startswith(f"xdit-dualparal: error: {line}"), output
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.processes
def test_a_seed_that_is_drawn_is_said_and_makes_the_same_video_again(tmp_path):
    videos = {}
    for seed in ("-1", "again", "-1"):
        folder = tmp_path / str(len(videos))
        seed = videos_seed if seed == "again" else seed
        output = make_video(folder, "--num_frames", "5", "--dualparal_degree", "2", "--seed", seed)
        [report] = folder.glob("*.json")
        videos_seed = str(json.loads(report.read_text())["seed"])
        assert (f"--seed {videos_seed} was drawn at random" in output) == (seed == "-1")
        videos[folder] = frames(folder)
    first, again, other = videos.values()
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_help_and_version():
    done = run(*LAUNCHER, "--model", "tiny-wan", "-h")
    assert done.returncode == 0 and "--dualparal_degree N" in done.stdout and "--ulysses_degree" in done.stdout
    done = run(*LAUNCHER, "--version")
    assert done.returncode == 0 and re.fullmatch(r"xdit-dualparal \d+\.\d+\.\d+ \(torch .*, xfuser .*\)\n", done.stdout) and not done.stderr


def test_the_help_is_the_parsers():
    """After a change of flags: python -m xdualparal.xdit.help."""
    assert help.FILE.read_text() == help.help_text()
    assert help.FILE.read_text().index("--dualparal_degree") < help.FILE.read_text().index("--ulysses_degree")


def test_the_launcher_imports_the_standard_library_only():
    program = "import sys, xdualparal.xdit.cli; print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    done = run(sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(Path(cli.__file__).parents[2])!r}); {program}")
    assert set(done.stdout.split()) - {"__main__"} == {"xdualparal"}, done.stderr


@pytest.mark.parametrize("argv, line", [
    (["--nnodes", "0"], "--nnodes is 0: give a whole number from 1 to 4096"), (["--master_port", "x"], "argument --master-port/--master_port: invalid int value: 'x'"),
    (["--ulysses_degree", "100000"], "100000 processes would start on this node"),
])
def test_what_the_launcher_refuses_itself(argv, line, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*DEMO, *argv], start=None)
    errors = capsys.readouterr().err
    assert ended.value.code == 2 and errors.count("\n") == 1 and line in errors


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
    node = [*DEMO, "--num_frames", "17", "--dualparal_degree", "2", "--nnodes", "2", "--master_addr", "localhost",
            "--master_port", free_port(), "--output_directory", tmp_path, "--node_rank"]
    with commands.Run([*node, 0], tmp_path / "log0") as first, commands.Run([*node, 1], tmp_path / "log1") as second:
        assert [first.ended(LIMIT_S), second.ended(LIMIT_S)] == [0, 0], first.output() + second.output()
    assert frames(tmp_path).shape == (17, 32, 32, 3)


def test_launch_flags_are_torchruns_and_the_rest_the_runners():
    flags, rest = cli.split_arguments(
        ["--model", "m", "--nnodes", "2", "--node-rank=1", "--master_addr", "host", "--master_port", "1234", "--seed", "3"]
    )
    assert rest == ["--model", "m", "--seed", "3"]
    assert (flags.nnodes, flags.node_rank, flags.master_addr, flags.master_port, flags.nproc_per_node) == (2, 1, "host", 1234, None)


@pytest.mark.processes
def test_latents_are_kept_and_decoded_again_to_the_same_file(tmp_path):
    kept = tmp_path / "kept.latents"
    make_video(tmp_path / "run", "--num_frames", "67", "--dualparal_degree", "1", "--dualparal_latents_out", kept, "--dualparal_quality", "23")
    done = run(*LAUNCHER, "decode", str(kept), "--quality", "23")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'kept.mp4'}\n", done.stderr
    assert done.stderr.splitlines()[-2:] == ["67 of 67 frames written", f"67 frames saved to {tmp_path / 'kept.mp4'}"]
    [made] = (tmp_path / "run").glob("*.mp4")
    assert (tmp_path / "kept.mp4").read_bytes() == made.read_bytes()
    kept.rename(tmp_path / "named.mp4"), (tmp_path / "link").symlink_to(tmp_path / "named.mp4")
    os.link(tmp_path / "named.mp4", tmp_path / "hard.mp4")
    latents = (tmp_path / "hard.mp4").read_bytes()
    for arguments, part in (
        (["named.mp4"], "are one file"), (["link", "--output", tmp_path / "hard.mp4"], "are one file"),
        (["named.mp4", "--output", tmp_path / "kept.mp4"], "exists and is of another run .quality was 23 and is 18."),
        (["named.mp4", "--output", tmp_path / "run"], "give a file that ends in .mp4"),
        (["named.mp4", "--output", tmp_path / "log.mp4"], "no run of this kind made it: .* or add --overwrite"),
    ):
        (tmp_path / "log.mp4").write_text("a user's")
        code, output = commands.run(["decode", tmp_path / arguments[0], *arguments[1:]], tmp_path / "log")
        assert code == 2 and output.count("\n") == 1 and re.search(part, output), output
        assert (tmp_path / "hard.mp4").read_bytes() == latents and (tmp_path / "log.mp4").read_text() == "a user's"


@pytest.mark.processes
@pytest.mark.parametrize("content, part", [(None, "No such file"), (b"x" * 99, "is no file of latents"), (b"", "no finished block")])
def test_a_file_that_cannot_be_decoded(tmp_path, content, part):
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    code, output = commands.run(["decode", file], tmp_path / "log")
    assert code == 2 and output.count("\n") == 1 and part in output, output


@pytest.mark.processes
def test_the_report_is_beside_the_video(tmp_path):
    output = make_video(tmp_path, "--num_frames", "67", "--dualparal_degree", "2")
    [file] = tmp_path.glob("*.json")
    report = json.loads(file.read_text())
    check_provenance(report)
    assert (report["frames"], report["passes"], report["blocks_finished"], len(report["ranks"])) == (67, 4, 2, 2)
    # windows of 12 and 4 + 6 latent frames of 16 tokens, 2 branches in float32, 2 steps
    assert report["ranks"][0]["sent_bytes"] == 2 * (12 + 10) * 16 * 2 * hidden_dim() * 4
    assert 0 < report["first_segment_s"] <= report["wall_s"] and 0 < report["bubble"] < 1 and report["decode_s"] > 0
    assert all(rank["peak_bytes"] > 2**27 for rank in report["ranks"])
    # The demo model's own memory is small beside that of Python and its libraries.
    assert len(report["memory"]) == len(report["ranks"])
    for rank, memory in zip(report["ranks"], report["memory"]):
        assert 0 < memory["predicted_bytes"] < memory["before_bytes"] < rank["peak_bytes"]
        assert memory["predicted_bytes"] == max(memory["phases"].values())
    assert re.search(r"waiting stages +\d+\.\d%, \d+\.\d% by the schedule", output)


def check_provenance(report):
    """What makes the video again is there."""
    assert report["prompt"] == DEMO[3] and report["seed"] == 42 and report["spec"]["num_frames"] == 67
    assert report["settings"]["num_inference_steps"] == 2 and report["settings"]["dualparal_degree"] == 2
    assert set(report["versions"]) >= {"xdualparal", "torch", "diffusers", "transformers", "xfuser", "av", "python"}
    assert report["versions"]["torch"] == torch.__version__ and "--num_frames" in report["command"]


def hidden_dim():
    """The demo model's."""
    config = json.loads((TINY_WAN_FOLDER / "transformer" / "config.json").read_text())
    return config["num_attention_heads"] * config["attention_head_dim"]


@pytest.mark.processes
def test_a_damaged_folder_is_refused_in_one_line_and_makes_nothing(tmp_path):
    weights = shutil.copytree(TINY_WAN_FOLDER, tmp_path / "weights")
    os.truncate(weights / "vae" / "diffusion_pytorch_model.safetensors", 1000)
    flags = ["--model", "tiny-wan", "--prompt", "x", "--dualparal_degree", "2", "--output_directory", tmp_path / "out"]
    code, output = commands.run([*flags, "--model_path", weights], tmp_path / "log")
    assert code == 2 and output.count("\n") == 1 and "vae/diffusion_pytorch_model.safetensors is cut off" in output, output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "weights"]


def test_a_file_of_latents_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["decode", str(tmp_path / "missing")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"xdit-dualparal: error: {tmp_path / 'missing'}: No such file or directory\n"
