"""``xdit-dualparal plan --calibrate FILE``: the profile of this machine.

Knows: which model's layers are timed, and the file. Must not know: how a rate is measured (calibration/rates.py).
"""

import json
import os
import platform

import torch

from ..calibration import link_probe, rates
from ..compat.backports import complete_xfuser
from ..engine import lone_stage
from ..output.files import write_whole
from ..plan.device import DeviceProfile
from .flags import value_of
from .memory import configs_of, sizes_of
from .memory_check import available_on_host

_DECODED = (128, 128)  # pixels: the work grows as they do


def calibrate(path, args, model):
    """Writes the DeviceProfile of this process's device to ``path``, and prints it. ``args``: flags; ``model``: their class."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    complete_xfuser()
    lone_stage.start_group()
    profile = _on_cpu(args, model) if device.type == "cpu" else _on_gpu(args, model, device)
    write_whole(path, json.dumps(profile.as_json(), indent=1).encode() + b"\n")
    print("\n".join(f"{name}: {value}" for name, value in profile.as_json().items()))


def _on_cpu(args, model):
    threads, cores = torch.get_num_threads(), os.cpu_count()
    link_per_s, link_s = link_probe.gloo_link()
    return DeviceProfile(
        f"{platform.processor() or platform.machine()}, {threads} thread{'s' * (threads > 1)}", (available_on_host() or 2**33) // cores,
        **_rates(args, model, "cpu"), link_per_s=link_per_s, link_s=link_s, host_per_s=rates.copy_rate("cpu", "cpu"),
        decodes_beside=threads < cores,
        sources=(_source(args, model), f"memory: what is free over {cores} cores; link: two processes over gloo; as many processes as cores over threads"),
    )


def _on_gpu(args, model, device):
    others = torch.accelerator.device_count() > 1
    host_per_s = rates.copy_rate(device, "cpu")
    link_per_s = rates.copy_rate("cuda:0", "cuda:1") if others else host_per_s / 2
    name = torch.cuda.get_device_name(device)
    return DeviceProfile(
        name, torch.cuda.get_device_properties(device).total_memory, **_rates(args, model, str(device)), link_per_s=link_per_s,
        host_per_s=host_per_s,
        sources=(_source(args, model), "link: a copy from another GPU" if others else "link: there is one GPU; half of the host's rate, assumed"),
    )


def _rates(args, model, device):
    transformer, vae, _ = configs_of(model)
    size = tuple(value_of(args, model, side) for side in ("height", "width"))
    decode = [rates.decode_rate(model.family.classes().vae, vae, dtype, device, _DECODED) for dtype in (torch.float32, torch.bfloat16)]
    return dict(
        rates.layer_rates(model.family, sizes_of(args, model), transformer, model.dtype, device, size), decode_per_s=decode[0],
        decode_half_per_s=decode[1],
    )


def _source(args, model):
    size = "x".join(str(value_of(args, model, side)) for side in ("height", "width"))
    return f"measured by --calibrate with layers of {args['model']} in {str(model.dtype).removeprefix('torch.')} at {size}, torch {torch.__version__}"
