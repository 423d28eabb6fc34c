"""Refuses a command that cannot work, before any weight is loaded.

Knows: what the flags mean together. Must not know: processes, or how a run is made. The checks make no file and no
folder: ``make_folders`` does, when all have passed.
"""

import difflib
import errno
import os
import shutil
import tempfile
from pathlib import Path

import torch
from xfuser import xFuserArgs
from xfuser.core.utils.runner_utils import load_dataset_prompts
from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

from ..compat.backends import check_backend
from ..output.checkpoint import check_same, is_finished, read_manifest
from ..config import DualParalConfig
from ..request import check_at_least_one, check_size
from ..run_spec import RunSpec, upper_name
from ..strategies.dualparal import DualParal, DualParalPlan
from ..engine.sharding import check_even_split, check_heads
from ..plan.partition import layer_ranges
from .degrees import DEGREES, num_processes
from .flags import command_settings, dualparal_config, xdit_args
from .models import as_list, at_path
from .registry import DUALPARAL_MODELS
from .settings import CommandSettings

# diffusers' WanPipeline.check_inputs asks for multiples of 16 whatever the VAE and the patch are.
PIXEL_MULTIPLE = (16, 16)
# DualParal splits the weights over its stages already; these split them in other ways.
_OFFLOADS = ("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_cpu_offload")
_INSTEAD = ("tensor_parallel_degree", "pipefusion_parallel_degree", "fully_shard_degree", "text_encoder_tp_degree")


def check_command(args, world_size):
    """The model class for ``args``, a dict of parsed flags, to run on ``world_size`` processes.

    Raises ValueError, with what was given, what is allowed and what to do, for a command that cannot work.
    """
    model = _check_model(args["model"], args["dualparal_degree"])
    if args["model_path"] and args["dualparal_degree"] is not None:
        model = at_path(model, args["model_path"])
    if not args["prompt"] and not args["dataset_path"]:
        raise ValueError('the prompt is missing: add --prompt "what the video shows"')
    _check_degrees(args)
    if args["dualparal_degree"] is not None:
        _check_dualparal(args, model)
    elif dualparal_config(args) != DualParalConfig() or command_settings(args) != CommandSettings():
        raise ValueError("a --dualparal_ flag is given and DualParal is off: add --dualparal_degree 1 (or more)")
    _check_world(args, world_size)
    model(xFuserArgs.from_runner_args(xdit_args(args)))  # xDiT's own checks of what the model supports
    for folder, name in _folders(args):
        _check_can_be_made(folder, name)
    if args["dualparal_degree"] is not None and args["dualparal_checkpoint"]:
        _check_checkpoint(args, model, dualparal_config(args))
    return model


def make_folders(args):
    """Makes the folders that a run writes to. Raises ValueError for one that cannot be written after all."""
    for folder, name in _folders(args):
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _cannot_be_written(folder, name, error.strerror) from None


def _check_model(name, degree):
    known = {**MODEL_REGISTRY, **DUALPARAL_MODELS}
    if name not in known:
        raise ValueError(f"model {name!r} is not known: give one of {', '.join(_nearest_first(name, known))}")
    if degree is None and name not in MODEL_REGISTRY:
        raise ValueError(f"model {name} runs with DualParal only: add --dualparal_degree 1 (or more)")
    if degree is not None and name not in DUALPARAL_MODELS:
        supported = ", ".join(_nearest_first(name, DUALPARAL_MODELS))
        raise ValueError(
            f"model {name} has no DualParal support: give one of {supported}, or leave --dualparal_degree out"
        )
    return known[name] if degree is None else DUALPARAL_MODELS[name]


def _nearest_first(name, known):
    def likeness(other):
        return difflib.SequenceMatcher(None, str(name).lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)


def _check_dualparal(args, model):
    config = dualparal_config(args)
    command_settings(args)
    _check_stages(args, model, config)
    _check_video(args, model)
    _check_prompts(args)
    if args["use_torch_compile"]:
        _check_compiler()
    for name in ("attention_backend", "cross_attention_backend"):
        check_backend(args[name], on_cpu=not torch.accelerator.is_available())
    DualParalPlan(1, _value(args, model, "num_inference_steps"), args["dualparal_degree"], config.stagger)  # checks the stagger
    _check_endless(args, config)
    if config.latents_out and len(_prompts(args)) > 1:
        raise ValueError("--dualparal_latents_out is one file and there are several prompts: give one prompt")
    if config.checkpoint and args["use_parallel_vae"]:
        raise ValueError(
            "--use_parallel_vae decodes at the end and --dualparal_checkpoint saves what was decoded: leave one out"
        )


def _check_endless(args, config):
    if args["num_frames"] != 0:
        return
    if len(_prompts(args)) > 1:
        raise ValueError("--num_frames is 0, for a video without end, and there are several prompts: give one")
    if config.decode == "end" or args["use_parallel_vae"]:
        raise ValueError(
            "--num_frames is 0, for a video without end, and it would be decoded at the end: give --dualparal_decode "
            "thread or inline, without --use_parallel_vae"
        )


def _check_checkpoint(args, model, config):
    """The settings of a checkpoint that is there already, as far as they can be known before the model is loaded."""
    negative = as_list(_value(args, model, "negative_prompt"))
    for number, prompt in enumerate(_prompts(args)):
        folder = Path(config.checkpoint, str(number))
        manifest = read_manifest(folder)
        if manifest is None or is_finished(manifest):
            continue
        negative_prompt = negative[number if len(negative) > 1 else 0] if negative else ""
        check_same(folder, manifest, _known_spec(args, model, config, prompt, negative_prompt))


def _known_spec(args, model, config, prompt, negative_prompt):
    """The run's RunSpec as far as it is known before the model is loaded."""
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "seed")
    return RunSpec(
        **{name: _value(args, model, name) for name in names}, **DualParal().identity(config),
        prompt=prompt, negative_prompt=negative_prompt, model=args["model"], precision=str(model.dtype).removeprefix("torch."),
        attention_backend=upper_name(args["attention_backend"]),
        cross_attention_backend=upper_name(args["cross_attention_backend"]), compiled=args["use_torch_compile"],
        quality=command_settings(args).quality, fps=model.settings.fps,
    )


def _check_compiler():
    compiler = os.environ.get("CXX", "g++")  # torch._inductor.config.cpp.cxx
    if not torch.accelerator.is_available() and shutil.which(compiler) is None:
        raise ValueError(
            f"--use_torch_compile needs a C++ compiler on the CPU and there is no {compiler}: install it, set CXX to "
            "another one, or leave the flag out"
        )


def _check_stages(args, model, config):
    degree = args["dualparal_degree"]
    if not 1 <= degree <= model.num_layers:
        raise ValueError(
            f"--dualparal_degree is {degree}: every stage needs a layer and {args['model']} has "
            f"{model.num_layers}, give 1 to {model.num_layers}"
        )
    layer_ranges(model.num_layers, config, degree)
    for name in _OFFLOADS:
        if args[name]:
            raise ValueError(
                f"--{name} is given and DualParal keeps each stage's weights on its device: leave it out, or raise "
                "--dualparal_degree"
            )
    for name in _INSTEAD:
        if (args[name] or 1) > 1:
            raise ValueError(
                f"--{name} is {args[name]} and DualParal splits the weights over its stages already: leave it out, or "
                "raise --dualparal_degree"
            )


def _check_video(args, model):
    height, width, guidance_scale = (_value(args, model, name) for name in ("height", "width", "guidance_scale"))
    check_size(height, width, PIXEL_MULTIPLE)
    check_heads(model.num_heads, args["ulysses_degree"])
    frame_tokens = (height // model.pixels_per_token) * (width // model.pixels_per_token)
    check_even_split(frame_tokens, args["ulysses_degree"] * args["ring_degree"])
    if args["use_cfg_parallel"] and guidance_scale <= 1:
        raise ValueError(
            f"--guidance_scale is {guidance_scale}, so there is one branch, and --use_cfg_parallel computes two: leave "
            "it out, or give a guidance scale above 1"
        )
    check_at_least_one("--num_inference_steps", _value(args, model, "num_inference_steps"))
    if args["num_frames"] != 0:
        check_at_least_one("--num_frames", _value(args, model, "num_frames"))


def _value(args, model, name):
    """What ``--name`` gives, or the model's default."""
    return args[name] if args[name] is not None else getattr(model.default_input_values, name)


def _check_prompts(args):
    prompts, negative = len(_prompts(args)), len(as_list(args["negative_prompt"]))
    replicas = args["data_parallel_degree"]
    if negative not in (0, 1, prompts):
        raise ValueError(
            f"{negative} negative prompts are given and there are {prompts} prompts: give one for all, in quotes, or "
            "one for each"
        )
    if prompts < replicas:
        raise ValueError(
            f"--data_parallel_degree is {replicas} and there are {prompts} prompts: every replica needs one, give "
            f"{replicas} prompts or a degree of {prompts}"
        )


def _prompts(args):
    path = args["dataset_path"]
    if not path:
        return as_list(args["prompt"])
    try:
        return load_dataset_prompts(path)
    except OSError as error:
        raise ValueError(f"--dataset_path {path} cannot be read ({error.strerror}): give a csv file") from None
    except KeyError:
        raise ValueError(f"--dataset_path {path} has no column 'prompt': name the prompts' column so") from None


def _check_world(args, world_size):
    wanted = num_processes(args)
    if wanted != world_size:
        given = ", ".join(f"{name} {args[name]}" for name in DEGREES if (args[name] or 1) > 1) or "no degree above 1"
        raise ValueError(
            f"the degrees ({given}) make {wanted} processes and {world_size} were started: change a degree, or "
            f"start {wanted}"
        )


def _check_degrees(args):
    for name in DEGREES[1:]:  # the first one has a limit above, too: _check_stages
        if args[name] is not None and args[name] < 1:
            raise ValueError(f"--{name} is {args[name]}: give 1 or more")


def _folders(args):
    """(folder, how a message names it) of all folders that the command writes to."""
    yield Path(args["output_directory"]), "--output_directory"
    if args["dualparal_checkpoint"]:
        yield Path(args["dualparal_checkpoint"]), "--dualparal_checkpoint"
    for name in ("dualparal_trace", "dualparal_latents_out"):
        if args[name]:
            yield Path(args[name]).parent, f"the folder of --{name}"


def _check_can_be_made(folder, name):
    """Judges by the nearest folder that exists."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise _cannot_be_written(folder, name, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _cannot_be_written(folder, name, os.strerror(errno.EACCES))


def _cannot_be_written(folder, name, why):
    return ValueError(f"{name} {folder} cannot be written ({why}): give a folder that can")
