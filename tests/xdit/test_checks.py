"""Commands that cannot work are refused before any weight is loaded."""

import os

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from xdualparal import DualParalConfig
from xdualparal.output.checkpoint import Checkpoint
from xdualparal.run_spec import RunSpec
from xdualparal.strategies.dualparal import DualParal
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.demo_model import TinyWanModel
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.folders import make_folders
from xdualparal.xdit.registry import DUALPARAL_MODELS


def command(folder, *extra, model="tiny-wan", degree=2, prompt=("--prompt", "a red circle")):
    """A good command's flags, as a dict, with ``extra`` ones behind."""
    degrees = [] if degree is None else ["--dualparal_degree", str(degree)]
    argv = ["--model", model, *prompt, "--output_directory", str(folder), *degrees, *extra]
    return vars(make_parser().parse_args(argv))


def test_a_good_command_gives_its_model(tmp_path):
    assert check_command(command(tmp_path), 2) is TinyWanModel


@pytest.mark.parametrize("extra, message", [
    (dict(extra=["--num_frames", "0", "--dualparal_decode", "end"]), "--num_frames is 0, for a video without end, and it would"),
    (dict(extra=["--num_frames", "0", "--use_parallel_vae"]), "give --dualparal_decode thread or inline, without"),
    (dict(extra=["--num_frames", "0"], prompt=("--prompt", "a", "b")), "without end, and there are 2 prompts: give one, or --dualparal_videos_in_flight 2"),
    (dict(extra=["--dualparal_videos_in_flight", "3"], prompt=("--prompt", "a", "b")), "in_flight is 3 and a replica has at most 2 prompts: give 2 or less"),
    (dict(extra=["--dualparal_videos_in_flight", "2"]), "in_flight is 2 and a replica has at most 1 prompts: give 1 or less"),
    (dict(extra=["--dualparal_videos_in_flight", "2", "--batch_size", "3"], prompt=("--prompt", "a", "b")), "--batch_size is 3 and --dualparal_videos_in_flight is 2, of one batch: give a multiple of 2"),
    (dict(extra=["--dualparal_trace", "t.json"], prompt=("--prompt", "a", "b")), "--dualparal_trace is one file, of one run, and there are 2 prompts: give fewer, or --dualparal_videos_in_flight 2"),
    (dict(extra=["--dualparal_stagger", "9", "--num_inference_steps", "8"]), "stagger is 9 and there are 8 steps: give 1 to 8"),
    (dict(extra=["--dualparal_decode", "here"]), "decode is 'here': give one of thread, inline, end"),
    (dict(extra=["--dualparal_quality", "52"]), "quality is 52: give a whole number from 0 to 51"),
    (dict(extra=["--use_parallel_vae", "--dualparal_checkpoint", "x"]), "saves what was decoded: leave one out"),
    (dict(extra=["--dualparal_latents_out", "x"], prompt=("--prompt", "a", "b")), "latents_out is one file and there are several"),
    (dict(extra=["--num_frames", "-3"]), "num_frames is -3"),
    (dict(extra=["--num_inference_steps", "0"]), "num_inference_steps is 0"),
    (dict(extra=["--dualparal_context_latents", "9"]), "context_latents is 9 and block_latents is 8.*0 to 8"),
    (dict(extra=["--height", "40"]), "height is 40: the model needs a multiple of 16, for example 32"),
    (dict(extra=["--width", "24"]), "width is 24.*multiple of 16"),
    (dict(degree=9), "--dualparal_degree is 9: every stage needs a layer and tiny-wan has 8, give 1 to 8"),
    (dict(extra=["--dualparal_stage_layers", "5,2"]), "stage_layers is 5,2: give 2 numbers"),
    (dict(degree=0), "--dualparal_degree is 0.*give 1 to 8"),
    (dict(degree=4), "dualparal_degree 4.*make 4 processes and 2 were started"),
    (dict(model="tiny-wam"), "'tiny-wam' is not known: give one of tiny-wan, "),
    (dict(prompt=()), "the prompt is missing: add --prompt"),
    (dict(model="Wan2.1-VACE-14B"), "Wan2.1-VACE-14B has no DualParal support: give one of .*Wan2.1-T2V"),
    (dict(degree=None), "tiny-wan runs with DualParal only: add --dualparal_degree 1"),
    (dict(degree=None, model="Wan2.1-T2V", extra=["--dualparal_block_latents", "4"]), "DualParal is off: add --dualparal"),
    (dict(extra=["--ulysses_degree", "3"]), "--ulysses_degree is 3 and the model has 4 attention heads.*give 1, 2, 4"),
    (dict(extra=["--ring_degree", "3"]), "16 tokens, which 3 ranks .* product of 1, 2, 4, 8, 16"),
    (dict(extra=["--tensor_parallel_degree", "2"]), "--tensor_parallel_degree is 2 .* raise --dualparal_degree"),
    (dict(extra=["--use_cfg_parallel", "--guidance_scale", "1"]), "--guidance_scale is 1.0.* leave it out"),
    (dict(extra=["--negative_prompt", "grey", "blurred"]), "2 negative .* are 1 prompts: give one for all, in quotes"),
    (dict(extra=["--dataset_path", "no.csv"], prompt=()), "--dataset_path no.csv cannot be read .No such file.*: give a csv file"),
    (dict(extra=["--dataset_path", __file__], prompt=()), "--dataset_path .* has no column 'prompt'"),
    (dict(extra=["--data_parallel_degree", "2"]), "there are 1 prompts: every replica needs one"),
    (dict(extra=["--attention_backend", "FLEX_BLOCK_ATTN"]), "FLEX_BLOCK_ATTN picks keys by their place"),
    (dict(extra=["--enable_group_cpu_offload"]), "--enable_group_cpu_offload is given and every layer computes in every wave.*leave it out"),
    (dict(extra=["--use_fp8_gemms"]), "--use_fp8_gemms is given and xDiT.s newer flag says it: give --gemm_quantization fp8"),
    (dict(extra=["--ulysses_degree", "0"]), "--ulysses_degree is 0: give a whole number from 1"),
    (dict(extra=["--dualparal_strategy", "chunks", "--num_frames", "33", "--dualparal_chunk_overlap_latents", "2"]), "chunk_overlap_latents is 2 and the video's 9 latent frames are one chunk: leave it out"),
    (dict(extra=["--data_parallel_degree", "-2"]), "--data_parallel_degree is -2: give a whole number from 1"),
])
def test_refuses(tmp_path, extra, message):
    arguments = dict(extra)
    with pytest.raises(ValueError, match=message):
        check_command(command(tmp_path, *arguments.pop("extra", []), **arguments), 2)


@pytest.mark.parametrize("size, overlap, words", [
    ((16, 17), None, "--vae_tile_size_height 16, --vae_tile_size_width 17: the VAE cannot cut its latents so .*: give multiples of"),
    (None, (999, 999), "--vae_tile_overlap_height 999, --vae_tile_overlap_width 999: the VAE cannot"),
    ((16, 16), (16, 16), "--vae_tile_overlap_height 16"), ((16, 16), None, None), ((16, 16), (8, 8), None),
])
def test_tiles_are_judged_before_the_vae_is_loaded(tmp_path, size, overlap, words):
    flags = ["--enable_tiling"]
    for kind, values in (("size", size), ("overlap", overlap)):
        for side, value in zip(("height", "width"), values or ()):
            flags += [f"--vae_tile_{kind}_{side}", str(value)]
    if words is None:
        check_command(command(tmp_path, *flags), 2)
    else:
        with pytest.raises(ValueError, match=words):
            check_command(command(tmp_path, *flags), 2)


@pytest.mark.parametrize("name", [
    "model_path", "output_directory", "dualparal_trace", "dualparal_checkpoint", "dualparal_latents_out", "attention_backend", "dataset_path",
])
def test_an_unset_variable_is_no_value(tmp_path, name):
    with pytest.raises(ValueError, match=f"^--{name} is '': give a value, or leave it out"):
        check_command(command(tmp_path, f"--{name}", ""), 2)


def writing(folder):
    """Flags for all that a run writes, in new folders."""
    return ["--output_directory", str(folder / "a" / "b"), "--dualparal_checkpoint", str(folder / "c" / "d"),
            "--dualparal_trace", str(folder / "e" / "t.json"), "--dualparal_latents_out", str(folder / "f" / "latents")]


@pytest.mark.parametrize("flag, name", [
    ("--output_directory", "--output_directory"), ("--dualparal_checkpoint", "--dualparal_checkpoint"),
    ("--dualparal_trace", "the folder of --dualparal_trace"), ("--dualparal_latents_out", "the folder of --dualparal_latents_out"),
])
def test_refuses_a_folder_that_cannot_be_written(tmp_path, monkeypatch, flag, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{name} .* cannot be written .Not a directory.: give a folder that can"):
        check_command(command(tmp_path, flag, str(tmp_path / "file" / "a" / "b")), 2)
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path))
    (tmp_path / "closed").mkdir()
    with pytest.raises(ValueError, match=f"{name} .* cannot be written .Permission denied.: give a folder that can"):
        check_command(command(tmp_path, flag, str(tmp_path / "closed" / "a" / "b")), 2)


@pytest.mark.parametrize("extra", [
    ["--seed", "x"], ["--dualparal_stagger", "99"], ["--ulysses_degree", "2"], ["--use_fp8_gemms"], ["--dualparal_quality", "-1"],
])
def test_a_refused_command_makes_nothing(tmp_path, extra):
    with pytest.raises(ValueError):
        check_command(command(tmp_path, *writing(tmp_path), *extra), 2)
    with pytest.raises(ValueError, match="cannot be written"):
        check_command(command(tmp_path, *writing(tmp_path), "--dualparal_latents_out", f"{__file__}/x/y"), 2)
    assert not list(tmp_path.iterdir())


def test_folders_are_made_when_all_checks_have_passed(tmp_path):
    args = command(tmp_path, *writing(tmp_path))
    check_command(args, 2)
    assert not list(tmp_path.iterdir())
    make_folders(args)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/b", "c", "c/d", "e", "f"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--output_directory .* cannot be written"):
        make_folders(command(tmp_path / "file"))


def test_refuses_to_compile_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C.. compiler on the CPU and there is no no-such-compiler"):
        check_command(command(tmp_path, "--use_torch_compile"), 2)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    flags = ["--dualparal_checkpoint", str(tmp_path / "saved"), "--num_inference_steps", "8"]
    spec = RunSpec(
        **DualParal().identity(DualParalConfig()), model="another name of it", prompt="a red circle", negative_prompt="", seed=42,
        num_frames=81, quality=18, compiled=False, height=32, width=32, num_inference_steps=8, guidance_scale=1.5, fps=16,
        precision="float32", vae_precision="float32", attention_backend="SDPA",
    )
    Checkpoint(tmp_path / "saved" / "0", spec).save({}, 1, wait=True)
    check_command(command(tmp_path, *flags), 2)
    check_command(command(tmp_path, *flags, "--attention_backend", "sdpa_flash"), 2)  # on the CPU the same kernel
    for flag, value, difference in (
        ("--seed", "3", "seed was 42 and is 3"), ("--negative_prompt", "grey", "negative_prompt was '' and is 'grey'"),
        ("--num_frames", "85", "num_frames was 81 and is 85"), ("--dualparal_stagger", "2", "stagger was 1 and is 2"),
        ("--dualparal_quality", "30", "quality was 18 and is 30"), ("--attention_backend", "SDPA_MATH", "attention_backend was 'SDPA' and is"),
    ):
        with pytest.raises(ValueError, match=difference):
            check_command(command(tmp_path, *flags, flag, value), 2)


@pytest.mark.parametrize("name", DUALPARAL_MODELS)
def test_every_model_can_be_asked_for(tmp_path, name, monkeypatch):
    monkeypatch.setattr("xdualparal.xdit.checks.check_reachable", lambda family, name: None)  # as if the hub were there
    extra = []
    if DUALPARAL_MODELS[name].needs_distilled:
        for part in ("", "_2"):
            save_file({"a": torch.zeros(1)}, tmp_path / f"expert{part}.safetensors")
            extra.append(f"--distilled_transformer{part}_path={tmp_path}/expert{part}.safetensors")
    if DUALPARAL_MODELS[name].family.facts.conditioned:
        Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
        extra += [f"--input_images={tmp_path}/a.png", *([f"--dualparal_last_image={tmp_path}/a.png"] if DUALPARAL_MODELS[name].needs_last_image else [])]
    assert issubclass(check_command(command(tmp_path, *extra, model=name), 2), DUALPARAL_MODELS[name])


def test_a_model_that_is_neither_cached_nor_to_be_downloaded_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="Wan-AI/Wan2.1-T2V-1.3B-Diffusers is not in the hub's cache .*--model_path FOLDER"):
        check_command(command(tmp_path, model="Wan2.1-T2V-1.3B"), 2)


def test_a_folder_as_model_is_told_its_flag(tmp_path):
    with pytest.raises(ValueError, match="--model .* is a folder: give --model Wan2.1-T2V-1.3B --model_path "):
        check_command(command(tmp_path, model=str(tmp_path)), 2)


def test_a_video_in_one_segment_is_another_file():
    """Its key frames are others: said before the model is loaded as the run itself says it."""
    from xdualparal.xdit.flags import command_settings, dualparal_config
    from xdualparal.xdit.resume import known_values

    flags = ["--model", "tiny-wan", "--prompt", "a", "--dualparal_degree", "2"]
    for more, said in (([], None), (["--use_parallel_vae"], True)):
        args = vars(make_parser().parse_args([*flags, *more]))
        [values] = known_values(args, TinyWanModel, dualparal_config(args), command_settings(args))
        assert values.get("one_segment") is said
