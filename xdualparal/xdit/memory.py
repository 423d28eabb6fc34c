"""The memory that a command needs, by arithmetic.

Knows: the flags, and the configurations of the models. Must not know: how memory follows from numbers (plan/memory.py), or how
much there is (memory_check.py).
"""

import json
from functools import lru_cache
from pathlib import Path

import torch

from ..models.numbers import UMT5_XXL, decode_operations, model_numbers
from ..models.weights import read_configs
from ..plan.memory import fullest, memory_of_ranks
from ..plan.memory_numbers import ModelNumbers, RunNumbers
from ..plan.schedule import AT_END
from ..plan.waiting import FLOAT8, HOST
from ..strategies.base import Lanes
from ..strategies.dualparal_settings import CACHED, TRUE
from ..strategies.table import lane_layers, strategy_of, with_image
from ..text_settings import DEVICE
from .continuing import continued_latents
from .flags import command_settings, dualparal_config, value_of
from .quantization import quantization_of

_FLOAT8_SHARE = 0.5  # of bfloat16; all but a thousandth of a layer is in matrices
_TILE = 256  # pixels, and a quarter of that is overlap: diffusers 0.42.1, AutoencoderKLWan


def predicted(args, model, on_host=None):
    """A plan.memory.RankMemory for each rank of a replica. ``args``: a dict of flags that were checked. ``model``: their class. ``on_host``: whether
    a CPU computes, by default as here."""
    return memory_of_ranks(sizes_of(args, model), run_numbers(args, model, on_host))


def sizes_of(args, model):
    """The ModelNumbers of a command."""
    precision = args["dualparal_vae_precision"]
    return _model_numbers(model, model.family.facts.vae_dtype if precision is None else getattr(torch, precision))


@lru_cache(maxsize=16)
def decode_operations_of(model):
    """Of the model's VAE, see models.numbers."""
    return decode_operations(model.family, configs_of(model)[1])


@lru_cache(maxsize=16)
def _model_numbers(model, vae_dtype):
    return ModelNumbers(**model_numbers(model.family, *configs_of(model), model.dtype, vae_dtype))


def configs_of(model):
    """Of the transformer, the VAE and the text encoder."""
    folder = Path(model.settings.model_name)
    if not folder.is_dir():
        return dict(model.transformer_config, num_layers=model.num_layers, num_attention_heads=model.num_heads), model.vae_config, UMT5_XXL
    _, transformer, vae = read_configs(folder)
    return transformer, vae, json.loads((folder / "text_encoder" / "config.json").read_text())


def run_numbers(args, model, on_host=None):
    """The RunNumbers of a command; see ``predicted``."""
    config, steps = dualparal_config(args, model), value_of(args, model, "num_inference_steps")
    layers = lane_layers(config, model.num_layers, args["dualparal_degree"])
    plan = plan_of(args, model, Lanes(args["dualparal_degree"], config.decode, split_guidance=False))
    on_host = not torch.accelerator.is_available() if on_host is None else on_host
    size = _tile(args) if args["enable_tiling"] else None
    return RunNumbers(
        height=value_of(args, model, "height"), width=value_of(args, model, "width"),
        branches=2 if value_of(args, model, "guidance_scale") > 1 else 1, layout=plan.layout,
        steps=steps, stage_layers=tuple(map(len, layers)), stagger=plan.stagger,
        videos=config.videos_in_flight, text_tokens=(args["max_sequence_length"] or 512) + _image_tokens(model), ulysses=args["ulysses_degree"] or 1,
        ring=args["ring_degree"] or 1, guidance_ranks=2 if args["use_cfg_parallel"] else 1,
        decode=AT_END if args["use_parallel_vae"] else config.decode, parallel_vae=bool(args["use_parallel_vae"]),
        tile=size and size[0], tile_stride=size and size[1], encoder_on_device=on_host or config.text_encoder == DEVICE,
        expert_offload=config.expert_offload, on_host=on_host,
        kept_bytes=_kept_bytes(model, config) if config.context == CACHED else 0, anchor_latents=config.anchor_latents,
        anchor_bytes=_kept_bytes(model, config) if config.anchor_latents else 0, kept_on_host=config.context_store == HOST and not on_host,
        layer_share=_FLOAT8_SHARE if quantization_of(args) else 1.0, frame_timesteps=config.context_timestep == TRUE or bool(args["input_images"]) and model.family.facts.clean_frames,
    )


def plan_of(args, model, lanes, expert_starts=(0,)):
    """The PipelinePlan of one video of a command on ``lanes`` (strategies.base.Lanes)."""
    num_frames = value_of(args, model, "num_frames")
    config = dualparal_config(args, model)
    continued = continued_latents(config, command_settings(args))
    latent_frames = model.family.facts.latent_frames(num_frames, continued) if num_frames else None
    plan = strategy_of(config).plan(config, latent_frames, value_of(args, model, "num_inference_steps"), lanes, expert_starts)
    if continued:
        return plan.continuing(continued)
    is_of_image = args["input_images"] or model.family.facts.conditioned
    return with_image(config, plan, model.family.facts) if is_of_image else plan


def _image_tokens(model):
    """That cross-attention sees before the text: of CLIP's ViT-H/14 at 224 x 224 pixels, which Wan2.1-I2V has, or of two images."""
    if not model.family.facts.sees_images:
        return 0
    return configs_of(model)[0].get("pos_embed_seq_len") or 257


def _kept_bytes(model, config):
    """Of a number of K/V that wait for later waves."""
    return 1 if config.context_dtype == FLOAT8 else model.dtype.itemsize


def _tile(args):
    """((height, width) of the VAE's tiles, how far they are apart), in pixels."""
    size = tuple(args[f"vae_tile_size_{side}"] or _TILE for side in ("height", "width"))
    overlap = (args[f"vae_tile_overlap_{side}"] for side in ("height", "width"))
    return size, tuple(length - (length // 4 if over is None else over) for length, over in zip(size, overlap))


def is_predicted(args):
    """Whether ``predicted`` knows the command's strategy. ``args``: flags that were checked."""
    return strategy_of(dualparal_config(args)).predicts_memory


def memory_line(args, model):
    """A line on what the fullest rank will need, or that it is not known; "" without DualParal."""
    if args["dualparal_degree"] is None:
        return ""
    if not is_predicted(args):
        return f"what memory {args['dualparal_strategy']} needs is not computed beforehand"
    rank, memory = fullest(predicted(args, model))
    return f"by arithmetic rank {rank} needs the most memory: {in_words(memory)}"


def memory_report(args, model, before):
    """For each rank of a replica what a report says beside its measured peak: the bytes that it had ``before`` it loaded anything,
    and by arithmetic those on top of that, in all and by part. ``before``: of all ranks, None off the output rank. Nothing where it is not known."""
    return before and is_predicted(args) and [
        dict(before_bytes=had, predicted_bytes=memory.total, phases=memory.phases(), parts=memory.parts())
        for had, memory in zip(before, predicted(args, model))
    ]


def in_words(memory):
    """The total of a RankMemory and the parts of its largest phase, largest first."""
    phases, total = memory.phases(), memory.total
    phase = max(phases, key=phases.get)
    parts = sorted(((size, name) for name, size in memory.parts().items() if name in _PHASES[phase]), reverse=True)
    shown = [f"{name.replace('_', ' ')} {readable(size)}" for size, name in parts if size > 0.01 * total]
    return f"{readable(total)} ({phase}: {', '.join(shown)})"


_PHASES = {  # the parts that are there in each phase
    "encoding": ("text_encoder",), "loading": ("weights", "loading", "vae"),
    "passes": ("weights", "vae", "text", "activations", "context", "messages", "latents", "vae_memory", "decoding"),
}


def readable(size):
    """A number of bytes in GB, or MB, as text."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
