"""What needs a GPU. One command runs it: ``bash tests/run.sh tests/gpu``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
ROOT = Path(__file__).parent.parent.parent
DEMO = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_frames", "67", "--num_inference_steps", "10"]
LIMIT_S = 900


def test_backends_agree_with_float32(tmp_path):
    """The bar: rounding to bfloat16 gives 0.025 with as many layers (``--size tiny`` on a CPU), attention to a wrong set of
    keys about 1."""
    file = tmp_path / "figures.json"
    subprocess.run(
        [sys.executable, str(ROOT / "examples" / "measure_backends.py"), "--runs", "1", "--json", str(file)],
        check=True, timeout=LIMIT_S,
    )
    figures = json.loads(file.read_text())["backends"]
    assert {row["backend"] for row in figures} == {"SDPA", "SDPA_FLASH", "CUDNN"}
    assert all(row["relative_error"] < 0.1 for row in figures)


def demo_frames(folder, **environment):
    """The frames of the demo video, made on the GPU, or on the CPU where that is hidden."""
    command = [sys.executable, "-m", "xdualparal.xdit.cli", *DEMO, "--dualparal_degree", "1", "--output_directory", str(folder)]
    subprocess.run(command, check=True, timeout=LIMIT_S, env=dict(os.environ, **environment))
    [file] = folder.glob("*.mp4")
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_the_demo_video_is_the_cpus(tmp_path):
    on_gpu = demo_frames(tmp_path / "gpu")
    on_cpu = demo_frames(tmp_path / "cpu", CUDA_VISIBLE_DEVICES="")
    assert np.abs(on_gpu - on_cpu).mean() < 2  # of 255
