"""Loads only what a rank needs.

Knows: the parts of a checkpoint. Must not know: a model, which is asked of its family, how files are called and read, or what is
done with the weights.
"""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, snapshot_download

from .checkpoint_files import Weights, tensors_of, variant_of
from .finite import is_finite, not_finite, refusal
from .folder import check_folder, check_tied
from .reading import Reader


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


def load_stage(family, source, index, count, layers, dtype, with_vae, device="cpu", changes=None, tell=lambda num_bytes: None):
    """Loads a pipeline of ``family`` with only what the passes of stage ``index`` of ``count`` use.

    ``source``: checkpoint_files.Weights, or a folder. What is loaded: the ``layers`` (a range) of every expert in ``dtype`` on
    ``device``, and the VAE in the family's dtype where ``with_vae``; elsewhere the VAE has its configuration, without weights.
    There is no text encoder (``load_text_pipeline``). ``changes``: {part: change} of experts, and ``tell``, see
    ``load_transformer_stage``. Raises ValueError where the folder is not whole, see ``folder.check_folder``, and where a weight
    is a NaN or an infinity.
    """
    source, changes = Weights.of(source), changes or {}
    check_folder(family, source)
    parts = {
        part: load_transformer_stage(family, source, part, index, count, layers, dtype, device, changes.get(part), tell)
        for part in family.facts.experts
    }
    parts.update((name, None) for name in family.facts.text_parts)
    parts["vae"] = load_vae(family, source, device, tell) if with_vae else _empty(family.classes().vae, source.folder / "vae")
    return family.classes().pipeline.from_pretrained(source.folder, dtype=dtype, **parts)


def load_text_pipeline(family, source, dtype, device="cpu"):
    """Loads a pipeline of ``family`` with only the tokenizer and the text encoder, see ``load_text_encoder``."""
    source = Weights.of(source)
    check_folder(family, source)
    others = dict.fromkeys({*family.facts.experts, "vae", "scheduler", *family.facts.text_parts} - {"text_encoder", "tokenizer"})
    return family.classes().pipeline.from_pretrained(
        source.folder, text_encoder=load_text_encoder(source, dtype, device), **others
    )


def load_text_encoder(source, dtype, device="cpu"):
    """Loads the text encoder in ``dtype`` straight to ``device``. ``source``: see ``load_stage``. Raises ValueError where it came
    out wrong or a weight is a NaN or an infinity."""
    source = Weights.of(source)
    folder, variant = source.folder / "text_encoder", variant_of(source, "text_encoder")
    place = {} if torch.device(device).type == "cpu" else dict(device_map={"": device})
    encoder = transformers.UMT5EncoderModel.from_pretrained(folder, dtype=dtype, variant=variant, **place)
    name = not_finite(encoder)
    if name is not None:
        raise refusal("text_encoder", name, folder)
    check_tied(encoder)
    return encoder


def load_image_encoder(source):
    """(CLIP's image processor, its encoder in float32 on the host) of a checkpoint. Raises ValueError where it is not whole or a weight is a NaN
    or an infinity. On the host, so that no device needs memory for it.
    """
    folder = Weights.of(source).folder
    try:
        processor = transformers.CLIPImageProcessor.from_pretrained(folder / "image_processor", local_files_only=True)
        encoder, info = transformers.CLIPVisionModel.from_pretrained(
            folder / "image_encoder", dtype=torch.float32, local_files_only=True, output_loading_info=True,
        )
    except Exception as error:  # a wrong file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{folder} has no image_encoder that can be read ({reason}): give the whole folder of the model, as its page on the hub has it") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"the weights of the image_encoder lack {sorted(map(str, info['missing_keys'] or info['mismatched_keys']))[0]}, which its config.json asks for: give whole ones")
    name = not_finite(encoder)
    if name is not None:
        raise refusal("image_encoder", name, folder)
    return processor, encoder.eval()


def load_transformer_stage(
    family, source, part, index, count, layers, dtype, device="cpu", change=None, tell=lambda num_bytes: None
):
    """Loads of the expert ``part``, "transformer" say, of ``family`` what stage ``index`` of ``count`` with ``layers`` (a
    range) uses, straight to ``device``; it reads no other weights.

    ``source``: checkpoint_files.Weights, or a folder. Weights that diffusers keeps in float32 are in float32, the others in
    ``dtype``. ``change``: is called with each weight's name, diffusers' one in the whole transformer
    ("blocks.3.attn1.to_q.weight"), and the tensor on ``device`` as it is stored (float8 as float32), and returns what to use
    instead; its dtype is then cast. ``tell``: is called with a number of bytes when they have been read.
    Raises ValueError, one line, for files that are not whole and for a weight that is a NaN or an infinity.
    """
    source = Weights.of(source)
    transformer, names = stage_without_weights(family, source, part, index, count, layers)
    with Reader(device, tell) as reader:
        return _filled(transformer, part, names, tensors_of(source, part), dtype, reader, change)


def load_vae(family, source, device="cpu", tell=lambda num_bytes: None, dtype=None):
    """Loads the VAE in ``dtype``, None: the family's, to ``device``. ``source``, ``tell`` and errors: see ``load_transformer_stage``."""
    source = Weights.of(source)
    vae = _empty(family.classes().vae, source.folder / "vae")
    names = {name: name for name in vae.state_dict()}
    with Reader(device, tell) as reader:
        return _filled(vae, "vae", names, tensors_of(source, "vae"), dtype or family.facts.vae_dtype, reader)


def bytes_to_read(family, source, index, count, layers, with_vae):
    """How many bytes of weights ``load_stage`` with these arguments reads, by the files' headers; without the text encoder."""
    source = Weights.of(source)
    sizes = []
    for part in family.facts.experts:
        _, names = stage_without_weights(family, source, part, index, count, layers)
        stored = tensors_of(source, part)
        sizes += [stored[name].num_bytes_with_scale for name in names.values()]
    return sum(sizes) + (sum(one.num_bytes_with_scale for one in tensors_of(source, "vae").values()) if with_vae else 0)


def stage_without_weights(family, source, part, index, count, layers):
    """(the transformer of a stage, see ``load_transformer_stage``, on the meta device; {the name of each of its weights: their
    name in the whole transformer}). It reads only the configuration.

    What every stage needs of the whole transformer is what computes conditions (``condition_embedder``, and ``fps_embedding`` and
    ``fps_projection`` where they are) and the table ``scale_shift_table``; all other weights are one stage's.
    """
    transformer = _empty(family.classes().transformer, Weights.of(source).folder / part)
    family.keep_stage(transformer, layers, index == 0, index == count - 1)
    return transformer, {name: _checkpoint_name(name, layers.start) for name in transformer.state_dict()}


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


def _filled(module, part, names, stored, dtype, reader, change=None):
    """``module``, from the meta device, with its weights. ``names``: {its name: the name in ``stored``, {name: Stored}}."""
    in_float32 = set(module._keep_in_fp32_modules or ())  # whatever dtype is asked for, as from_pretrained does
    for name, tensor in module.state_dict().items():
        _check_is_it(part, names[name], tensor, stored)
    state = {}
    for name in sorted(names, key=lambda one: (stored[names[one]].file, stored[names[one]].offset)):
        whole, tensor = names[name], reader.read(stored[names[name]])
        if change is not None:
            tensor = change(whole, tensor)
        state[name] = tensor.to(torch.float32 if in_float32.intersection(name.split(".")) else dtype)
        if not is_finite(state[name]):  # numbers that are too large for the dtype too
            raise refusal(part, whole, stored[whole].file)
    module.load_state_dict(state, assign=True)
    return module.to(reader.device).eval().requires_grad_(False)  # buffers that are in no file too


def _check_is_it(part, name, tensor, stored):
    if name not in stored:
        raise ValueError(f"the weights of the {part} lack {name}, which its config.json asks for: give whole ones")
    if stored[name].shape != tensor.shape:
        raise ValueError(f"{stored[name].file}: {name} is {list(stored[name].shape)}, and {list(tensor.shape)} by {part}/config.json")
