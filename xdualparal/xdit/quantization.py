"""Quantized layers: which of xDiT's formats a command may ask for, and who converts the layers.

Knows: xDiT's formats, and how it finds out what a device can do. Must not know: how a layer computes, or stages.
"""

from xfuser.model_executor.models.runner_models.loading.fp8_backends import probe_fp8_backend_capabilities

from ..models.identity import precision_name

FORMAT = "fp8"  # weights and activations in float8, by torchao's or AITER's kernels; xDiT's Wan models have no int8


def quantization_of(args):
    """The format of the layers that ``args``, a dict of flags, asks for, or None."""
    given = args.get("gemm_quantization")
    return None if given is None or str(given) == "none" else str(given)


def precision_of(args, dtype):
    """As a RunSpec has it, see identity.precision_name. ``dtype``: torch's, of what is not quantized."""
    return precision_name(dtype, quantization_of(args))


def check_quantization(args):
    """Raises ValueError, one line, for a format that is not supported. Makes no model."""
    name = quantization_of(args)
    if name is None:
        return
    if name != FORMAT:
        raise ValueError(f"--gemm_quantization is {name} and the stages' layers can be in {FORMAT} only: give {FORMAT}, or leave it out")
    if args["dualparal_expert_offload"]:
        raise ValueError(
            f"--gemm_quantization is {name} and --dualparal_expert_offload moves layers that are plain tensors only: leave one of them out"
        )


def check_machine(args):
    """Raises ValueError, one line, where this machine cannot compute in the format."""
    name = quantization_of(args)
    if name is None:
        return
    able = probe_fp8_backend_capabilities()
    if not (able.torchao_fp8 or able.aiter_block_scale):
        raise ValueError(
            f"--gemm_quantization is {name} and this machine cannot compute so ({' '.join(str(able.torchao_fp8_reason).split())}): leave it out"
        )


def converter(loader):
    """xDiT's own conversion for its ``loader`` of a model: a function of a ModuleList of layers and their device."""
    return lambda layers, device: loader.backends.fp8.convert_module(layers, device=device)
