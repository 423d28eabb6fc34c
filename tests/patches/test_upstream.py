"""xfuser with the patches: its own tests and ours pass on it, and plain xdit makes videos. Slow, see tests/upstream_digest.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dualparal_testing.processes import free_port

from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

pytestmark = [pytest.mark.processes, pytest.mark.upstream]
ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 600
# xfuser's own tests of these files take over 5 s each here and touch nothing that a patch does, but for the registry's.
LEFT_OUT = [
    "tests/core/test_diffusers_floors.py", "tests/core/test_fp8_quantizer_packaging.py",
    "tests/core/test_multirank_load_and_sharding.py", "tests/layers/attention_processor_test.py",
]
VIDEO = ["--prompt", "a red circle on a dark background", "--num_frames", "81", "--num_inference_steps", "10"]
SMALL = ["--height", "32", "--width", "32", "--guidance_scale", "1.5", "--negative_prompt", "", "--model_path", str(TINY_WAN_FOLDER)]


def environment(tree, **more):
    """The environment of a process that finds xfuser in ``tree``, and may not work around what it lacks."""
    return dict(os.environ, PYTHONPATH=f"{tree}:{ROOT}", OMP_NUM_THREADS="1", LOG_LEVEL="INFO", XDUALPARAL_WORKAROUNDS="off") | more


# xfuser's own tests.

RUN_STOCK = "from xdualparal import enable_host_platform; enable_host_platform(); import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"


def own_tests(tree, program, **more):
    """Starts xfuser's own tests in ``tree``."""
    options = ["-q", "-rA", "-p", "no:cacheprovider", "--import-mode=importlib", "--continue-on-collection-errors"]
    left_out = [f"--ignore={file}" for file in LEFT_OUT]
    return subprocess.Popen(
        [sys.executable, *program, *options, *left_out, "tests"], cwd=tree, env=environment(tree, **more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def outcomes(process):
    """(the names of the tests that passed, those that did not)."""
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return set(re.findall(r"^PASSED (\S+)", output, re.M)), set(re.findall(r"^(?:FAILED|ERROR) (tests\S+)", output, re.M))


def test_xfusers_own_tests_pass_as_before(stock, patched):
    """On the stock one with our CPU platform, without which nearly none can even be imported."""
    started = [own_tests(stock, ["-c", RUN_STOCK], XDUALPARAL_WORKAROUNDS="on"), own_tests(patched, ["-m", "pytest"])]
    (before, _), (after, failed) = map(outcomes, started)
    assert len(before) > 500
    assert before - after == set()
    new = {str(file.relative_to(patched)) for file in patched.glob("tests/**/test_*.py")}
    new -= {str(file.relative_to(stock)) for file in stock.glob("tests/**/test_*.py")}
    assert len(new) == 7 and new <= {test.split("::")[0] for test in after}
    assert {test for test in failed if test.split("::")[0] in new} == set()


# Plain xdit.

def xdit(tree, folder, *command):
    """The only mp4 that ``xdit`` from ``tree`` makes in ``folder``."""
    return _video([sys.executable, "-m", "xfuser.cli"], folder, command, environment(tree))


def xdit_dualparal(folder, *command):
    """The only mp4 that our own command makes in ``folder``, on the installed xfuser."""
    return _video([sys.executable, "-m", "xdualparal.xdit.cli"], folder, command, dict(os.environ, PYTHONPATH=str(ROOT)))


def _video(program, folder, command, environment):
    arguments = [*program, *command, *VIDEO, "--output_directory", str(folder)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = folder.glob("*.mp4")
    return file.read_bytes()


def test_plain_xdit_makes_the_same_video_with_the_plugin(patched, tmp_path):
    command = ["--model", "tiny-wan", "--dualparal_degree", "2"]
    assert xdit(patched, tmp_path / "plain", *command) == xdit_dualparal(tmp_path / "ours", *command)


def test_plain_xdit_makes_the_same_video_with_the_adapter(patched, tmp_path):
    """Patch 0008: the degree is xDiT's own. The weights are in a folder, by patch 0005."""
    adapter = ["--model", "Wan2.1-T2V-1.3B-DualParal", "--pipefusion_parallel_degree", "2"]
    ours = ["--model", "Wan2.1-T2V-1.3B", "--dualparal_degree", "2"]
    assert xdit(patched, tmp_path / "plain", *adapter, *SMALL) == xdit_dualparal(tmp_path / "ours", *ours, *SMALL)


def test_plain_xdit_refuses_in_one_line(patched, tmp_path):
    command = [sys.executable, "-m", "xfuser.runner", "--prompt", "x", "--output_directory", str(tmp_path), "--model"]
    for more, line in (
        (["tiny-wan"], "model tiny-wan runs with DualParal only: add --dualparal_degree 1 (or more)"),
        (["tiny-wan", "--dualparal_degree", "99"], "--dualparal_degree is 99: every stage needs a layer"),
        (["Wan2.1-T2V-DualParal", "--height", "99"], "height is 99"),
    ):
        one = environment(patched, RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=str(free_port()))
        done = subprocess.run([*command, *more], env=one, capture_output=True, text=True)
        [error] = [text for text in done.stderr.splitlines() if "error" in text]
        assert done.returncode == 2 and line in error


# Our own code on it.

def test_our_core_needs_no_workaround_there(patched):
    """The executor against the sequential program, sequence parallelism, the cache and the edges."""
    tests = ["test_pipeline.py", "test_hybrid.py", "engine", "xdit/test_models.py"]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / name) for name in tests)]
    done = subprocess.run(run, cwd=ROOT, env=environment(patched), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:]
