"""--gemm_quantization: fp8 where xDiT finds that the device can, refused by name elsewhere. There is no such device here: xDiT's
adapter, which calls torchao or AITER, is replaced by one that rounds weights to float8."""

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline
from xfuser import xFuserArgs
from xfuser.model_executor.models.runner_models.loading import fp8_backends, meta_load

from xdualparal import DualParalPipeline
from xdualparal.xdit import quantization
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import dualparal_config, make_parser, xdit_args
from xdualparal.xdit.quantization import converter
from xdualparal.xdit.resume import known_values
from xdualparal.xdit.settings import CommandSettings
from xdualparal.xdit.wan_models import Wan22T2VModel

ABLE = fp8_backends.Fp8BackendCapabilities(torchao_fp8=True)


def parsed(folder, *flags):
    """The flags of a good command, as a dict, with ``flags`` behind."""
    argv = ["--model", "tiny-wan", "--prompt", "a red circle", "--output_directory", str(folder), "--dualparal_degree", "2", *flags]
    return vars(make_parser().parse_args(argv))


@pytest.mark.parametrize("flags, words", [
    (["--gemm_quantization", "fp8"], "--gemm_quantization is fp8 and this machine cannot compute so .TorchAO FP8 requires CUDA .*: leave it out"),
    (["--gemm_quantization", "int8"], "--gemm_quantization is int8 and the stages' layers can be in fp8 only: give fp8, or leave it out"),
    (["--gemm_quantization", "low=fp4,high=fp8"], "--gemm_quantization is low=fp4,high=fp8 and the stages' layers can be in fp8 only"),
    (["--gemm_quantization", "fp7"], "fp7"),
])
def test_what_cannot_be_is_refused(tmp_path, flags, words):
    with pytest.raises(ValueError, match=words) as error:
        check_command(parsed(tmp_path, *flags), 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reason", ["cannot query", "TorchAO FP8 requires CUDA capability >= 8.9; observed 8.6", "No module named 'torchao'"])
def test_the_reason_is_xdits(tmp_path, monkeypatch, reason):
    unable = fp8_backends.Fp8BackendCapabilities(torchao_fp8_reason=reason)
    monkeypatch.setattr(quantization, "probe_fp8_backend_capabilities", lambda: unable)
    with pytest.raises(ValueError, match=reason):
        check_command(parsed(tmp_path, "--gemm_quantization", "fp8"), 2)


def test_the_vaes_precision_has_a_second_name(tmp_path):
    assert dualparal_config(parsed(tmp_path, "--vae_dtype", "bfloat16")).vae_precision == "bfloat16"
    with pytest.raises(ValueError, match="vae_precision is 'int4'"):
        dualparal_config(parsed(tmp_path, "--vae_dtype", "int4"))


def test_where_the_device_can_it_is_another_run(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "probe_fp8_backend_capabilities", lambda: ABLE)
    args = parsed(tmp_path, "--gemm_quantization", "fp8")
    model = check_command(args, 2)
    values = known_values(args, model, dualparal_config(args), CommandSettings())[0]
    assert values["precision"] == "float32, layers fp8"
    with pytest.raises(ValueError, match="--gemm_quantization is fp8 and --dualparal_expert_offload moves layers that are plain tensors"):
        check_command(dict(args, dualparal_expert_offload=True), 2)


def test_xdits_loader_has_the_adapter(tmp_path, monkeypatch):
    """What ``converter`` asks xDiT's loader for is there after its own preflight, with two experts too."""
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "1")  # xDiT's log asks for them
    monkeypatch.setattr(fp8_backends, "probe_fp8_backend_capabilities", lambda: ABLE)
    monkeypatch.setattr(meta_load, "_is_cuda", lambda: True)
    args = dict(parsed(tmp_path, "--gemm_quantization", "fp8"), model="Wan2.2-T2V")
    model = Wan22T2VModel(xFuserArgs.from_runner_args(xdit_args(args)))
    model.loader.preflight(world_size=2)
    assert isinstance(model.loader.backends.fp8, fp8_backends.TorchaoFp8BackendAdapter)
    asked = []
    monkeypatch.setattr(model.loader.backends.fp8, "convert_module", lambda module, device: asked.append((module, device)))
    converter(model.loader)("layers", "device")
    assert asked == [("layers", "device")]


def rounded(layers, device):
    """As the adapter: every linear layer's weight in float8 and back."""
    for module in layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn).to(module.weight.dtype)


CASE = Case("two experts", num_frames=57, num_steps=4, boundary_ratio=0.875, guidance_scale_2=3.0)


def latents(rank, stages, quantized):
    """(the latents, or None; the RunSpec's precision; its digests of the transformers)."""
    pipeline = DualParalPipeline(small_pipeline(CASE.scheduler, boundary_ratio=CASE.boundary_ratio), engine_config(stages), CASE.config())
    if quantized:
        pipeline.quantize("fp8", rounded)
    spec = pipeline.run_spec(**CASE.arguments())
    output = pipeline(**CASE.arguments())
    return None if output is None else output.frames.numpy(), spec.precision, (spec.transformer, spec.transformer_2)


@pytest.mark.processes
def test_the_layers_of_each_expert_are_quantized_whatever_the_stages():
    plain, one, two = (run_ranks(latents, stages, stages, quantized)[-1] for stages, quantized in ((1, False), (1, True), (2, True)))
    assert np.array_equal(one[0], two[0]) and np.abs(one[0] - plain[0]).max() > 1e-3
    assert (plain[1], one[1], two[1]) == ("float32", "float32, layers fp8", "float32, layers fp8")
    assert plain[2] == one[2] == two[2]  # of the weights as they are stored
