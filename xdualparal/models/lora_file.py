"""What one LoRA's file changes, by its header: which keys belong to which tensor of the transformer, and how they are scaled.

Knows: the keys and settings that diffusers, PEFT, Wan's own tools, LightX2V, kohya and musubi-tuner write. Must not know: what
is done with the numbers, which are read by key. Facts are from diffusers 0.42.1 (loaders/lora_conversion_utils.py, peft.py), PEFT
0.21 (tuners/lora/layer.py, utils/other.py), LightX2V (lightx2v/utils/lora_loader.py) and musubi-tuner (convert_lora.py).
"""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from .names import original_name
from .tensors import TORCH_ENDS, Stored, header, named, read_json, some

_IN_FOLDER = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # diffusers' and PEFT's names
_PEFT_STEM, _PEFT_CONFIG = "adapter_model", "adapter_config.json"
_METADATA = "lora_adapter_metadata"  # diffusers.loaders.lora_base.LORA_ADAPTER_METADATA_KEY
_NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_WHOLE = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}  # an alpha may be one
_PEFT_PREFIX = "base_model.model."
# What comes before a module's name: of pipelines, of ComfyUI, of PEFT, of kohya.
_PREFIXES = re.compile(r"(?:base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|transformer\.|(transformer_2\.)|lora_unet_+)*")
_SECOND = "transformer_2"  # in diffusers the second expert has a prefix of its own
# What follows a module's name, what it is, and the tensor of the module that it changes. PEFT puts an adapter's name inside.
_ROLES = (
    (re.compile(r"\.(lora_A|lora_down|lora\.down)(\.[^.]+)?\.weight$"), "down", "weight"),
    (re.compile(r"\.(lora_B|lora_up|lora\.up)(\.[^.]+)?\.weight$"), "up", "weight"),
    (re.compile(r"\.(lora_B|lora_up)(\.[^.]+)?\.bias$"), "bias", "bias"),
    (re.compile(r"\.alpha$"), "alpha", "weight"),
    (re.compile(r"\.diff$"), "difference", "weight"),
    (re.compile(r"\.diff_b$"), "difference", "bias"),
    (re.compile(r"\.diff_m$"), "difference", "modulation"),
)
_OTHER_KINDS = {"lora_magnitude": "DoRA", "dora_scale": "DoRA", "lokr_": "LoKr", "hada_": "LoHa", "lora_mid": "a Tucker LoRA", "oft_": "OFT"}
# Others have changed the weights that they were trained on, too, so that those of the checkpoint are not what they belong to.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


class Pair(NamedTuple):
    """``tensor + scale * up @ down``. The scale is ``alpha`` / rank where there is an alpha, else ``scale``, by the settings."""

    down: Stored
    up: Stored
    alpha: Stored | None
    scale: float


class LoraFile:
    """A LoRA's file, of which only the header is read. ``path``: the file, or a folder that holds one. ``part``: which of the
    pipeline's ``parts`` (transformers) it is for.

    Raises ValueError, one line, for what is no LoRA that can be fused, and where ``part`` has no key in it.
    """

    def __init__(self, path, part, parts):
        self.file = _file_at(Path(path).absolute())
        self._headers, metadata = _headers(self.file), _metadata(self.file)
        self._keys = self._own_keys(part, parts)
        self.config = self._config(metadata, part)
        self._roles = {}

    def match(self, shapes):
        """Finds the tensor that each key changes. ``shapes``: {name: shape} of the transformer's tensors, by diffusers' names.

        Raises ValueError for a key that matches none, half a pair, and shapes that do not fit.
        """
        names, self._roles = _spellings(shapes), {}
        for key, module in self._keys.items():
            name, role = self._target(key, module, names)
            others = self._roles.setdefault(name, {})
            if role in others:
                raise self.refusal(f"holds {key} and {others[role]}, which change the same tensor: give one of them")
            others[role] = key
        for name, keys in self._roles.items():
            self._check_whole(name, keys)
            self._check_shapes(name, keys, shapes[name])

    def pair(self, name):
        """The Pair for the tensor ``name``, or None. ``match`` comes first."""
        keys = self._roles.get(name, {})
        if "down" not in keys:
            return None
        down, up, alpha = (self._headers.get(keys.get(role)) for role in ("down", "up", "alpha"))
        return Pair(down, up, alpha, self._scale(keys["down"], down.shape[0]))

    def differences(self, name):
        """[(Stored, the Pair that scales it, or None)] of whole tensors that are added to ``name``."""
        keys = self._roles.get(name, {})
        found = [("difference", None), ("bias", self.pair(_weight_of(name)))]
        return [(self._headers[keys[role]], pair) for role, pair in found if role in keys]

    def refusal(self, what):
        """The ValueError that says ``what`` of this file."""
        return ValueError(f"the LoRA {named(self.file)} {what}")

    def _own_keys(self, part, parts):
        """{key: the key without prefixes} of those that are for ``part``."""
        second = {key for key in self._headers if _PREFIXES.match(key)[1]}
        if second and _SECOND not in parts:
            raise self.refusal(f"holds {some(sorted(second))} of a second transformer and this model has one: give a LoRA for this model")
        own = second if part == _SECOND and second else self._headers.keys() - second
        if not own:
            raise self.refusal(f"holds keys of {_SECOND} only: give it for that one (--lora_2)" if second else "holds no tensors: give another file")
        return {key: key[_PREFIXES.match(key).end():] for key in sorted(own)}

    def _config(self, metadata, part):
        """The PEFT settings in the file's metadata or beside it, or None."""
        beside = self.file.parent / _PEFT_CONFIG
        if _METADATA in metadata:
            return _Config(self, _of_part(self._json(metadata[_METADATA]), part), "its metadata")
        if self.file.stem != _PEFT_STEM and not any(key.startswith(_PEFT_PREFIX) for key in self._keys):
            return None
        if beside.exists():
            return _Config(self, read_json(beside), _PEFT_CONFIG)
        if any(key.endswith(".alpha") for key in self._keys):
            return None
        raise self.refusal(f"is PEFT's and {_PEFT_CONFIG}, which says how it is scaled, is not beside it: put it there")

    def _json(self, text):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise self.refusal(f"is damaged: {_METADATA} in its metadata is no JSON object")
        return content

    def _target(self, key, module, names):
        for pattern, role, last in _ROLES:
            match = pattern.search(module)
            if match:
                module = module[:match.start()]
                found = names.get(f"{module}.{last}") or (role == "difference" and names.get(module))
                if found:
                    return found, role
                raise self.refusal(f"holds {key}, which matches nothing in the transformer: give a LoRA for this model")
        kind = next((kind for part, kind in _OTHER_KINDS.items() if part in key), None)
        raise self.refusal(
            f"is {kind} ({key}), which is not supported: give a LoRA with up and down tensors" if kind else
            f"holds {key}, which is no key of a LoRA that is known: give one of diffusers', PEFT's, Wan's, LightX2V's or kohya's"
        )

    def _check_whole(self, name, keys):
        weight = self._roles.get(_weight_of(name), {}) if "bias" in keys else keys
        lacks = [role for role in ("down", "up") if role not in weight]
        if lacks and any(role in keys for role in ("down", "up", "alpha", "bias")):
            there = next(keys[role] for role in ("down", "up", "alpha", "bias") if role in keys)
            raise self.refusal(f"holds {there} without its {' and '.join(lacks)}: give the whole file")

    def _check_shapes(self, name, keys, shape):
        shape, stored = tuple(shape), {role: self._headers[key].shape for role, key in keys.items()}
        fits = {"difference": stored.get("difference") == shape, "bias": stored.get("bias") == shape}
        if "down" in keys:
            rank = stored["down"][:1]
            fits["down"] = len(rank) == 1 and rank[0] > 0 and stored["down"][1:] == shape[1:]
            fits["up"] = stored["up"] == shape[:1] + rank + (1,) * len(shape[2:])
            fits["alpha"] = "alpha" in keys and math.prod(stored["alpha"]) == 1
            if fits["down"] and self.config is not None:
                self.config.check_rank(_module_of(self._keys[keys["down"]]), keys["down"], rank[0])
        wrong = [role for role in keys if not fits[role]]
        if wrong:
            raise self.refusal(
                f"holds {keys[wrong[0]]} of shape {list(stored[wrong[0]])}, which does not fit {name} of {list(shape)}: give a LoRA for this model"
            )
        odd = [key for role, key in keys.items() if self._headers[key].dtype not in (_NUMBERS | _WHOLE if role == "alpha" else _NUMBERS)]
        if odd:
            raise self.refusal(f"holds {self._headers[odd[0]].kind} numbers ({odd[0]}): give float32, float16 or bfloat16 ones")

    def _scale(self, key, rank):
        return 1.0 if self.config is None else self.config.scale(_module_of(self._keys[key]), rank)


class _Config:
    """PEFT's settings of a LoRA, as far as they decide what is added."""

    def __init__(self, lora, content, where):
        self._lora, self._where = lora, where
        kind = content.get("peft_type") or "LORA"
        if kind != "LORA":
            raise lora.refusal(f"is {kind} by {where}, which is not supported: give a LoRA")
        if content.get("use_dora"):
            raise lora.refusal(f"is DoRA by {where}, which is not supported: give a LoRA without use_dora")
        if content.get("init_lora_weights", True) not in _INITS:
            how = content["init_lora_weights"]
            raise lora.refusal(f"was begun with {how} by {where}, which changes the model's own weights, too: give a plain LoRA, to which PEFT converts it")
        self._rank, self._ranks = self._numbers(content, "r", "rank_pattern")
        self._alpha, self._alphas = self._numbers(content, "lora_alpha", "alpha_pattern")
        if self._alpha is None:
            raise lora.refusal(f"has no lora_alpha by {where}, so its scale is not known: give one whose settings are whole")
        self._is_rank_stabilized = bool(content.get("use_rslora"))
        self.identity = [self._rank, self._ranks, self._alpha, self._alphas, self._is_rank_stabilized]

    def check_rank(self, module, key, rank):
        """Raises ValueError where the settings say another rank: they are another file's, then."""
        said = _by_pattern(self._ranks, module, self._rank)
        if said is not None and said != rank:
            raise self._lora.refusal(f"holds {key} of rank {rank} and {self._where} says {said}: give the file and settings that belong together")

    def scale(self, module, rank):
        """What a pair of ``rank`` is multiplied by: alpha / rank, or alpha / sqrt(rank) where it is rank-stabilized."""
        return _by_pattern(self._alphas, module, self._alpha) / (math.sqrt(rank) if self._is_rank_stabilized else rank)

    def _numbers(self, content, name, pattern):
        value, by_pattern = content.get(name), content.get(pattern) or {}
        numbers = by_pattern.values() if isinstance(by_pattern, dict) else [by_pattern]
        for one in (*numbers, *([] if value is None else [value])):
            if isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one):
                raise self._lora.refusal(f"has {name} {one!r:.40} by {self._where}: give one with numbers")
        for one in by_pattern:
            _check_pattern(one, self._lora, self._where)
        return value, by_pattern


def _check_pattern(pattern, lora, where):
    try:
        re.compile(pattern)
    except re.error:
        raise lora.refusal(f"has the pattern {pattern!r:.40} by {where}, which is none: give one of PEFT's") from None


def _file_at(path):
    if path.is_dir():
        there = [path / name for name in _IN_FOLDER if (path / name).exists()]
        if len(there) != 1:
            raise ValueError(f"the folder {path} holds {'both' if there else 'none'} of {' and '.join(_IN_FOLDER)}: give a LoRA's file")
        [path] = there
    return path


def _headers(file):
    try:
        return header(file)
    except ValueError as error:
        raise ValueError(f"the LoRA {error}: give a safetensors file") from None


def _metadata(file):
    """The texts that a safetensors file has beside its tensors; others have none."""
    if file.suffix in TORCH_ENDS:
        return {}
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}


def _spellings(names):
    """{what a file may call a tensor: its name}: by diffusers' or Wan's own name, with dots or, as kohya, underscores."""
    spellings = {}
    for name in names:
        for full in (name, original_name(name)):
            module, _, last = full.rpartition(".")
            for one in (full, f"{module.replace('.', '_')}.{last}"):
                assert spellings.setdefault(one, name) == name, f"{one} is two tensors' name"
    return spellings


def _module_of(key):
    return next(key[:match.start()] for pattern, *_ in _ROLES if (match := pattern.search(key)))


def _weight_of(bias):
    return f"{bias.removesuffix('.bias')}.weight"


def _of_part(content, part):
    """diffusers' pipelines put the part before each setting's name, "transformer" for a LoRA of either expert; a model's own
    ``save_lora_adapter`` does not."""
    for prefix in (f"{part}.", "transformer."):
        own = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
        if own:
            return own
    return content


def _by_pattern(patterns, module, default):
    """The value of the first of PEFT's patterns that is the end of ``module``, whole names, as PEFT's get_pattern_key."""
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), default)
