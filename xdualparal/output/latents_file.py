"""Writes finished latents to a file, block by block, so that a video can be decoded again without denoising it again.

Knows: the file's format. Must not know: how latents are made or decoded.

The file is a sequence of safetensors records, one per block, so it is valid up to its last finished block at every
moment. A record begins with 8 bytes, the length of its JSON header, little endian, and the header says where the data
ends (safetensors' own format description).
"""

import json
import struct
from pathlib import Path

from safetensors.torch import load, save

_NAME = "latents"


def facts_of(spec):
    """What a file of latents says about ``spec``, the run's RunSpec: what decoding needs, what tells runs apart, and all of it."""
    return dict(
        model=spec.model, num_frames=str(spec.num_frames), run=spec.of_latents().digest(), label=spec.digest(),
        spec=json.dumps(spec.as_json()),
    )


class LatentsFile:
    """Writes ``path``, a block at a time. A context manager.

    ``facts``: what decoding needs, a dict of strings, stored with each block; "run" tells one run's blocks from
    another's. ``blocks_kept``: how many blocks of an existing file stay. Raises ValueError when it has fewer of this
    run, OSError when it cannot be opened.
    """

    def __init__(self, path, facts, blocks_kept=0):
        self._facts = facts
        ends = [end for _, end in _records(path, facts.get("run"))] if blocks_kept else []
        if len(ends) < blocks_kept:
            raise ValueError(
                f"{path} has {len(ends)} blocks of this run and the checkpoint continues after {blocks_kept}: put the file "
                "back, leave --dualparal_latents_out out, or delete the checkpoint to start anew"
            )
        self._file = open(path, "r+b" if blocks_kept else "wb")
        self._file.truncate(ends[blocks_kept - 1] if blocks_kept else 0)
        self._file.seek(0, 2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def append(self, block, latents):
        """Appends ``latents``, the own ones of ``block``: (1, channels, frames, height, width), any device.

        Raises OSError when there is no space.
        """
        tensors = {_NAME: latents.detach().cpu().contiguous()}
        self._file.write(save(tensors, metadata={**self._facts, "block": str(block)}))
        self._file.flush()


def read_latents(path):
    """Yields (facts, latents) of each block in the file at ``path``; leaves out a block that is not whole.

    Raises ValueError when there is no whole block, OSError when there is no file.
    """
    open(path, "rb").close()
    empty = True
    for start, end in _records(path):
        with open(path, "rb") as file:
            file.seek(start)
            record = file.read(end - start)
        yield _header(record)["__metadata__"], load(record)[_NAME]
        empty = False
    if empty:
        raise ValueError(f"{path} has no finished block: give a file that --dualparal_latents_out wrote")


def _records(path, run=None):
    """Yields (start, end), in bytes, of each whole record in the file; where ``run`` is given, up to another run's."""
    size, start = Path(path).stat().st_size if Path(path).exists() else 0, 0
    while start + 8 <= size:
        with open(path, "rb") as file:
            file.seek(start)
            head = file.read(8)
            header_end = start + 8 + struct.unpack("<Q", head)[0]
            if header_end > size:
                return
            header = _header(head + file.read(header_end - start - 8))
        if "__metadata__" not in header or _NAME not in header:
            raise ValueError(f"{path} is no file of latents: give one that --dualparal_latents_out wrote")
        if run is not None and header["__metadata__"].get("run") != run:
            return
        end = header_end + max(one["data_offsets"][1] for name, one in header.items() if name != "__metadata__")
        if end > size:
            return
        yield start, end
        start = end


def _header(record):
    length = struct.unpack("<Q", record[:8])[0]
    try:
        return json.loads(record[8:8 + length])
    except ValueError:
        raise ValueError("this is no file of latents: give one that --dualparal_latents_out wrote") from None
