"""Reads tensors out of weight files, one by one.

Knows: where a tensor is in its file. Must not know: models, stages, or who asks.

A file is read and not mapped into memory: then the memory of a process is what it keeps, whatever the system caches, and the
bytes that are read are known. Python's lock is free meanwhile, so the watchdog's thread runs however slow the disk is.
"""

import os

import torch

from .float8 import dequantized
from .tensors import named

_PIECE_BYTES = 1 << 26  # a read gives at most 2 GB (read(2)); progress is told after each


class Reader:
    """Reads tensors, and counts bytes. A context manager: it keeps the last file open.

    ``device``: where tensors go. ``tell``: is called with the number of bytes that were read, after each piece.
    """

    def __init__(self, device="cpu", tell=lambda num_bytes: None):
        self.device, self._tell = torch.device(device), tell
        self._path = self._file = None
        self.bytes_read = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file is not None:
            os.close(self._file)
        self._path = self._file = None

    def read(self, stored):
        """The tensor ``stored``, a tensors.Stored, on the device: as it is in its file, but float8 as float32, times its scale.

        Raises ValueError, one line, where the file cannot be read.
        """
        tensor = self._read(stored)
        return tensor if stored.scale is None else dequantized(tensor, self._read(stored.scale))

    def _read(self, stored):
        numbers = torch.empty(stored.num_bytes, dtype=torch.uint8)
        try:
            self._fill(memoryview(numbers.numpy()), stored)
        except OSError as error:
            raise ValueError(f"{named(stored.file)} cannot be read ({error.strerror})") from None
        return numbers.view(stored.dtype).view(stored.shape).to(self.device)

    def _fill(self, numbers, stored):
        self._open(stored.file)
        done = 0
        while done < len(numbers):
            count = os.preadv(self._file, [numbers[done:done + _PIECE_BYTES]], stored.offset + done)
            if not count:
                raise ValueError(f"{named(stored.file)} is cut off: it ends before {stored.name} does")
            done += count
            self.bytes_read += count
            self._tell(count)

    def _open(self, path):
        if path != self._path:
            self.__exit__()
            self._file, self._path = os.open(path, os.O_RDONLY), path
