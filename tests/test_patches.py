"""patches/: they apply to the installed xfuser, its own tests and ours pass on it, and plain xdit makes the demo video."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xdualparal.compat import backports as upstream
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "patches"))

import check  # noqa: E402
import make_strategy  # noqa: E402
from trees import PATCHES, apply, copy_installed, git_apply  # noqa: E402

pytestmark = pytest.mark.processes
LIMIT_S = 600
# xfuser's own tests of these files take over 5 s each here and touch nothing that a patch does, but for the registry's.
LEFT_OUT = [
    "tests/core/test_diffusers_floors.py", "tests/core/test_fp8_quantizer_packaging.py",
    "tests/core/test_multirank_load_and_sharding.py", "tests/layers/attention_processor_test.py",
]
COMMAND = ["--prompt", "a red circle on a dark background", "--num_frames", "81", "--num_inference_steps", "10", "--dualparal_degree", "2"]


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """A copy of the installed xfuser with its tests."""
    return copy_installed(tmp_path_factory.mktemp("stock"))


def series(stock, folder, patches):
    """A copy of ``stock`` in ``folder`` with ``patches`` applied."""
    shutil.copytree(stock, folder, dirs_exist_ok=True)
    for patch in patches:
        apply(patch, folder)
    return folder


@pytest.fixture(scope="session")
def patched(stock, tmp_path_factory):
    """xfuser with the whole series."""
    return series(stock, tmp_path_factory.mktemp("patched"), PATCHES)


@pytest.fixture(scope="session")
def pluggable(stock, tmp_path_factory):
    """xfuser with all but the strategy itself: it is this package's plugin there."""
    return series(stock, tmp_path_factory.mktemp("pluggable"), PATCHES[:-1])


def environment(tree, **more):
    """The environment of a process that finds xfuser in ``tree``, and may not work around what it lacks."""
    return dict(os.environ, PYTHONPATH=f"{tree}:{ROOT}", OMP_NUM_THREADS="1", LOG_LEVEL="INFO", XDUALPARAL_WORKAROUNDS="off") | more


def test_there_are_the_six_of_the_issue_in_order():
    assert [patch.name[:4] for patch in PATCHES] == ["0001", "0002", "0003", "0004", "0005", "0006"]


@pytest.mark.parametrize("patch", PATCHES[:-1], ids=lambda patch: patch.name)
def test_each_applies_alone(stock, patch):
    assert git_apply(patch, stock, "--check") == (True, "")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_is_a_pull_request(patch):
    """It says what, why, how, tests and commands, and holds the tests that it names."""
    text = patch.read_text()
    message, diff = text.split("\ndiff --git ", 1)
    assert re.search(r"^Subject: \[PATCH", message, re.M)
    missing = [word for word in ("\nWhat: ", "\nWhy:", "\nHow:", "\nTests: ", "\n    python -m pytest ") if word not in message]
    assert missing == []
    for named in re.findall(r"tests/core/test_\w+\.py(?=:)", message.split("Tests: ")[1]):
        assert f"+++ b/{named}" in diff


def test_the_series_can_be_taken_back(stock, patched, tmp_path):
    tree = shutil.copytree(patched, tmp_path / "tree")
    for patch in reversed(PATCHES):
        assert git_apply(patch, tree, "--reverse") == (True, "")
    left = subprocess.run(["diff", "-r", "-x", "__pycache__", str(stock), str(tree)], capture_output=True, text=True)
    assert left.stdout == ""


def test_the_strategy_is_this_package(tmp_path):
    """Else: python patches/make_strategy.py"""
    made = make_strategy.strategy_patch(tmp_path)
    assert made == make_strategy.PATCH.read_text()


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
    assert len(new) == 10 and new <= {test.split("::")[0] for test in after}
    assert {test for test in failed if test.split("::")[0] in new} == set()


# Plain xdit.

def xdit(tree, folder, *command):
    """The only mp4 that ``xdit`` from ``tree`` makes in ``folder``."""
    arguments = [sys.executable, "-m", "xfuser.cli", *command, *COMMAND, "--output_directory", str(folder)]
    done = subprocess.run(arguments, env=environment(tree), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = folder.glob("*.mp4")
    return file.read_bytes()


def test_plain_xdit_makes_the_demo_video_with_the_plugin(pluggable, tmp_path):
    """Byte for byte that of our own command on the stock xfuser."""
    launcher = [sys.executable, "-m", "xdualparal.xdit.cli", "--model", "tiny-wan", *COMMAND]
    subprocess.run([*launcher, "--output_directory", str(tmp_path / "ours")], check=True, capture_output=True, timeout=LIMIT_S)
    [ours] = (tmp_path / "ours").glob("*.mp4")
    assert xdit(pluggable, tmp_path / "plain", "--model", "tiny-wan") == ours.read_bytes()


def test_plain_xdit_makes_a_video_without_this_package(patched, tmp_path):
    """With the whole series; the weights are in a folder."""
    sizes = ["--height", "32", "--width", "32", "--guidance_scale", "1.5", "--negative_prompt", ""]
    weights = ["--model", "Wan2.1-T2V-1.3B", "--model_path", str(TINY_WAN_FOLDER)]
    assert b"moov" in xdit(patched, tmp_path, *weights, *sizes)
    assert not list((patched / "xfuser" / "dualparal").rglob("upstream.py"))


def test_plain_xdit_refuses_in_one_line(pluggable, tmp_path):
    command = [sys.executable, "-m", "xfuser.runner", "--model", "tiny-wan", "--prompt", "x", "--output_directory", str(tmp_path)]
    for more, line in (
        ([], "model tiny-wan runs with DualParal only: add --dualparal_degree 1 (or more)"),
        (["--dualparal_degree", "99"], "--dualparal_degree is 99: every stage needs a layer"),
    ):
        done = subprocess.run([*command, *more], env=environment(pluggable, RANK="0", WORLD_SIZE="1"), capture_output=True, text=True)
        [error] = [text for text in done.stderr.splitlines() if "error" in text]
        assert done.returncode == 2 and line in error


# Our own code on it.

def test_our_core_needs_no_workaround_there(pluggable):
    """The executor against the sequential program, sequence parallelism, the cache and the edges."""
    tests = ["test_pipeline.py", "test_feature_cache.py", "test_comm.py", "test_hybrid.py", "test_xdit_models.py"]
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / name) for name in tests)]
    done = subprocess.run(run, cwd=ROOT, env=environment(pluggable), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_workaround_that_is_needed_is_an_error_where_they_are_off(monkeypatch):
    monkeypatch.setenv(upstream.WORKAROUNDS, "off")
    with pytest.raises(RuntimeError, match="this xfuser lacks wings .patches/README.md. and XDUALPARAL_WORKAROUNDS is off"):
        upstream.must_work_around("wings", False)
    assert upstream.must_work_around("wings", True) is False


# What the check says.

def states(tree, folder):
    """The state of each patch on ``tree``."""
    return [state for state, _ in check.states_of(tree, folder)]


def test_on_the_stock_xfuser_all_apply(stock, tmp_path):
    assert states(stock, tmp_path) == [check.APPLIES] * 6


def test_with_the_series_none_is_needed(patched, tmp_path):
    assert set(states(patched, tmp_path)) == {check.ALREADY, check.UNNEEDED}


def test_a_patch_that_needs_work_is_said(stock, tmp_path):
    tree = shutil.copytree(stock, tmp_path / "tree")
    shutil.rmtree(tree / "xfuser" / "core" / "cache_manager")
    (tmp_path / "work").mkdir()
    found = check.states_of(tree, tmp_path / "work")
    assert found[2][0] == check.NEEDS_WORK and "cache_manager.py" in found[2][1]


def test_the_command(stock, capsys):
    assert check.main(["--tree", str(stock)]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [patch.name for patch in PATCHES]
    assert check.main(["--tree", "/nowhere"]) == 2
    assert "holds no folder xfuser" in capsys.readouterr().err
