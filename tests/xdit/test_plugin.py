"""The plugin's hooks, without an xfuser that calls them (tests/patches has one)."""

import os
import threading

import pytest
import torch
from dualparal_testing.loras import write

from xdualparal.xdit.models import DualParalWanModel
from xdualparal.xdit.plugin import DualParalPlugin

TINY = {"model": "tiny-wan", "prompt": "a red circle"}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """One process, which takes no signals."""
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("xdualparal.launch.watchdog.signal.signal", lambda number, handler: None)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["Wan2.1-T2V", "FLUX.1-dev"])
def test_xdits_own_runs_are_left_alone(name):
    args = {"model": name, "dualparal_degree": None, "dualparal_stagger": 1}
    assert DualParalPlugin().runner_args(args) is args
    assert DualParalPlugin().select_model(name, args) is None


def test_what_is_asked_is_in_xdits_words():
    args = DualParalPlugin().runner_args(TINY | {"dualparal_degree": 1})
    assert args["pipefusion_parallel_degree"] == 1 and args["num_pipeline_patch"] == 1


def test_one_prompt_is_one_prompt():
    """From Python it is a string, not a list."""
    args = TINY | {"dualparal_degree": 1, "num_frames": 0, "dualparal_latents_out": "latents"}
    assert DualParalPlugin().runner_args(args)["prompt"] == "a red circle"


@pytest.mark.parametrize("args, line", [
    (TINY, "model tiny-wan runs with DualParal only"),
    ({"model": "Wan2.1-T2V", "prompt": "x", "dualparal_stagger": 3}, "a --dualparal_ flag is given and DualParal is off"),
    (TINY | {"dualparal_degree": 2}, "make 2 processes and 1 were started"),
])
def test_what_cannot_work_is_refused(args, line, capsys):
    with pytest.raises(SystemExit) as ended:
        DualParalPlugin().runner_args(args)
    assert ended.value.code == 2 and line in capsys.readouterr().err


def test_it_makes_a_model_that_is_watched():
    args = TINY | {"dualparal_degree": 1, "dualparal_block_latents": 6}
    make = DualParalPlugin().select_model("tiny-wan", args)
    assert issubclass(make.func.__self__, DualParalWanModel)
    assert make.keywords["config"].block_latents == 6 and make.keywords["watchdog"].rank == int(os.environ["RANK"])


def test_a_loras_flag_has_our_prefix(tmp_path):
    from xfuser import xFuserArgs
    from xfuser.config import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    xFuserArgs.add_runner_args(parser)
    DualParalPlugin().add_runner_args(parser)
    assert not {"--lora", "--lora_2", "--output"} & parser._option_string_actions.keys()
    lora = write(tmp_path / "a.safetensors", {"blocks.0.attn1.to_q.diff_b": torch.ones(144)})
    argv = ["--model", "tiny-wan", "--prompt", "x", "--dualparal_degree", "1", "--dualparal_lora"]
    make = DualParalPlugin().select_model("tiny-wan", vars(parser.parse_args([*argv, str(lora)])))
    assert make.keywords["command"].lora == (str(lora),)
    with pytest.raises(SystemExit):
        DualParalPlugin().select_model("tiny-wan", vars(parser.parse_args([*argv, "no.safetensors"])))
    args = vars(parser.parse_args(["--model", "Wan2.1-T2V", "--prompt", "x"]))
    assert DualParalPlugin().runner_args(args) is args
