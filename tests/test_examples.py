"""The examples run, with the demo model in the place of a real one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

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
    run([sys.executable, *API, str(processes), *script, "--pipefusion_parallel_degree", "2", *degrees, *DEMO[2:]], tmp_path)
    assert num_frames(tmp_path) == 65


def test_the_backends_are_compared(tmp_path):
    """The tiny size on the CPU: the program that tests/gpu runs on a GPU."""
    script = [str(ROOT / "examples" / "measure_backends.py"), "--size", "tiny", "--backends", "SDPA_MATH,SDPA_FLASH"]
    run([sys.executable, *script, "--runs", "1", "--json", str(tmp_path / "figures.json")], tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [0 < row["relative_error"] < 0.1 for row in figures["backends"]] == [True, True]
