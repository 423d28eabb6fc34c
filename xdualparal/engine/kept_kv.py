"""K/V that wait for a later pass: in which numbers, and in which memory.

Knows: tensors, how float8 stands for them, and how they come to the device and leave it. Must not know: passes, layers, or which
K/V wait.
"""

from collections import deque
from contextlib import nullcontext
from typing import Callable, NamedTuple

import torch

HOST = torch.device("cpu")
_MOST_LEAVING = 4  # tensors on their way to the host whose memory on the device is not free yet
_FLOAT8 = torch.float8_e4m3fn
_LIMIT = 432.0  # for numbers in float8, whose largest is 448: what is below it stays below when it is rounded, and from its half on above


class Format(NamedTuple):
    """``pack(tokens)``: the tensors that stand for tokens, (batch, tokens, heads, head_dim). ``unpack(parts, place)``: writes the tokens
    of those to ``place``."""

    pack: Callable
    unpack: Callable


def exact():
    """The Format of numbers as they are."""
    return Format(lambda tokens: [tokens], lambda parts, place: place.copy_(parts[0]))


def float8(largest_of_all=lambda largest: largest):
    """The Format of float8 (e4m3) with a scale for each head over tokens and channels, (batch, 1, heads, 1).

    A scale is a power of two, so that multiplying rounds nothing and what was unpacked gives the same bits when it is packed
    again. ``largest_of_all``: makes of the largest numbers of this rank's tokens those of all tokens.
    """
    def pack(tokens):
        largest = largest_of_all(tokens.abs().amax(dim=(1, 3), keepdim=True).float())
        scale = torch.exp2(torch.frexp(largest / _LIMIT).exponent.float()).to(tokens.dtype)
        return [(tokens / scale).to(_FLOAT8), scale]

    return Format(pack, lambda parts, place: place.copy_(parts[0]).mul_(parts[1]))


class Kept:
    """Tokens that wait on ``shelf``, packed in ``format`` as ``parts``, which the caller does not change. ``count``: how many."""

    def __init__(self, parts, format, shelf):
        self.count, self._format, self._shelf = parts[0].shape[1], format, shelf
        self._stored = shelf.put(parts)

    def packed(self):
        """The tensors that stand for them, where they wait."""
        return self._shelf.look(self._stored)

    def ask(self):
        """They will be written soon."""
        self._shelf.ask(self._stored)

    def write(self, place):
        """Writes the tokens to ``place``."""
        self._shelf.use(self._stored, lambda parts: self._format.unpack(parts, place))

    def drop(self):
        """They will not be written any more."""
        self._shelf.drop(self._stored)


class DeviceShelf:
    """Tensors that stay on the device."""

    def put(self, parts):
        """Returns what stands for ``parts``, tensors that the caller does not change."""
        return parts

    def look(self, stored):
        """The tensors, where they are, complete."""
        return stored

    def ask(self, stored):
        """They will be used soon."""

    def use(self, stored, function):
        """Calls ``function`` with the tensors on the device."""
        function(stored)

    def drop(self, stored):
        """They are needed no more."""


class _Waiting:
    """Tensors in host memory. ``arrived``: (their copies on the device, the event of the copying) once they are asked for."""

    def __init__(self, parts):
        self.parts, self.arrived = parts, None


class HostShelf:
    """Tensors that wait in the host's memory, pinned, and come to ``device`` on a stream of their own, as they are asked for.

    Copies stand behind all that the device was given so far. Host memory is used again for tensors of equal shapes: pinning is slow.
    """

    def __init__(self, device):
        self._stream = torch.Stream(device) if device.type != HOST.type else None
        self._device, self._leaving = device, deque()
        self._free, self._places = {}, {}  # memory that waits to be used again, of the host and of the device, by shape and dtype

    def put(self, parts):
        """Begins to copy ``parts`` to the host; the caller does not change them."""
        stored = _Waiting([self._taken(self._free, part, HOST) for part in parts])
        with self._aside():
            for there, part in zip(stored.parts, parts):
                there.copy_(part, non_blocking=True)
        if self._stream is not None:
            self._leaving.append((self._stream.record_event(), parts))
            while len(self._leaving) > _MOST_LEAVING:
                self._current().wait_event(self._leaving.popleft()[0])
        return stored

    def look(self, stored):
        """The tensors on the host, complete."""
        if self._stream is not None:
            self._stream.synchronize()
        return stored.parts

    def ask(self, stored):
        """Begins to copy them to the device."""
        there = [self._taken(self._places, part, self._device) for part in stored.parts]
        with self._aside():
            for place, part in zip(there, stored.parts):
                place.copy_(part, non_blocking=True)
        stored.arrived = there, None if self._stream is None else self._stream.record_event()

    def use(self, stored, function):
        """Calls ``function`` with the tensors on the device, in the order of its work; the next to come take their place."""
        if stored.arrived is None:
            self.ask(stored)
        there, event = stored.arrived
        if event is not None:
            self._current().wait_event(event)
        function(there)
        self._give_back(self._places, there)
        stored.arrived = None

    def drop(self, stored):
        """Their memory is free for others: what is copied there next stands behind their own copying."""
        self._give_back(self._free, stored.parts)
        stored.parts = []

    def _taken(self, free, like, device):
        fitting = free.get((like.shape, like.dtype))
        return fitting.pop() if fitting else torch.empty_like(like, device=device, pin_memory=device == HOST and self._stream is not None)

    def _give_back(self, free, parts):
        for part in parts:
            free.setdefault((part.shape, part.dtype), []).append(part)

    def _current(self):
        return torch.accelerator.current_stream(self._device)

    def _aside(self):
        """The stream for copies, behind all that the device was given so far."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(self._current())
        return self._stream
