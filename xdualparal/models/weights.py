"""Loads only what a rank needs.

Knows: the files of a checkpoint in diffusers' layout. Must not know: a model, which is asked of its family, or what is
done with the weights.
"""

import json
from pathlib import Path

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, snapshot_download
from safetensors import safe_open

from .finite import is_finite, not_finite, refusal
from .folder import check_folder, check_tied

_NAME = "diffusion_pytorch_model.safetensors"  # diffusers.utils.SAFETENSORS_WEIGHTS_NAME


def checkpoint_folder(name_or_folder):
    """Returns the local folder of a checkpoint; downloads one that is named by its hub id, if need be.

    Raises ValueError, one line, where it cannot be downloaded and is not in the hub's cache.
    """
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    try:
        return Path(DiffusionPipeline.download(name_or_folder))
    except Exception as error:  # which ones is up to the HTTP library of huggingface_hub
        raise _not_here(name_or_folder, error) from None


def check_reachable(family, name):
    """Checks the model with the hub id ``name`` as far as it can be known before it is downloaded.

    Raises ValueError where it is not in the hub's cache, whole, and the hub cannot be reached.
    """
    try:
        check_folder(family, snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as cached:
        try:
            HfApi().model_info(name, timeout=5)
        except Exception as error:  # which ones is up to the HTTP library of huggingface_hub
            raise _not_here(name, error if isinstance(cached, OSError) else cached) from None


def _not_here(name, error):
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return ValueError(
        f"{name} is not in the hub's cache and cannot be downloaded ({reason}): give its folder with --model_path FOLDER, or "
        "go online"
    )


def read_configs(folder):
    """Reads the dicts of model_index.json, transformer/config.json and vae/config.json in ``folder``, in this order.

    Raises OSError where one is missing, ValueError where one is no JSON.
    """
    files = ("model_index.json", "transformer/config.json", "vae/config.json")
    return [json.loads(Path(folder, file).read_text()) for file in files]


def read_scheduler(folder):
    """The scheduler of the checkpoint in ``folder``. Raises ValueError where there is none of diffusers'."""
    try:
        name = json.loads(Path(folder, "model_index.json").read_text())["scheduler"][1]
        return getattr(diffusers, name).from_pretrained(Path(folder, "scheduler"))
    except Exception as problem:  # a wrong config can raise anything
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
        raise ValueError(
            f"{folder} has no scheduler that can be read ({reason}): put scheduler/scheduler_config.json there, and its "
            "class in model_index.json, as the model's page on the hub has them"
        ) from None


def load_stage(family, folder, index, count, layers, dtype, with_vae):
    """Loads a pipeline of ``family`` with only what stage ``index`` of ``count`` uses.

    That is its ``layers`` (a range) in ``dtype``, the text encoder on the first stage, and the VAE in the family's dtype
    where ``with_vae``; elsewhere the VAE has its configuration, without weights. Raises ValueError where the folder is not
    whole, see ``folder.check_folder``, and where the text encoder came out wrong or a
    weight is a NaN or an infinity.
    """
    check_folder(family, folder)
    classes = family.classes()
    parts = {"transformer": load_transformer_stage(family, folder / "transformer", index, count, layers, dtype)}
    if index > 0:
        parts.update((name, None) for name in family.facts.text_parts)
    if with_vae:
        parts["vae"] = classes.vae.from_pretrained(folder / "vae", dtype=family.facts.vae_dtype)
    else:
        parts["vae"] = _empty(classes.vae, folder / "vae")
    pipeline = classes.pipeline.from_pretrained(folder, dtype=dtype, **parts)
    for part in ("text_encoder", "vae"):
        check_finite(getattr(pipeline, part), part, folder / part)
    if pipeline.text_encoder is not None:
        check_tied(pipeline.text_encoder)
    return pipeline


def check_finite(module, part, folder):
    """Raises ValueError when ``module``, the ``part`` of a pipeline that is loaded from ``folder``, or None, has a weight with
    a NaN or an infinity."""
    name = None if module is None else not_finite(module)
    if name is not None:
        raise refusal(part, name, folder)


def load_transformer_stage(family, folder, index, count, layers, dtype):
    """Loads the transformer of ``family`` with the ``layers`` (a range) of stage ``index`` of ``count``.

    It reads no other weights. Weights that diffusers keeps in float32 are in float32, the others in ``dtype``.
    """
    transformer = _empty(family.classes().transformer, folder)
    family.keep_stage(transformer, layers, index == 0, index == count - 1)
    names = {name: _checkpoint_name(name, layers.start) for name in transformer.state_dict()}
    weights = _read(folder, names.values())
    in_float32 = set(transformer._keep_in_fp32_modules or ())  # whatever dtype is asked for, as from_pretrained does
    state = {}
    for name, stored in names.items():
        state[name] = weights[stored].to(torch.float32 if in_float32.intersection(name.split(".")) else dtype)
    transformer.load_state_dict(state, assign=True)
    return transformer.eval().requires_grad_(False)


def _empty(model_class, folder):
    """A model of ``model_class`` with the configuration in ``folder``, without weights."""
    with init_empty_weights():
        return model_class.from_config(model_class.load_config(folder))


def _checkpoint_name(name, first_layer):
    head, _, rest = name.partition(".")
    if head != "blocks":
        return name
    layer, _, rest = rest.partition(".")
    return f"blocks.{int(layer) + first_layer}.{rest}"


def _read(folder, names):
    weights = {}
    for file, stored in _by_file(folder, names).items():
        with safe_open(file, framework="pt") as shard:
            for name in stored:
                weights[name] = shard.get_tensor(name)
                if not is_finite(weights[name]):
                    raise refusal("transformer", name, file)
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
