"""What a part's weight files hold, from the safetensors headers alone.

Knows: the files of a part in diffusers' and transformers' layout. Must not know: models. Loads no weight.
"""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

_USABLE = {"F64", "F32", "F16", "BF16"}  # other numbers, float8 say, mean nothing without the scales beside them
_LFS = b"version https://git-lfs"  # a git-lfs pointer begins so (git-lfs, docs/spec.md)


class Stored(NamedTuple):
    """One tensor in a file."""

    file: Path
    shape: tuple[int, ...]


def read_json(path):
    """The dict in a JSON file. Raises ValueError, one line with the file's name, for anything else."""
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{named(path)} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{named(path)} is damaged: it is no JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{named(path)} is damaged: it holds no JSON object")
    return content


def check_file(path):
    """Raises ValueError for a file that is not there, is a git-lfs pointer, is empty or cannot be read."""
    if path.is_symlink() and not path.exists():
        raise ValueError(f"{named(path)} is a link to a file that is not there")
    if not path.is_file():
        raise ValueError(f"{named(path)} is {'not a file' if path.exists() else 'missing'}")
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LFS))
    except OSError as error:
        raise ValueError(f"{named(path)} cannot be read ({error.strerror})") from None
    if start == _LFS:
        raise ValueError(f"{named(path)} is a git-lfs pointer and not the file itself (git lfs pull fetches it)")
    if not start:
        raise ValueError(f"{named(path)} is empty")


def named(path):
    """A file by its folder and name, as messages name it."""
    return path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"


def stored_tensors(folder, stem):
    """{name: Stored} of the weights in ``folder``, whose files begin with ``stem``.

    Raises ValueError for files that are missing, cut off or damaged, and for numbers that no loader here can use.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.exists() or index.is_symlink():
        return _sharded(folder, index, single)
    if not (single.exists() or single.is_symlink()):
        raise ValueError(_what_is_there_instead(folder, stem))
    return _header(single)


def _sharded(folder, index, single):
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(file, str) and Path(file).name == file for file in where.values()):
        raise ValueError(f"{named(index)} is damaged: it has no weight_map from tensors to files")
    shards = {file: _header(folder / file) for file in sorted(set(where.values()))}
    if single.exists() and single.name not in shards:
        raise ValueError(f"{folder.name} has two sets of weights, {single.name} and {index.name}: delete one of them")
    for name, file in where.items():
        if name not in shards[file]:
            raise ValueError(f"{named(folder / file)} lacks {name}, which {index.name} says is there")
    found = {name: stored for shard in shards.values() for name, stored in shard.items()}
    unlisted = sorted(found.keys() - where.keys())
    if unlisted:
        raise ValueError(f"{named(index)} does not list {some(unlisted)} of {named(found[unlisted[0]].file)}")
    return {name: shards[file][name] for name, file in where.items()}


def _header(file):
    check_file(file)
    try:
        with safe_open(file, framework="pt") as shard:  # maps the file, and checks that it is as long as its header says
            slices = {name: shard.get_slice(name) for name in shard.keys()}
            numbers = {name: one.get_dtype() for name, one in slices.items()}
            tensors = {name: Stored(file, tuple(one.get_shape())) for name, one in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{named(file)} is cut off or damaged ({error})") from None
    odd = sorted(name for name, kind in numbers.items() if kind not in _USABLE)
    if odd:
        raise ValueError(
            f"{named(file)} holds {numbers[odd[0]]} numbers ({some(odd)}), which cannot be computed with: give float32, "
            "float16 or bfloat16 weights, not quantized ones"
        )
    return tensors


def _what_is_there_instead(folder, stem):
    files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    variants = [file for file in files if file.startswith(f"{stem}.") and ".safetensors" in file]
    pickled = [file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    again = "load and save it again with diffusers' WanPipeline.from_pretrained({}).save_pretrained(FOLDER)"
    if variants:
        name = variants[0].removeprefix(f"{stem}.").removeprefix("safetensors.index.").split(".")[0].split("-")[0]
        return f"{folder.name} holds only the variant {variants[0]}: {again.format(f'..., variant={name!r}')}"
    if pickled:
        return f"{folder.name} holds only {pickled[0]} and no {stem}.safetensors: {again.format('...')}"
    return f"{folder.name}/{stem}.safetensors is missing"


def some(names):
    """The first of ``names`` and how many more there are."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
