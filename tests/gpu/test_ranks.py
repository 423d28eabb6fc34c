"""Several processes on one GPU, or on as many as there are: the same bits, and nobody waits for ever."""

import os
import signal

import av
import numpy as np
import pytest
from dualparal_testing.commands import Run
from dualparal_testing.gpus import needs_gpu, num_gpus, on_gpu
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import CASES, EXPERTS, OFFLOADED, latents_of_cases

pytestmark = [pytest.mark.gpu, needs_gpu]
SOME = [case for case in CASES if case.name in ("default sizes", "more blocks than steps", "stagger 2", "no context")]
SOME += [*EXPERTS[:2], *OFFLOADED[:2]]  # two experts, both on the device and one at a time
# float32 at any size of heads; the fastest ones want bfloat16.
BACKEND = dict(attention_backend="SDPA")
VIDEO = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--num_inference_steps", "10"]


def latents(world_size, stages, **degrees):
    """The latents of SOME by name."""
    ranks = run_ranks(
        on_gpu, world_size, world_size, latents_of_cases, stages, SOME, start_method="spawn", **degrees, **BACKEND
    )
    return ranks[-1]


@pytest.fixture(scope="module")
def one_stage():
    """On one GPU alone."""
    return latents(1, 1)


@pytest.mark.parametrize("stages, degrees, world_size", [
    (2, {}, 2), (4, {}, 4), (1, dict(use_cfg_parallel=True), 2), (2, dict(use_cfg_parallel=True), 4),
])
def test_stages_and_guidance_ranks_change_no_bit(one_stage, stages, degrees, world_size):
    made = latents(world_size, stages, **degrees)
    assert {case.name for case in SOME if not np.array_equal(made[case.name], one_stage[case.name])} == set()


@pytest.mark.parametrize("stages, degrees, world_size", [(1, dict(ulysses_degree=2), 2), (2, dict(ulysses_degree=2), 4)])
def test_ulysses_only_rounds_differently(one_stage, stages, degrees, world_size):
    made = latents(world_size, stages, **degrees)
    for case in SOME:
        scale = np.abs(one_stage[case.name]).max()
        assert np.abs(made[case.name] - one_stage[case.name]).max() / scale < 1e-3, case.name


def test_it_is_the_sequential_program(one_stage):
    """That runs on the CPU."""
    for case in SOME:
        expected = case.sequential().numpy()
        assert np.abs(one_stage[case.name] - expected).max() / np.abs(expected).max() < 1e-3, case.name


def test_experts_that_change_places_change_no_bit(one_stage):
    for case, offloaded in zip(EXPERTS[:2], OFFLOADED):
        assert np.array_equal(one_stage[case.name], one_stage[offloaded.name])


# The command, on two GPUs where there are two.

def command(folder, *more):
    """Its arguments."""
    return [*VIDEO, "--dualparal_degree", str(min(2, num_gpus())), "--output_directory", str(folder), *more]


def frames(folder):
    """All frames of the only mp4 in ``folder``."""
    [file] = folder.glob("*.mp4")
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The frames of a video that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with Run(command(folder, "--num_frames", "257"), folder / "log", cold=True) as run:
        assert run.ended() == 0, run.output()
    return frames(folder)


def test_a_stop_leaves_a_video_that_plays(tmp_path, whole):
    with Run(command(tmp_path, "--num_frames", "4001"), tmp_path / "log", cold=True) as run:
        run.wait_until(lambda: any(file.stat().st_size for file in tmp_path.glob("*.mp4")))
        os.kill(run.launcher.pid, signal.SIGINT)
        assert run.ended() == 130, run.output()
    assert 0 < len(frames(tmp_path)) < 4001


@pytest.mark.parametrize("rank", [0, -1])
def test_a_killed_run_resumes_to_the_same_frames(tmp_path, whole, rank):
    arguments = command(tmp_path, "--num_frames", "257", "--dualparal_checkpoint", str(tmp_path / "state"), "--dualparal_checkpoint_waves", "1")
    with Run(arguments, tmp_path / "log", cold=True) as run:
        run.wait_until(lambda: any(file.stat().st_size for file in tmp_path.glob("*.mp4")))
        os.kill(run.workers()[rank], signal.SIGKILL)
        assert run.ended() != 0
    with Run(arguments, tmp_path / "log", cold=True) as run:
        assert run.ended() == 0, run.output()
    assert np.array_equal(frames(tmp_path), whole)


def test_compiled_blocks_make_nearly_the_same_video(tmp_path, whole):
    with Run(command(tmp_path, "--num_frames", "257", "--use_torch_compile"), tmp_path / "log", cold=True) as run:
        assert run.ended(600) == 0, run.output()
    assert np.abs(frames(tmp_path).astype(int) - whole).mean() < 2  # of 255
