"""Refuses a command that cannot work, before any weight is loaded.

Knows: what the flags mean together. Must not know: processes, or how a run is made. The checks make no file and no
folder: folders.make_folders does, when all have passed.
"""

import os
import shutil

import torch
from xfuser import xFuserArgs

from ..compat.backends import check_backend, check_log_sum_exp
from ..call_checks import check_last_image, check_text_length
from ..config import DualParalConfig
from ..limits import RANDOM_SEED
from ..request import MAX_SEQUENCE_LENGTH, check_size
from ..models.checkpoint_files import Weights
from ..models.wan import TEXT_LENGTH
from ..models.weights import check_reachable
from ..output.files import is_printable
from ..plan.schedule import NO_DECODE
from ..strategies.base import Lanes
from ..strategies.table import check_refused, lane_layers, strategy_of
from ..engine.sharding import check_even_split, check_heads
from .continuing import check_continued
from .degrees import DEGREES, num_processes
from .experts import check_guidance, check_weights, files_of_experts
from .flags import command_settings, dualparal_config, value_of, xdit_args
from .folders import check_folders
from .loras import check_loras
from .images import with_image_size
from .memory import plan_of
from .numbers import check_degrees, check_numbers
from .outputs import check_names
from .prompts import check_prompts, prompts_of
from .quantization import check_machine, check_quantization
from .registry import at_path, model_class
from .resume import check_checkpoint
from .sampling import check_sampling
from .settings import CommandSettings
from .support import check_effect, check_support
from .tiles import check_tiles

_TEXTS = ("prompt", "negative_prompt")  # from Python a str; prompts.py judges it


def check_command(args, world_size):
    """The model class for ``args``, a dict of parsed flags, to run on ``world_size`` processes.

    Raises ValueError, with what was given, what is allowed and what to do, for a command that cannot work.
    """
    if args["dualparal_degree"] is not None:
        check_texts(args)
    model = model_class(args["model"], args["dualparal_degree"])
    if args["dualparal_degree"] is not None:
        check_weights(args, model)
    if args["model_path"] is not None and args["dualparal_degree"] is not None:
        model = at_path(args["model"], model, args["model_path"], files_of_experts(args))
    if args["dualparal_degree"] is not None:
        model = with_image_size(args, model)
    if args["prompt"] in (None, []) and not args["dataset_path"]:
        raise ValueError('the prompt is missing: add --prompt "what the video shows"')
    check_degrees(args)
    if args["dualparal_degree"] is not None:
        _check_dualparal(args, model)
        _check_machine(args)
    elif dualparal_config(args) != DualParalConfig() or command_settings(args) != CommandSettings():
        raise ValueError("a --dualparal_ flag is given and DualParal is off: add --dualparal_degree 1 (or more)")
    _check_world(args, world_size)
    model(xFuserArgs.from_runner_args(xdit_args(args)))  # xDiT's own checks of what the model supports
    check_folders(args)
    if args["dualparal_degree"] is not None:
        check_loras(model, command_settings(args), Weights(model.settings.model_name, files_of_experts(args)))
        check_continued(args, model, dualparal_config(args, model), command_settings(args))
        check_names(args, model, dualparal_config(args, model), command_settings(args))
    if args["dualparal_degree"] is not None and args["dualparal_checkpoint"]:
        check_checkpoint(args, model, dualparal_config(args, model), command_settings(args))
    if args["dualparal_degree"] is not None and not os.path.isdir(model.settings.model_name):
        check_reachable(model.family, model.settings.model_name)
    return model


def check_degrees_together(args, model):
    """What ``check_command`` checks of a command with DualParal that needs no file, process or device, for a run that may be elsewhere. Raises
    ValueError."""
    check_degrees(args)
    _check_dualparal(args, model)


def _check_dualparal(args, model):
    config = dualparal_config(args, model)
    command_settings(args)
    check_support(args)
    options = dict(ring_degree=(args["ring_degree"] or 1) > 1, use_torch_compile=args["use_torch_compile"])
    check_refused(config, {name: args[name] for name, is_given in options.items() if is_given})
    check_numbers(args, model)
    check_guidance(args, model)
    check_quantization(args)
    check_tiles(args, model)
    _check_stages(args, model, config)
    _check_video(args, model)
    check_sampling(args, model)
    check_prompts(args)
    check_effect(args, config, value_of(args, model, "guidance_scale"), len(model.family.facts.experts))
    if strategy_of(config).merges_attention and args["attention_backend"]:
        check_log_sum_exp(args["attention_backend"])
    _check_plan(args, model)
    _check_images(args, model)
    _check_endless(args, config)
    _check_videos_in_flight(args, config)
    if config.latents_out and len(prompts_of(args)) > 1:
        raise ValueError("--dualparal_latents_out is one file and there are several prompts: give one prompt")
    if config.checkpoint and args["seed"] == RANDOM_SEED:
        raise ValueError("--seed -1 draws a seed and --dualparal_checkpoint resumes with the same one: give a seed of 0 or more")
    if config.checkpoint and args["use_parallel_vae"]:
        raise ValueError(
            "--use_parallel_vae decodes at the end and --dualparal_checkpoint saves what was decoded: leave one out"
        )


def _check_images(args, model):
    facts = model.family.facts
    if args["input_images"] and command_settings(args).continue_from and not facts.sees_images:
        raise ValueError("--input_images and --dualparal_continue_from are given and both are the video's first frames: leave one out")
    if args["dualparal_last_image"]:
        check_last_image(value_of(args, model, "num_frames"), facts.frames_per_latent, bool(args["dualparal_continue_from"]))
    if facts.sees_images:
        check_text_length(args["max_sequence_length"] or MAX_SEQUENCE_LENGTH, None, TEXT_LENGTH)


def _check_machine(args):
    check_machine(args)
    if args["use_torch_compile"]:
        _check_compiler()
    for name in ("attention_backend", "cross_attention_backend"):
        check_backend(args[name], on_cpu=not torch.accelerator.is_available())


def _check_plan(args, model):
    """Raises ValueError for settings of the strategy that do not suit the numbers of steps and frames."""
    experts = (0,) * len(model.family.facts.experts)  # at which steps they begin, a scheduler says
    layout = plan_of(args, model, Lanes(args["dualparal_degree"], NO_DECODE, split_guidance=False), experts).layout
    if layout.overlap_latents and layout.latent_frames is not None and layout.num_blocks == 1:
        raise ValueError(
            f"--dualparal_chunk_overlap_latents is {layout.overlap_latents} and the video's {layout.latent_frames} latent frames are one chunk: "
            "leave it out, or give a lower --dualparal_chunk_latents"
        )


def check_texts(args):
    """Raises ValueError for texts that were not meant. An empty text, of a shell's variable that is not set, would be taken for a flag that is not given; a shell leaves the ~
    in --flag=~/folder; a line break or bytes that are no text cannot be printed in a line."""
    given = [(name, value) for name, values in args.items() for value in (values if isinstance(values, list) else [values])]
    for name, value in given:
        if not isinstance(value, str) or name in _TEXTS:
            continue
        if not value.strip():
            raise ValueError(f"--{name} is {value!r}: give a value, or leave it out")
        if value.split("/")[0] == "~":
            raise ValueError(f"--{name} is {value}, and the shell has not put your home folder for the ~: write --{name} ~/..., with a space")
        if not is_printable(value):
            raise ValueError(f"--{name} is {value!a}, which has a control character or is no UTF-8 text: give another name")


def _check_endless(args, config):
    if args["num_frames"] != 0:
        return
    prompts, in_flight = len(prompts_of(args)), config.videos_in_flight * args["data_parallel_degree"]
    if prompts > max(1, in_flight):
        raise ValueError(
            f"--num_frames is 0, for a video without end, and there are {prompts} prompts: give one, or --dualparal_videos_in_flight "
            f"{-(-prompts // args['data_parallel_degree'])}"
        )
    if args["num_iterations"] != 1 or args["warmup_calls"] or args["profile"]:
        raise ValueError(
            "--num_frames is 0, for a video without end, and it would be made several times: leave --num_iterations, "
            "--warmup_calls and --profile out"
        )
    if config.decode == "end" or args["use_parallel_vae"]:
        raise ValueError(
            "--num_frames is 0, for a video without end, and it would be decoded at the end: give --dualparal_decode "
            "thread or inline, without --use_parallel_vae"
        )


def _check_videos_in_flight(args, config):
    """Raises ValueError where fewer videos than that would ever be in flight."""
    videos, batch, replicas = config.videos_in_flight, args["batch_size"], args["data_parallel_degree"]
    most = -(-len(prompts_of(args)) // replicas)
    if videos > most:
        raise ValueError(f"--dualparal_videos_in_flight is {videos} and a replica has at most {most} prompts: give {most} or less")
    if batch is not None and batch % videos:
        raise ValueError(
            f"--batch_size is {batch} and --dualparal_videos_in_flight is {videos}, of one batch: give a multiple of {videos}, or leave "
            "--batch_size out"
        )
    if config.trace and len(prompts_of(args)) > videos * replicas:
        raise ValueError(
            f"--dualparal_trace is one file, of one run, and there are {len(prompts_of(args))} prompts: give fewer, or "
            f"--dualparal_videos_in_flight {most}"
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
    if degree < 1 or (strategy_of(config).splits_layers and degree > model.num_layers):
        raise ValueError(
            f"--dualparal_degree is {degree}: every stage needs a layer and {args['model']} has "
            f"{model.num_layers}, give 1 to {model.num_layers}"
        )
    lane_layers(config, model.num_layers, degree)


def _check_video(args, model):
    height, width, guidance_scale = (value_of(args, model, name) for name in ("height", "width", "guidance_scale"))
    check_size(height, width, (model.pixel_multiple(),) * 2)
    check_heads(model.num_heads, args["ulysses_degree"])
    frame_tokens = (height // model.pixels_per_token) * (width // model.pixels_per_token)
    check_even_split(frame_tokens, args["ulysses_degree"] * args["ring_degree"])
    if args["use_cfg_parallel"] and guidance_scale <= 1:
        raise ValueError(
            f"--guidance_scale is {guidance_scale}, so there is one branch, and --use_cfg_parallel computes two: leave "
            "it out, or give a guidance scale above 1"
        )


def _check_world(args, world_size):
    wanted = num_processes(args)
    if wanted != world_size:
        given = ", ".join(f"{name} {args[name]}" for name in DEGREES if (args[name] or 1) > 1) or "no degree above 1"
        raise ValueError(
            f"the degrees ({given}) make {wanted} processes and {world_size} were started: change a degree, or "
            f"start {wanted}"
        )
