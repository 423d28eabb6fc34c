"""Which files hold the weights of a part, and what they hold.

Knows: the names of weight files, as diffusers and transformers write them, and that a transformer's may have other names and
float8 numbers. Must not know: what a model needs. Reads no weight.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .float8 import check_usable, with_scales
from .names import diffusers_name
from .tensors import TORCH_ENDS, header, named, read_json, some

# diffusers' and transformers' names: STEM.safetensors, STEM.fp16.safetensors of a variant, STEM.safetensors.index.json,
# STEM.safetensors.index.fp16.json, and the same with bin.
_SET = r"(\.(?P<single>[^.]+))?\.(?P<kind>safetensors|bin)(?P<index>\.index(\.(?P<several>[^.]+))?\.json)?"
_SHARD = r"-\d+-of-\d+"
_TORCH_STEMS = {"model": "pytorch_model"}  # transformers' files of torch's format have another stem than its safetensors


@dataclass(frozen=True)
class Weights:
    """Where a model is.

    ``folder``: in diffusers' layout. ``files``: {part: path} of transformers whose weights come from elsewhere, a part being
    "transformer" or "transformer_2": a file (.safetensors, .bin, .pt, .pth, .ckpt, or the index of several) or a folder with
    such files, with diffusers' names of the tensors, Wan's own or LightX2V's; all else, config.json too, is still the
    folder's. For example ``Weights(folder, {"transformer": "wan2.2_t2v_A14b_high_noise.safetensors"})``.
    """

    folder: Path
    files: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, source):
        """``source``, Weights or a folder's path, as Weights with Paths."""
        own = source if isinstance(source, Weights) else cls(source)
        return cls(Path(own.folder), {part: Path(path) for part, path in own.files.items()})

    def place(self, part):
        """The folder or the file with the weights of ``part``."""
        return self.files.get(part, self.folder / part)


def tensors_of(source, part):
    """{name: Stored} of the weights of ``part`` in ``source``, Weights; those of a transformer by diffusers' names.

    Raises ValueError, one line, for files that are missing, cut off or damaged, and for numbers that no loader here can use.
    """
    place = source.place(part)
    found = _in_folder(place, _stem(part)) if place.is_dir() or part not in source.files else _in_file(place)
    if part == "text_encoder":  # read by transformers, which would ignore scales
        return check_usable(found)
    return with_scales(_by_diffusers_names(found) if part.startswith("transformer") else found)


def _by_diffusers_names(found):
    tensors = {}
    for name, stored in found.items():
        other = tensors.setdefault(diffusers_name(name), stored)
        if other is not stored:
            raise ValueError(f"{named(stored.file)} holds {diffusers_name(name)} twice, as {other.name} and as {stored.name}")
    return tensors


def variant_of(source, part):
    """The variant of the weights that are used of ``part``, "fp16" say, or None. Raises ValueError where there are none."""
    return _choice(source.place(part), _stem(part))[1]


def _stem(part):
    """How the files of a part begin: transformers' or diffusers'."""
    return "model" if part == "text_encoder" else "diffusion_pytorch_model"


def _in_folder(folder, stem):
    file, _ = _choice(folder, stem)
    return _sharded(file) if file.suffix == ".json" else header(file)


def _in_file(file):
    if file.suffix == ".json":
        return _sharded(file)
    if file.suffix not in (".safetensors", *TORCH_ENDS) and file.is_file():
        raise ValueError(f"{named(file)} is no weights' file: its name must end in .safetensors or {', '.join(TORCH_ENDS)}")
    return header(file)


def _choice(folder, stem):
    """(the index or the only file of the weights in ``folder``, their variant or None): the plain ones before a variant,
    safetensors before torch's files, as diffusers does. Raises ValueError for several sets that are alike in that."""
    found = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        for kind, start in (("safetensors", stem), ("bin", _TORCH_STEMS.get(stem, stem))):
            match = re.fullmatch(re.escape(start) + _SET, file.name)
            if match and match["kind"] == kind and not re.search(_SHARD, file.name):
                variant = match["single"] or match["several"]
                found.setdefault((variant is not None, kind == "bin"), []).append((file, variant))
    if not found:
        raise ValueError(_what_is_there_instead(folder, stem))
    best = found[min(found)]
    if len(best) == 2 and best[1][0].suffix == ".json" and best[0][0].name in _map_of(best[1][0]).values():
        return best[1]  # the index is of the single file
    if len(best) > 1:
        names = " and ".join(file.name for file, _ in best)
        raise ValueError(f"{folder.name} has {'two' if len(best) == 2 else len(best)} sets of weights, {names}: delete all but one of them")
    return best[0]


def _what_is_there_instead(folder, stem):
    files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    others = [file for file in files if file.endswith((".safetensors", ".gguf", *TORCH_ENDS))]
    also = f", and {some(others)} there has no such name: rename it" if others else ""
    return f"{folder.name}/{stem}.safetensors is missing{also}"


def _map_of(index):
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) and Path(file).name == file for file in where.values()):
        raise ValueError(f"{named(index)} is damaged: it has no weight_map from tensors to files")
    return where


def _sharded(index):
    where, folder = _map_of(index), index.parent
    shards = {file: header(folder / file) for file in sorted(set(where.values()))}
    for name, file in where.items():
        if name not in shards[file]:
            raise ValueError(f"{named(folder / file)} lacks {name}, which {index.name} says is there")
    found = {name: stored for shard in shards.values() for name, stored in shard.items()}
    unlisted = sorted(found.keys() - where.keys())
    if unlisted:
        raise ValueError(f"{named(index)} does not list {some(unlisted)} of {named(found[unlisted[0]].file)}")
    return {name: shards[file][name] for name, file in where.items()}
