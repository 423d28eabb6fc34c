"""The examples run, with the demo model in the place of a real one."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from dualparal_testing.commands import is_running

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parent.parent
DEMO = ["--model", "tiny-wan", "--height", "32", "--width", "32", "--num_frames", "65", "--num_inference_steps", "1"]
API = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
LIMIT_S = 240


def run(command, folder):
    """Runs ``command`` in ``folder``, with this Python's commands first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = dict(os.environ, PATH=path, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def num_frames(folder):
    """How many frames the only mp4 under ``folder`` has."""
    [file] = folder.rglob("*.mp4")
    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("script", [
    "gpus2.sh", pytest.param("gpus4.sh", marks=pytest.mark.upstream), pytest.param("gpus8.sh", marks=pytest.mark.upstream),
])
def test_the_shell_lines(tmp_path, script):
    run(["bash", str(ROOT / "examples" / script), *DEMO], tmp_path)
    assert num_frames(tmp_path) == 65


@pytest.mark.parametrize("processes, degrees", [
    (2, []),
    pytest.param(4, ["--ulysses_degree", "2"], marks=pytest.mark.upstream),
    pytest.param(8, ["--ulysses_degree", "2", "--use_cfg_parallel"], marks=pytest.mark.upstream),
])
def test_the_python_script(tmp_path, processes, degrees):
    script = [str(ROOT / "examples" / "python_api.py"), "--model", str(ROOT / "xdualparal" / "demo" / "tiny-wan")]
    run([sys.executable, *API, str(processes), *script, "--pipefusion_parallel_degree", "2", *degrees, *DEMO[2:], "--video", "v.mp4"], tmp_path)
    assert num_frames(tmp_path) == 65


def test_from_python_without_torchrun_says_what_to_do(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "python_api.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "torchrun --nproc_per_node" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_each_rank_loads_its_own_share(tmp_path):
    """A small checkpoint of two experts; the bytes that are read are counted twice, by the reader and by the system."""
    script = [str(ROOT / "examples" / "measure_loading.py"), "--heads", "8", "--layers", "4", "--stages", "2"]
    lines = run([sys.executable, *script], tmp_path).splitlines()
    assert len(lines) == 3 and all(line.endswith(": below") for line in lines[1:]), lines
    for line in lines[1:]:
        share, read, by_system, *_ = (float(word) for word in re.findall(r"\d+\.\d+", line))
        assert 0.7 * share < read <= by_system < read + 0.05


def test_the_backends_are_compared(tmp_path):
    """The tiny size on the CPU: the program that tests/gpu runs on a GPU."""
    script = [str(ROOT / "examples" / "measure_backends.py"), "--size", "tiny", "--backends", "SDPA_MATH,SDPA_FLASH"]
    run([sys.executable, *script, "--runs", "1", "--json", str(tmp_path / "figures.json")], tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [0 < row["relative_error"] < 0.1 for row in figures["backends"]] == [True, True]


def test_videos_side_by_side_are_measured_and_equal(tmp_path):
    script = str(ROOT / "examples" / "measure_videos_in_flight.py")
    said = run([sys.executable, script, "--runs", "1", "--pass_s", "0.01", "--num_frames", "49"], tmp_path)
    assert "1 in flight: stages wait" in said and "2 in flight" in said and "equal bytes: True" in said


def test_passes_of_both_context_modes_are_timed(tmp_path):
    """The tiny size on the CPU: every row of the table for a GPU is there, and a cached context of B latent frames halves a window."""
    script = str(ROOT / "examples" / "gpu_passes.py")
    run([sys.executable, script, "--device", "cpu", "--layers", "1", "--waves", "1", "--json", str(tmp_path / "figures.json")], tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    operations = {row["what"]: row["operations"] for row in figures["rows"]}
    assert len(operations) == 8 and all(row["seconds"] > 0 for row in figures["rows"]) and figures["peak"] > 0
    assert operations["tiny, 1 layers, C = 8, recomputed, eager"] == 2 * operations["tiny, 1 layers, C = 8, cached, eager"]


def test_the_report_of_a_gpu(tmp_path):
    """Tiny sizes on the CPU, each part that must work there."""
    table = tmp_path / "table.md"
    run(["bash", str(ROOT / "examples" / "gpu_report.sh"), "--device", "cpu", "--output", str(table)], tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.read_text().splitlines()]
    assert rows[0][0].startswith("CPU, torch") and {len(row) for row in rows} == {3}
    figures = [(part, figure) for part, what, figure in rows[2:] if what != "took"]
    assert [(part, figure) for part, figure in figures if "**" in figure and "too noisy" not in figure] == []
    assert [part for part, what, _ in rows if what == "took"] == ["correctness", "matrices", "passes", "stages", "decoding", "runs"]
    assert "skipped" in dict(figures)["correctness"]


def test_the_report_goes_on_where_a_part_fails(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "examples" / "gpu_report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    assert sum(report.LIMITS_S.values()) <= 24 * 60
    results = iter([(1, "", "Traceback\nRuntimeError: no | memory"), (None, "", ""), (0, 'said\n[["a", "1 s"]]\n', "")])
    with monkeypatch.context() as patch:
        patch.setattr(report, "limited", lambda *_: next(results))
        report.write_table(tmp_path / "table.md", "cpu", ["matrices", "passes", "runs"])
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if "| took |" not in line]
    assert rows[2:] == [
        "| matrices | failed | **exit code 1: RuntimeError: no / memory** |",
        "| passes | ended | **it took more than 300 s** |", "| runs | a | 1 s |",
    ]


def wait_until_gone(pid):
    """Until the process ``pid``, which was killed, is gone."""
    end = time.monotonic() + LIMIT_S
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started():
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "examples" / "gpu_report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    code, output, _ = report.limited(["bash", "-c", "sleep 600 & echo $!; wait"], 1)
    assert code is None
    wait_until_gone(int(output))
    assert report.limited(["bash", "-c", "echo a; echo b >&2; exit 3"], 60) == (3, "a\n", "b\n")
