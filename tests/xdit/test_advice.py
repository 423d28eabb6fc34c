"""What a command says of its waiting stages before it starts."""

import pytest

from xdualparal.xdit import memory_check
from xdualparal.xdit.advice import waiting_line, without_effect_line
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.memory_check import Place
from xdualparal.xdit.registry import model_class

PRICE = "times the weights on each process and what is exchanged not counted"


def said(*extra, model="tiny-wan", prompts=("a red circle",)):
    args = vars(make_parser().parse_args(["--model", model, "--prompt", *prompts, *extra]))
    return waiting_line(args, model_class(model, args["dualparal_degree"]))


# 269 latent frames are 1 + 268 * 4 video frames, 12 + 32 * 8: with block 0, 33 blocks.
MANY = ("--num_inference_steps", "4", "--num_frames", "1073", "--guidance_scale", "1")


@pytest.mark.parametrize("extra, line", [
    (["--dualparal_degree", "8"], f"55% of the time (4 steps, 8 stages): --dualparal_degree 4 --ulysses_degree 2 waits 10%, with 2 {PRICE}"),
    (["--dualparal_degree", "8", "--num_frames", "0"], f"50% of the time (4 steps, 8 stages): --dualparal_degree 4 --ulysses_degree 2 waits 0%, with 2 {PRICE}"),
    (["--dualparal_degree", "8", "--ulysses_degree", "4"], "55% of the time (4 steps, 8 stages)"),  # 4 heads, 8 layers: no place
    (["--dualparal_degree", "2", "--num_frames", "5"], f"50% of the time (4 steps, 2 stages): --dualparal_degree 1 --ulysses_degree 2 waits 0%, with 2 {PRICE}"),
    (["--dualparal_degree", "2", "--num_frames", "5", "--guidance_scale", "2", "--ring_degree", "16"],  # the tokens are split already
     f"33% of the time (4 steps, 2 stages): --dualparal_degree 1 --use_cfg_parallel waits 0%, with 2 {PRICE}"),
])
def test_what_is_said(extra, line):
    assert said(*MANY, *extra) == f"stages will wait {line}"


def test_little_waiting_is_not_worth_a_line():
    assert said(*MANY, "--dualparal_degree", "4") == ""  # 10 %
    assert said(*MANY, "--dualparal_degree", "1") == ""
    assert said(model="Wan2.1-T2V") == ""  # xDiT's own


def test_processes_without_a_window_of_the_queue_are_counted():
    queue = ("--long_video_strategy", "fifo", "--num_inference_steps", "10")  # 3 windows of 4 steps
    assert said(*queue, "--dualparal_degree", "3") == ""
    assert said(*queue, "--dualparal_degree", "5") == (
        "2 of 5 processes will have nothing to do (the queue of 10 steps has 3 windows): --dualparal_degree 3 is as fast"
    )


def test_several_prompts_share_the_stages():
    line = said(*MANY, "--num_frames", "5", "--dualparal_degree", "2", "--ring_degree", "16", prompts=("a red circle", "a blue square"))
    assert line.endswith(": --dualparal_videos_in_flight 2 waits 11%")


def test_what_does_not_fit_or_contradicts_a_flag_is_not_proposed(monkeypatch):
    flags = ("--num_frames", "0", "--num_inference_steps", "4", "--guidance_scale", "1", "--dualparal_degree", "8")
    line = "stages will wait 50% of the time (4 steps, 8 stages)"

    def said_with(gigabytes, *extra):
        monkeypatch.setattr(memory_check, "place_of_this_rank", lambda world_size: Place("device 0", gigabytes * 10**9, (0,), False))
        return said(*flags, *extra, model="Wan2.1-T2V")

    assert said_with(80).startswith(f"{line}: --dualparal_degree 4 --ulysses_degree 2 waits 0%")
    assert said_with(8) == line  # half of its 28 GB of weights, on 2 or 4 stages, do not fit
    assert said_with(80, "--dualparal_stage_layers", "5,5,5,5,5,5,5,5") == line


@pytest.mark.parametrize("flags, line", [
    (["--dualparal_stagger", "2", "--dualparal_context", "cached"], "warning: --dualparal_stagger and --dualparal_context will do nothing: the video is one block"),
    (["--dualparal_context_timestep", "true"], "warning: --dualparal_context_timestep will do nothing: the video is one block"),
    (["--dualparal_strategy", "video_infinity", "--dualparal_halo_latents", "2"], "warning: --dualparal_halo_latents will do nothing: the video is one block"),
    (["--dualparal_block_latents", "6"], ""), (["--dualparal_strategy", "full"], ""),
    (["--dualparal_stagger", "2", "--num_frames", "50"], ""), (["--dualparal_stagger", "2", "--num_frames", "0"], ""),
])
def test_settings_between_blocks_do_nothing_in_one_block(flags, line):
    """B + C is 12 latent frames, of 45 video frames."""
    args = vars(make_parser().parse_args(["--model", "tiny-wan", "--prompt", "a", "--num_frames", "45", "--dualparal_degree", "1", *flags]))
    assert without_effect_line(args, model_class("tiny-wan", 1)) == line
