"""When the tests marked upstream run: tests/upstream_digest.py."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The module, for a tree in a folder of its own."""
    spec = importlib.util.spec_from_file_location("upstream_digest", Path(__file__).with_name("upstream_digest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in {
        "patches/0001-a.patch": "a", "patches/trees.py": "b", "patches/README.md": "c", "xdualparal/compat/host.py": "d",
        "xdualparal/pipeline.py": "e", "tests/constraints.txt": "torch==1\nxfuser==0.7.0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "DIGEST", tmp_path / "tests" / "upstream.digest")
    monkeypatch.setattr(module, "digest", lambda digest=module.digest: digest(tmp_path))
    return module


def test_they_run_until_they_passed_once(command):
    assert command.main([]) == 1
    assert command.main(["--write"]) == 0 and command.main([]) == 0


@pytest.mark.parametrize("name, runs", [
    ("patches/0001-a.patch", 1), ("patches/trees.py", 1), ("xdualparal/compat/host.py", 1), ("xdualparal/compat/new.py", 1),
    ("xdualparal/pipeline.py", 0), ("patches/README.md", 0),
])
def test_a_change_of_what_they_depend_on_makes_them_run(command, tmp_path, name, runs):
    command.main(["--write"])
    (tmp_path / name).write_text("changed")
    assert command.main([]) == runs


@pytest.mark.parametrize("pins, runs", [("torch==1\nxfuser==0.7.1\n", 1), ("torch==2\nxfuser==0.7.0\n", 0)])
def test_so_does_another_release_of_xfuser(command, tmp_path, pins, runs):
    command.main(["--write"])
    (tmp_path / "tests" / "constraints.txt").write_text(pins)
    assert command.main([]) == runs


def test_what_it_does_not_know_is_refused(command, capsys):
    assert command.main(["write"]) == 2 and "only argument is --write" in capsys.readouterr().err
