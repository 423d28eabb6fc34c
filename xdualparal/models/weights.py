"""Loads only what a rank needs.

Knows: a diffusers checkpoint's files. Must not know: what is done with the weights.
"""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanPipeline, WanTransformer3DModel
from safetensors import safe_open

from ..models import WanFamily

_NAME = "diffusion_pytorch_model.safetensors"


def checkpoint_folder(name_or_folder):
    """The local folder of a checkpoint; one that is named by its hub id is downloaded first, if need be."""
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    return Path(DiffusionPipeline.download(name_or_folder))


def load_wan_stage(folder, index, count, layers, dtype, with_vae):
    """A WanPipeline with only what stage ``index`` of ``count`` uses: its ``layers`` (a range), the text encoder on the
    first stage and the VAE (float32, as diffusers recommends for Wan) where ``with_vae``. Other ranks know the VAE's
    configuration, without weights."""
    parts = {"transformer": load_transformer_stage(folder / "transformer", index, count, layers, dtype)}
    if index > 0:
        parts.update(text_encoder=None, tokenizer=None)
    if with_vae:
        parts["vae"] = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.float32)
    else:
        with init_empty_weights():
            parts["vae"] = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder / "vae"))
    return WanPipeline.from_pretrained(folder, dtype=dtype, **parts)


def load_transformer_stage(folder, index, count, layers, dtype):
    """A WanTransformer3DModel with the ``layers`` (a range) of stage ``index`` of ``count``; it reads no others."""
    with init_empty_weights():
        transformer = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder))
    WanFamily().keep_stage(transformer, layers, index == 0, index == count - 1)
    names = {name: _checkpoint_name(name, layers.start) for name in transformer.state_dict()}
    weights = _read(folder, names.values())
    state = {name: _cast(name, weights[stored], dtype) for name, stored in names.items()}
    transformer.load_state_dict(state, assign=True)
    return transformer.eval().requires_grad_(False)


def _checkpoint_name(name, first_layer):
    head, _, rest = name.partition(".")
    if head != "blocks":
        return name
    layer, _, rest = rest.partition(".")
    return f"blocks.{int(layer) + first_layer}.{rest}"


def _cast(name, weight, dtype):
    # The parts that diffusers keeps in float32 whatever dtype is asked for, as from_pretrained does.
    keep = set(WanTransformer3DModel._keep_in_fp32_modules).intersection(name.split("."))
    return weight.to(torch.float32 if keep else dtype)


def _read(folder, names):
    weights = {}
    for file, stored in _by_file(folder, names).items():
        with safe_open(file, framework="pt") as shard:
            weights.update((name, shard.get_tensor(name)) for name in stored)
    return weights


def _by_file(folder, names):
    index = folder / f"{_NAME}.index.json"
    if not index.exists():
        return {folder / _NAME: list(names)}
    where = json.loads(index.read_text())["weight_map"]
    files = {}
    for name in names:
        files.setdefault(folder / where[name], []).append(name)
    return files
