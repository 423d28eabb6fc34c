"""Writes finished latents to a file, block by block, so that a video can be decoded again without denoising it again.

Knows: the file's format. Must not know: how latents are made or decoded.

The file is a sequence of safetensors records, one per block, so it is valid up to its last finished block at every
moment. A record begins with 8 bytes, the length of its JSON header, little endian, and the header says where the data
ends (safetensors' own format description). The first record of a video that continues another one has that one's last latents, too.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from .files import check_new, check_place, check_regular, not_written, sync_folder

_NAME, _BEFORE = "latents", "before"
_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit


def facts_of(spec):
    """What a file of latents says about ``spec``, the run's RunSpec: what decoding needs, what tells runs apart, and all of it."""
    return dict(
        model=spec.model, num_frames=str(spec.num_frames), run=spec.of_latents().digest(), label=spec.digest(),
        spec=json.dumps(spec.as_json()),
    )


class LatentsFile:
    """Writes ``path``, a block at a time. A context manager, which opens what is kept; a new file is there when the first
    block is.

    ``facts``: what decoding needs, a dict of strings, stored with each block; "run" tells one run's blocks from
    another's. ``blocks_kept``: how many blocks of an existing file stay. ``overwrite``: whether another run's file may be
    replaced. ``checkpoint``: the folder of the run's, where the file must not be. Raises ValueError when it has fewer blocks of this run, or may not be replaced, OSError when it cannot be read.
    """

    def __init__(self, path, facts, blocks_kept=0, overwrite=False, checkpoint=None):
        self._path, self._facts, self._file = Path(path), facts, None
        check_regular(path, "latents_out")
        check_place(path, "latents_out", checkpoint)
        self._ends = [end for _, end in _records(path, facts.get("run"))][:blocks_kept] if blocks_kept else []
        if len(self._ends) < blocks_kept:
            raise ValueError(
                f"{path} has {len(self._ends)} blocks of this run and the checkpoint continues after {blocks_kept}: put the file "
                "back, leave --dualparal_latents_out out, or delete the checkpoint to start anew"
            )
        self._may_replace = overwrite or blocks_kept > 0 or self._path.exists() and _is_of(path, facts)
        if not self._may_replace:
            check_new(path, "latents_out")

    def __enter__(self):
        if self._ends:
            self._file = open(self._path, "r+b")
            self._file.truncate(self._ends[-1])
            self._file.seek(0, 2)
        return self

    def __exit__(self, *_):
        if self._file is not None:
            self._file.close()

    def append(self, block, latents, before=None):
        """Appends ``latents``, the own ones of ``block``: (1, channels, frames, height, width), any device. They are on the
        disk when this returns. ``before``: with block 0, the last latents of a video that this one continues.

        Raises OSError when there is no space, or another file has appeared.
        """
        tensors = {_NAME: latents.detach().cpu().contiguous()}
        if before is not None:
            tensors[_BEFORE] = before.detach().cpu().contiguous()
        record = save(tensors, metadata={**self._facts, "block": str(block)})
        if self._file is None:
            self._open_new()
        try:
            self._file.write(record)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(error, self._path) from None

    def _open_new(self):
        if self._may_replace:
            self._path.unlink(missing_ok=True)
        self._file = open(self._path, "xb")
        sync_folder(self._path.absolute().parent)


def _is_of(path, facts):
    there = first_facts(path)
    return there is not None and "run" in there and there["run"] == facts.get("run")


def read_before(path):
    """The last latents of the video that the one in the file at ``path`` continues, or None. Raises as ``read_latents``."""
    return next(_tensors(path))[1].get(_BEFORE)


def read_latents(path):
    """Yields (facts, latents) of each block in the file at ``path``; leaves out a block that is not whole.

    Raises ValueError when there is no whole block or what is there is not what LatentsFile writes, OSError when there is no
    file.
    """
    for facts, tensors in _tensors(path):
        yield facts, tensors[_NAME]


def _tensors(path):
    """Yields (facts, {name: tensor}) of each whole block.

    Raises ValueError when there is no whole block or what is there is not what LatentsFile writes, OSError when there is no
    file.
    """
    open(path, "rb").close()
    empty = True
    for start, end in _records(path):
        with open(path, "rb") as file:
            file.seek(start)
            record = file.read(end - start)
        try:
            tensors = load(record)
        except (SafetensorError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is damaged in the block that begins at byte {start} ({error}): make it anew") from None
        yield _header(path, record)["__metadata__"], tensors
        empty = False
    if empty:
        raise ValueError(f"{path} has no finished block: give a file that --dualparal_latents_out wrote")


def first_facts(path):
    """The facts of the first block in the file at ``path``, whole or not; None for a file that is not a LatentsFile's.

    Raises OSError when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            found = _read_header(path, file, 0, os.path.getsize(path))
        return found and found[0]["__metadata__"]
    except ValueError:
        return None


def _records(path, run=None):
    """Yields (start, end), in bytes, of each whole record in the file; where ``run`` is given, up to another run's."""
    size, start = Path(path).stat().st_size if Path(path).exists() else 0, 0
    while start + 8 <= size:
        with open(path, "rb") as file:
            found = _read_header(path, file, start, size)
        if found is None:
            return
        header, data_start = found
        if run is not None and header["__metadata__"].get("run") != run:
            return
        end = data_start + _data_bytes(header)
        if end > size:
            return
        yield start, end
        start = end


def _read_header(path, file, start, size):
    """(the header of the record at ``start``, where its data starts), None where it is not whole.

    Raises ValueError when it is no header of ours: a size that no header has, no JSON, other tensors.
    """
    file.seek(start)
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) == 8 and length > _MOST_HEADER_BYTES:
        raise _foreign(path)
    if len(head) < 8 or start + 8 + length > size:
        return None
    return _header(path, head + file.read(length)), start + 8 + length


def _header(path, record):
    length = int.from_bytes(record[:8], "little")
    try:
        header = json.loads(record[8:8 + length])
        if {_NAME} <= set(header) - {"__metadata__"} <= {_NAME, _BEFORE} and isinstance(header["__metadata__"], dict) and _data_bytes(header) >= 0:
            return header
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _foreign(path)


def _data_bytes(header):
    """How long a record's data is. Raises ValueError for tensors that do not lie one behind the other."""
    end = 0
    for first, last in sorted(one["data_offsets"] for name, one in header.items() if name != "__metadata__"):
        if not end == first <= last:
            raise ValueError("a gap")
        end = last
    return end


def _foreign(path):
    return ValueError(f"{path} is no file of latents: give one that --dualparal_latents_out wrote")
