"""The direction of imports (DESIGN section 4): a folder knows only those that it stands on."""

import ast
import sys
from pathlib import Path

import pytest

import xdualparal

PACKAGE = Path(xdualparal.__file__).parent
ALLOWED = {  # folder, or module on the top floor: which others of this package it may import
    "limits": set(), "run_spec": set(), "plan": set(), "launch": set(), "compat": set(), "demo": set(),
    "strategies": {"plan"}, "models": {"run_spec"}, "call": set(), "call_checks": set(), "request": {"run_spec", "call_checks", "models"}, "output": {"plan", "run_spec"},
    "text_settings": {"plan"}, "texts": {"text_settings", "models", "engine"}, "config": {"plan", "strategies", "output", "text_settings"}, "engine": {"plan", "models", "output"},
    "run_files": {"plan", "output"}, "quality": {"demo", "output"}, "bench": {"launch", "output", "plan", "strategies"}, "calibration": {"plan", "strategies", "models", "engine"},
    "images": {"call_checks", "models", "request"},
    "pipeline": {"config", "images", "texts", "run_files", "request", "call", "run_spec", "plan", "strategies", "models", "output", "engine", "compat"},
    "xdit": {"config", "images", "text_settings", "texts", "call_checks", "run_spec", "request", "plan", "strategies", "models", "output", "engine", "compat", "launch", "demo", "pipeline", "quality", "bench", "calibration"},
}
STANDARD_LIBRARY_ONLY = ("plan", "strategies", "run_spec.py", "limits.py", "text_settings.py")


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
        assert ours <= ALLOWED[own] | {own, "limits"}


def test_only_xdit_knows_xfusers_runner():
    users = {f.relative_to(PACKAGE).parts[0] for f in PACKAGE.rglob("*.py") if "xfuser.runner" in f.read_text()}
    assert users <= {"xdit", "compat"}


OPTIONAL = {"plan": {"matplotlib"}}  # imported where a picture is drawn


@pytest.mark.parametrize("place", STANDARD_LIBRARY_ONLY)
def test_standard_library_only(place):
    files = [PACKAGE / place] if place.endswith(".py") else (PACKAGE / place).glob("*.py")
    names = {name.split(".")[0] for file in files for name in imported(file)}
    assert names - {"xdualparal"} - OPTIONAL.get(place, set()) <= set(sys.stdlib_module_names)


def test_pictures_are_drawn_only_where_matplotlib_is_there():
    """No module imports it when it is imported itself."""
    files = [file for file in PACKAGE.rglob("*.py") for node in ast.parse(file.read_text()).body
             if isinstance(node, (ast.Import, ast.ImportFrom)) and ast.unparse(node).split()[1].startswith("matplotlib")]
    assert not files


def test_the_launcher_does_not_wait_for_xfuser():
    names = {name.split(".")[0] for file in (PACKAGE / "launch").glob("*.py") for name in imported(file)}
    assert "xfuser" not in names and "diffusers" not in names
