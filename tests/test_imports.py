"""The direction of imports (DESIGN section 4): a module knows only what is below it."""

import ast
from pathlib import Path

import pytest

import xdualparal

PACKAGE = Path(xdualparal.__file__).parent
BELOW = {  # module: what of this package it may import
    "config": set(), "schedule": set(), "noise": set(), "comm": set(), "decode": set(), "video": set(),
    "feature_cache": set(), "request": set(), "latents": set(), "demo": set(), "sharding": set(), "attention": set(),
    "checkpoint": set(), "latents_file": set(), "stopping": set(),
    "simulate": {"schedule"}, "render": {"schedule", "simulate"}, "validate": {"schedule", "render"},
    "meter": {"simulate"}, "tracing": {"simulate"}, "report": {"schedule", "simulate"}, "decoding": {"simulate"},
    "upstream": set(), "course": {"schedule"}, "saving": {"latents"},
    "stage": {"feature_cache", "schedule"}, "groups": {"comm"}, "runtime": {"schedule"},
    "run": {"comm", "course", "decode", "decoding", "latents", "noise", "runtime", "saving", "schedule", "sharding"},
    "pipeline": {"attention", "checkpoint", "config", "groups", "latents_file", "meter", "models", "render", "report",
                 "request", "run", "schedule", "sharding", "stage", "stopping", "tracing", "upstream", "validate"},
    "quality": {"demo"},
    "models": {"models"},
    "xdit": {"attention", "checkpoint", "config", "decode", "latents_file", "models", "pipeline", "report", "request",
             "schedule", "sharding", "stage", "upstream", "video", "xdit"},
}


def imported(file):
    """The modules and packages of this package, by their first name, that ``file`` imports."""
    depth = len(file.relative_to(PACKAGE).parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            yield from [(node.module or alias.name).split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield file.relative_to(PACKAGE).parts[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xdualparal"):
            yield from [(node.module.split(".") + [alias.name])[1] for alias in node.names]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down(file):
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name != "__init__":
        assert set(imported(file)) <= BELOW[name]


def test_only_xdit_and_the_stage_know_xfusers_runner():
    users = {f.relative_to(PACKAGE).parts[0] for f in PACKAGE.rglob("*.py") if "xfuser.runner" in f.read_text()}
    assert users <= {"xdit"}


def test_the_schedule_is_standard_library_only():
    tree = ast.parse((PACKAGE / "schedule.py").read_text())
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"re", "dataclasses"}
