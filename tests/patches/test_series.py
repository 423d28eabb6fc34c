"""patches/: each applies alone, can be taken back and is a pull request; the commands beside them say what is so."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import check
import make_strategy
import pytest
from trees import PATCHES, git_apply

from xdualparal.compat import backports

FOLDER = Path(check.__file__).parent


def test_they_are_numbered_in_order():
    assert [patch.name[:4] for patch in PATCHES] == [f"{n:04}" for n in range(1, len(PATCHES) + 1)]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_applies_alone(stock, patch):
    assert git_apply(patch, stock, "--check") == (True, "")


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_each_is_a_pull_request(patch):
    """It says what, why, how and the tests; where it changes code it holds the tests that it names."""
    message, diff = patch.read_text().split("\ndiff --git ", 1)
    assert re.search(rf"^Subject: \[PATCH {int(patch.name[:4])}/{len(PATCHES)}\] (feat|fix): \S", message, re.M)
    assert [word for word in ("\nWhat: ", "\nWhy:", "\nHow:", "\nTests: ") if word not in message] == []
    named = re.findall(r"tests/core/test_\w+\.py(?=[:.])", message.split("Tests: ")[1])
    assert named or "+++ b/xfuser/" not in diff
    assert all(f"+++ b/{test}" in diff and "\n    python -m pytest " in message for test in named)


def test_the_series_can_be_taken_back(stock, patched, tmp_path):
    tree = shutil.copytree(patched, tmp_path / "tree")
    for patch in reversed(PATCHES):
        assert git_apply(patch, tree, "--reverse") == (True, "")
    left = subprocess.run(["diff", "-r", "-x", "__pycache__", str(stock), str(tree)], capture_output=True, text=True)
    assert left.stdout == ""


def test_the_readme_has_a_row_for_each():
    rows = re.findall(r"^\| (\d{4}-\S+) \|", (FOLDER / "README.md").read_text(), re.M)
    assert sorted(rows) == [patch.name.removesuffix(".patch") for patch in PATCHES]


# check.py

def test_the_command_on_the_stock_xfuser(stock, capsys):
    assert check.main(["--tree", str(stock)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [[patch.name, check.APPLIES] for patch in PATCHES]


def test_with_the_series_none_is_needed(patched, tmp_path):
    assert {state for state, _ in check.states_of(patched, tmp_path)} == {check.ALREADY}


def test_what_the_installed_xfuser_has_is_not_needed(stock, tmp_path, monkeypatch):
    lacks = {patch.name[:4]: ["something"] for patch in PATCHES} | {"0003": []}
    monkeypatch.setattr(check, "_lacking", lambda tree: (lacks, ""))
    assert check.states_of(stock, tmp_path)[2][0] == check.UNNEEDED


def test_a_patch_that_needs_work_is_named(stock, tmp_path, monkeypatch):
    tree = shutil.copytree(stock, tmp_path / "tree")
    shutil.rmtree(tree / "xfuser" / "core" / "cache_manager")
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(check, "_lacking", lambda tree: ({}, "not asked here"))
    state, why = check.states_of(tree, tmp_path / "work")[2]
    assert state == check.NEEDS_WORK and "cache_manager.py" in why


def test_a_folder_without_xfuser_is_refused(capsys):
    assert check.main(["--tree", "/nowhere"]) == 2
    assert "holds no folder xfuser" in capsys.readouterr().err


def test_a_workaround_that_is_needed_is_an_error_where_they_are_off(monkeypatch):
    monkeypatch.setenv(backports.WORKAROUNDS, "off")
    with pytest.raises(RuntimeError, match="this xfuser lacks wings .patches/README.md. and XDUALPARAL_WORKAROUNDS is off"):
        backports.must_work_around("wings", False)
    assert backports.must_work_around("wings", True) is False


# make_strategy.py

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.modules["xdualparal"] = None
import xfuser.dualparal as package
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
assert package.DualParalPipeline.__module__ == "xfuser.dualparal.pipeline"
print("imported")
"""


def test_the_copy_inside_xfuser_imports_without_this_package(patched, tmp_path):
    tree = shutil.copytree(patched, tmp_path / "tree")
    assert make_strategy.main([str(tree)]) == 0
    environment = dict(os.environ, PYTHONPATH=str(tree), LOG_LEVEL="INFO", RANK="0", WORLD_SIZE="1")
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "imported"


def test_only_the_packages_own_name_changes():
    for text, there in (
        ("from xdualparal import config", "from xfuser.dualparal import config"),
        ("import xdualparal", "import xfuser.dualparal"),
        ('RUNNER = "xdualparal.xdit.runner"', 'RUNNER = "xfuser.dualparal.xdit.runner"'),
        ('mkdtemp(prefix="xdualparal")', 'mkdtemp(prefix="xdualparal")'),
        ("from .plan import render  # xdit-dualparal", "from .plan import render  # xdit-dualparal"),
    ):
        assert make_strategy.in_xdit(text) == there


def test_make_strategy_wants_one_folder_that_is_free(tmp_path, capsys):
    assert make_strategy.main([]) == 2
    (tmp_path / "xfuser" / "dualparal").mkdir(parents=True)
    assert make_strategy.main([str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
