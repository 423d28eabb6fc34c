"""What a weight file holds, from its header alone.

Knows: the headers of safetensors and of torch's files. Must not know: models, or which files belong together. Reads no weight.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

_LFS = b"version https://git-lfs"  # a git-lfs pointer begins so (git-lfs, docs/spec.md)
_DTYPES = {  # by safetensors' names (its format's description)
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}
TORCH_ENDS = (".bin", ".pt", ".pth", ".ckpt")  # as torch.save's files are called


class Stored(NamedTuple):
    """One tensor in a file: its numbers are there one after the other.

    ``dtype``: torch's, or None for one that torch lacks, whose name is ``kind``. ``scale``: the Stored that it is to be
    multiplied with, see float8.py, or None.
    """

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    offset: int  # bytes from the file's start
    kind: str
    scale: "Stored | None" = None

    @property
    def num_bytes(self):
        """The bytes that it takes in its file, without its scale."""
        numbers = 1
        for size in self.shape:
            numbers *= size
        return numbers * self.dtype.itemsize

    @property
    def num_bytes_with_scale(self):
        """The bytes that must be read to use it."""
        return self.num_bytes + (self.scale.num_bytes if self.scale is not None else 0)


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
    if start[:4] == b"GGUF":
        raise ValueError(f"{named(path)} is a GGUF file, which cannot be read here")


def named(path):
    """A file by its folder and name, as messages name it."""
    return path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"


def some(names):
    """The first of ``names`` and how many more there are."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def header(file):
    """{name: Stored} of a file of safetensors' or, by its name, torch's.

    Raises ValueError, one line with the file's name, for one that is missing, cut off or damaged.
    """
    check_file(file)
    return _torch_header(file) if file.suffix in TORCH_ENDS else _safetensors_header(file)


def _safetensors_header(file):
    """The format: 8 bytes with the length of a JSON object, which says of each tensor where it is after that object."""
    try:
        with safe_open(file, framework="pt"):  # checks all of the header, and that the file is as long as it says
            pass
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{named(file)} is cut off or damaged ({error})") from None
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        content = json.loads(opened.read(length))
    return {
        name: Stored(file, name, tuple(one["shape"]), _DTYPES.get(one["dtype"]), 8 + length + one["data_offsets"][0], one["dtype"])
        for name, one in content.items() if name != "__metadata__"
    }


def _torch_header(file):
    """torch.load makes tensors without memory on the meta device, which know their place in the file."""
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{named(file)} is cut off or damaged, or in torch's format from before 1.6")
    try:
        content = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{named(file)} holds more than tensors, or is damaged ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(content, dict) or not all(isinstance(one, torch.Tensor) for one in content.values()):
        raise ValueError(f"{named(file)} holds no dict of tensors")
    tensors = {str(name): _stored(file, str(name), tensor) for name, tensor in content.items()}
    size = file.stat().st_size
    for name, one in tensors.items():
        if one.offset + one.num_bytes > size:
            raise ValueError(f"{named(file)} is cut off or damaged: it ends before {name} does")
    return tensors


def _stored(file, name, tensor):
    if not tensor.is_contiguous():
        raise ValueError(f"{named(file)}: the numbers of {name} are not one after the other")
    start = tensor.untyped_storage()._checkpoint_offset  # torch has no public way to it
    offset = start + tensor.storage_offset() * tensor.element_size()
    return Stored(file, name, tuple(tensor.shape), tensor.dtype, offset, str(tensor.dtype).removeprefix("torch."))
