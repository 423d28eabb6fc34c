"""The pictures of the README: their commands make them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from xdualparal.bench.command import as_json, run_all
from xdualparal.bench.flags import bench_of, bench_parser
from xdualparal.bench.machine import machine
from xdualparal.bench.runs import Run
from xdualparal.bench.summary import summarize
from xdualparal.output.mp4 import VideoWriter

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def pictures(monkeypatch):
    """examples/pictures.py, and a function that runs it."""
    spec = importlib.util.spec_from_file_location("pictures", EXAMPLES / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["pictures.py", *map(str, arguments)])
        module.main()

    return run


def is_png(file):
    return file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000


def test_the_timeline(pictures, tmp_path):
    pictures("--folder", tmp_path, "timeline")
    assert is_png(tmp_path / "timeline.png")


def test_the_strip(pictures, tmp_path):
    with VideoWriter(tmp_path / "video.mp4", 16) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (65, 32, 32, 3), np.uint8))
    (tmp_path / "video.json").write_text(json.dumps({"spec": {"block_latents": 4, "context_latents": 2}}))
    pictures("--folder", tmp_path, "strip", "--video", tmp_path / "video.mp4")
    assert is_png(tmp_path / "strip.png")


def test_the_growth(pictures, tmp_path):
    """From the JSON of a bench whose runs are made up."""
    bench = bench_of(bench_parser().parse_args(["--model", "tiny-wan", "--runs", "2", "--strategies", "dualparal,xdit"]))
    rounds = run_all(bench, lambda bench, case, folder: Run(case, (), wall_s=case.num_frames / 100, peak_bytes=(2**29,)))
    (tmp_path / "bench.json").write_text(json.dumps(as_json(bench, machine(), rounds, summarize(rounds), ([], [])), default=str))
    pictures("--folder", tmp_path, "growth", tmp_path / "bench.json")
    assert is_png(tmp_path / "growth.png")


def test_the_pictures_in_the_repository_are_small():
    files = [*EXAMPLES.glob("*.png"), *EXAMPLES.glob("*.svg")]
    assert files and all(file.stat().st_size < 150_000 for file in files)
