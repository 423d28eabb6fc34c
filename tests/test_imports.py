"""The direction of imports (DESIGN section 4): a folder knows only those that it stands on."""

import ast
import sys
from pathlib import Path

import pytest

import xdualparal

PACKAGE = Path(xdualparal.__file__).parent
ALLOWED = {  # folder, or module on the top floor: which others of this package it may import
    "config": set(), "request": set(), "plan": set(), "models": set(), "launch": set(), "compat": set(), "demo": set(),
    "output": {"plan"}, "engine": {"plan", "models", "output"},
    "pipeline": {"config", "request", "plan", "models", "output", "engine", "compat"},
    "xdit": {"config", "request", "plan", "models", "output", "engine", "compat", "launch", "demo", "pipeline"},
}


def imported(file):
    """(first name in this package, or "" for another package; the module's full name) of all that ``file`` imports."""
    place = ["xdualparal", *file.relative_to(PACKAGE).parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = [*place[:len(place) - node.level], *filter(None, [node.module])] if node.level else node.module.split(".")
            for alias in node.names:
                yield ".".join([*module, alias.name])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down(file):
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own != "__init__":
        ours = {name.split(".")[1] for name in imported(file) if name.startswith("xdualparal.")}
        assert ours <= ALLOWED[own] | {own}


def test_only_xdit_knows_xfusers_runner():
    users = {f.relative_to(PACKAGE).parts[0] for f in PACKAGE.rglob("*.py") if "xfuser.runner" in f.read_text()}
    assert users <= {"xdit", "compat"}


def test_the_plan_is_standard_library_only():
    names = {name.split(".")[0] for file in (PACKAGE / "plan").glob("*.py") for name in imported(file)}
    assert names - {"xdualparal"} <= set(sys.stdlib_module_names)


def test_the_launcher_does_not_wait_for_xfuser():
    names = {name.split(".")[0] for file in (PACKAGE / "launch").glob("*.py") for name in imported(file)}
    assert "xfuser" not in names and "diffusers" not in names
