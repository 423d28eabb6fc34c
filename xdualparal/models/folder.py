"""Whether a model folder in diffusers' layout is whole and is what its configuration says.

Knows: the parts of a checkpoint, and that a part's class says which tensors it needs. Must not know: what a family
computes, or who asks. Loads no weight: models are made on the meta device.
"""

import math
import re
import typing
from inspect import signature
from pathlib import Path
from types import NoneType, UnionType

import diffusers
import torch
import transformers

from .checkpoint_files import Weights, tensors_of
from .tensors import check_file, named, read_json, some

# How many modules a model makes: looked at before it is made, else a wrong number fills the memory.
_COUNTS = ("num_layers", "num_hidden_layers", "num_res_blocks", "num_decoder_layers")
_POSITIONS = 1 << 20  # the longest table of positions: Wan's models have 1024, and loading makes the table
_OF_OTHERS = ("transformer_2", "transformer_3", "image_encoder")  # parts of diffusers' other Wan pipelines


def check_folder(family, source):
    """Compares all files of ``source``, a folder or checkpoint_files.Weights, with what ``family``, a models.base.Family,
    needs, before anything is loaded.

    Raises ValueError, one line, that says what is missing, damaged, different or too much, and what to give instead.
    """
    source = Weights.of(source)
    folder = source.folder
    with _described(family, folder):
        _check_layout(folder)
        index = read_json(folder / "model_index.json")
        configs = {part: read_json(folder / part / "config.json") for part in _parts(family)}
        _check_index(index)
        for part, model_class in _parts(family).items():
            _check_config(f"{part}/config.json", configs[part], model_class)
    try:
        family.check_configs(index, configs)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    with _described(family, folder):
        _check_pipeline_parts(family, folder, index, configs)
        for part in (one for one in _parts(family) if one not in source.files):
            _check_part(family, source, part, configs[part])
    for part in source.files:
        _check_own_file(family, source, part, configs)


def _check_own_file(family, source, part, configs):
    """As ``_check_part``, of weights that are not the folder's."""
    path, experts = source.files[part], family.facts.experts
    if part not in experts:
        raise ValueError(f"{path} is given as the {part} and {family.facts.name} has no such part: give weights of {', '.join(experts)}")
    try:
        _check_part(family, source, part, configs[part])
    except ValueError as error:
        raise ValueError(
            f"{path} is not the {part} of {source.folder} ({error}): give a whole one of the same model, with diffusers' names "
            "of the tensors, Wan's own or LightX2V's"
        ) from None


def check_vae(family, folder):
    """As ``check_folder``, of the VAE alone."""
    with _described(family, Path(folder)):
        config = read_json(Path(folder, "vae", "config.json"))
        _check_config("vae/config.json", config, family.classes().vae)
        _check_part(family, Weights.of(folder), "vae", config)


class _described:
    """Says of a ValueError which folder it is about and what is allowed."""

    def __init__(self, family, folder):
        self._family, self._folder = family, folder

    def __enter__(self):
        if self._folder.is_file():
            raise ValueError(
                f"{self._folder} is a file: {self._remedy()}; weights of a transformer alone go into a copy of that folder, as its "
                f"transformer/diffusion_pytorch_model{self._folder.suffix}"
            )
        if not self._folder.is_dir():
            raise ValueError(f"{self._folder} is no folder: {self._remedy()}")

    def __exit__(self, kind, error, _):
        if isinstance(error, ValueError):
            raise ValueError(f"{self._folder} holds no whole {self._family.facts.name} model ({error}): {self._remedy()}") from None

    def _remedy(self):
        return f"give the whole folder of one in diffusers' layout, as {self._family.facts.example} has it"


def _parts(family):
    """{part: its class} of the parts with weights."""
    classes = family.classes()
    experts = dict.fromkeys(family.facts.experts, classes.transformer)
    return dict(**experts, vae=classes.vae, text_encoder=transformers.UMT5EncoderModel)


def _check_layout(folder):
    """Wan's own folders hold these files (its README), with the transformer's at the top."""
    if not (folder / "model_index.json").exists() and any(folder.glob("models_t5_*")):
        raise ValueError("it is in Wan's own layout, not in diffusers', whose folder has -Diffusers at its name's end on the hub")


def _check_index(index):
    for name, value in index.items():
        if isinstance(value, list) and not (len(value) == 2 and all(isinstance(one, str | None) for one in value)):
            raise ValueError(f"model_index.json is damaged: {name} is {value}")
        if name in ("transformer", "transformer_2", "vae", "text_encoder", "tokenizer", "scheduler") and not isinstance(value, list):
            raise ValueError(f"model_index.json is damaged: {name} is {value!r}, not a library and a class")


def _check_config(file, config, model_class):
    """The values' types, and that the config is of this class."""
    own = config.get("_class_name", model_class.__name__)
    if own != model_class.__name__:
        raise ValueError(f"{file} is of a {own}, not of a {model_class.__name__}")
    if config.get("quantization_config"):
        raise ValueError(f"{file} has a quantization_config, and quantized weights are not supported")
    kind = getattr(model_class, "config_class", None)
    wanted = {name: one.annotation for name, one in signature(model_class.__init__).parameters.items()}
    wanted |= kind.__annotations__ if kind else {}
    if kind is not None and config.get("model_type") != kind.model_type:
        raise ValueError(f"{file}: model_type is {config.get('model_type')!r}, not {kind.model_type!r}")
    for name, value in config.items():
        if name in wanted and not _fits(value, wanted[name]):
            raise ValueError(f"{file}: {name} is {value!r:.60}, which is not of its kind")
        if type(value) is int and value < 0 and name in wanted:
            raise ValueError(f"{file}: {name} is {value}, which is negative")
    if config.get("rope_max_seq_len", 1) > _POSITIONS:
        raise ValueError(f"{file}: rope_max_seq_len is {config['rope_max_seq_len']}: at most {_POSITIONS}")


def _fits(value, kind):
    """Whether a value from JSON is of the type ``kind``; types that JSON has not are not looked at."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind if kind in (int, bool, str, NoneType) else True


def _check_pipeline_parts(family, folder, index, configs):
    text = index.get("text_encoder", [None, None])
    if text != ["transformers", "UMT5EncoderModel"]:
        raise ValueError(f"text_encoder is {text[1]}, not UMT5EncoderModel of transformers")
    for part in (*family.facts.experts, "vae", "scheduler"):
        if index.get(part, [None])[0] != "diffusers":
            raise ValueError(f"model_index.json: {part} is not a class of diffusers")
    kinds = ("scheduler", diffusers), ("tokenizer", transformers)
    for part, library in kinds:
        name = index.get(part, [None, None])[1]
        if name is None or not hasattr(library, name):
            raise ValueError(f"model_index.json: {part} is {name}, which {library.__name__} does not have")
    used = {*family.facts.experts, "vae", "scheduler", *family.facts.text_parts}
    extra = [name for name, value in index.items() if name not in used and isinstance(value, list) and value[1] is not None]
    extra += [
        one.name for one in sorted(folder.iterdir())
        if one.name in _OF_OTHERS and one.name not in used or one.name not in used and (one / "config.json").exists() and any(one.glob("*.safetensors"))
    ]
    extra += sorted(one.name for one in folder.glob("*.safetensors"))  # of a LoRA, say
    if extra:
        raise ValueError(f"{extra[0]} is there too, and would not be used")
    if configs["transformer"].get("text_dim", 4096) != configs["text_encoder"].get("d_model", 512):
        raise ValueError("the transformer's text_dim is not the text encoder's d_model")
    read_json(folder / "scheduler" / "scheduler_config.json")
    if family.facts.sees_images:
        _check_image_encoder(folder, configs["transformer"])
    _check_tokenizer(folder / "tokenizer")


def _check_image_encoder(folder, transformer):
    """Its files, and that it says what the transformer sees; its tensors are compared when it is loaded (weights.load_image_encoder): transformers 5
    knows several names for them."""
    config = read_json(folder / "image_encoder" / "config.json")
    of_clip = folder / "image_processor" / "processor_config.json"  # of a CLIPProcessor, where transformers 5 wrote it
    read_json(of_clip if of_clip.exists() else of_clip.with_name("preprocessor_config.json"))
    if not any((folder / "image_encoder").glob("*.safetensors")):
        raise ValueError("image_encoder has no .safetensors file")
    dim = config.get("hidden_size", 768)  # transformers 5, CLIPVisionConfig
    if transformer.get("image_dim") != dim:
        raise ValueError(f"the transformer's image_dim is {transformer.get('image_dim')}, not the image encoder's hidden_size, {dim}")


def _check_tokenizer(folder):
    read_json(folder / "tokenizer_config.json")
    there = [folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).exists()]
    if not there:
        raise ValueError("tokenizer has neither tokenizer.json nor spiece.model")
    for file in there:
        check_file(file)
        if file.suffix == ".json" and not isinstance(read_json(file).get("model"), dict):
            raise ValueError(f"{named(file)} is damaged: it has no model")


def _check_part(family, source, part, config):
    """Compares the tensors of ``part`` with those of its class with ``config``."""
    stored, model_class = tensors_of(source, part), _parts(family)[part]
    for name in _COUNTS:
        if isinstance(config.get(name), int) and config[name] > len(stored):
            raise ValueError(f"{part}/config.json: {name} is {config[name]} and there are {len(stored)} tensors")
    expected = _on_meta(part, model_class, config)
    ignored = model_class._keys_to_ignore_on_load_unexpected or []
    missing = [names for names in _same(expected) if not any(name in stored for name in names)]
    extra = [name for name in stored if name not in expected and not any(re.search(one, name) for one in ignored)]
    if missing:
        raise ValueError(f"{source.place(part).name} lacks {some(names[0] for names in missing)} that {part}/config.json asks for")
    if extra:
        raise ValueError(f"{named(stored[extra[0]].file)} holds {some(stored[name].name for name in extra)} that {part}/config.json does not ask for")
    for name, tensor in expected.items():
        if name in stored and stored[name].shape != tuple(tensor.shape):
            shapes = f"{list(stored[name].shape)} and {part}/config.json asks for {list(tensor.shape)}"
            raise ValueError(f"{named(stored[name].file)}: {stored[name].name} is {shapes}")


def _on_meta(part, model_class, config):
    """{name: tensor without memory} of a model with ``config``."""
    try:
        with torch.device("meta"):
            if hasattr(model_class, "from_config"):
                model = model_class.from_config(config)
            else:
                model = model_class(model_class.config_class.from_dict(config))
    except Exception as error:  # a wrong config can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise ValueError(f"{part}/config.json makes no {model_class.__name__} ({reason})") from None
    return model.state_dict(keep_vars=True)


def _same(tensors):
    """The names of ``tensors`` in lists: those of one tied tensor, of which a file holds one or more, together."""
    groups = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def check_tied(text_encoder):
    """Raises ValueError where the encoder's token embedding is not the stored one: transformers 5.0 to 5.2 make a random one."""
    if not isinstance(text_encoder, transformers.UMT5EncoderModel):
        return
    if text_encoder.encoder.embed_tokens.weight is not text_encoder.shared.weight:
        raise ValueError(
            "the text encoder's token embedding is not the stored one (transformers 5.0 to 5.2 do not tie them): install "
            "transformers 5.3 or newer"
        )
