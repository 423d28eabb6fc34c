"""Which expert's layers are on the device.

Knows: the experts' layers as tensors, and how they come to the device. Must not know: what a layer computes, or which pass needs
which expert (its plan says so).

With all of them on the device nothing is to be done. Else the experts share one memory there, layer by layer, and each has its
weights on the host, pinned: a layer of the other expert takes a layer's place as soon as that has computed its last pass for now
(DESIGN section 3: in a wave the passes of an expert stand together). Copies have a stream of their own.
"""

from contextlib import nullcontext

import torch
from torch import nn

HOST = torch.device("cpu")


class ResidentExperts:
    """All experts are on the device, but for what a run needs only once: that waits on the host until its end.

    ``transformers``: the experts'. For Wan 14B in bfloat16 those are 0.52 GB of an expert's condition embedder and 0.1 GB of each of
    its layers, a seventh of it: the projections of the text, whose results are kept. Copies take about a second a video.
    """

    def __init__(self, transformers):
        self._transformers, self._whole, self._aside, self._device = transformers, [], [], HOST

    def begin(self, device):
        """A run begins on ``device``."""
        self._device, self._whole = device, [one for transformer in self._transformers for one in transformer.parameters()]

    def narrow(self, used_up=()):
        """Weights that are in no module any more are needed no more, nor those of ``used_up``, modules."""
        there = {id(one) for transformer in self._transformers for one in transformer.parameters()}
        self._set_aside([one for one in self._whole if id(one) not in there] + _parameters_of(used_up))

    def _set_aside(self, parameters):
        if self._device == HOST:
            return
        self._aside = [one for one in parameters if type(one.data) is torch.Tensor]  # quantized ones are of another type
        for one in self._aside:
            one.data = _moved(one.data, HOST)

    def load(self, expert):
        """The layers of ``expert``, a number, are to come to the device; the first one is there when this returns, in the order
        of the device's work."""

    def before(self, expert, layer):
        """``layer``, a number, of ``expert`` computes next."""

    def after(self, layer, then):
        """``layer`` has computed its last pass, and the next one is of the expert ``then``; None: of the same."""

    def end(self):
        """The run has ended."""
        for one in self._aside:
            one.data = _moved(one.data, self._device)
        self._aside, self._whole = [], []


class SwappedExperts(ResidentExperts):
    """One expert is on the device at a time, or parts of two.

    ``transformers``: the experts', with the stage's own layers. Their ``blocks`` are put on the host, and ``to(device)`` of a
    transformer moves all else from now on. Between ``begin`` and ``end`` the blocks' parameters are the shared memory, where only
    the loaded expert's are right; else they are the host's.
    """

    def __init__(self, transformers):
        super().__init__(transformers)
        self._layers = []  # for each expert, each layer: {name: (parameter, its weights)}
        for transformer in transformers:
            self._layers.append([
                {name: (parameter, _on_host(parameter.data)) for name, parameter in block.named_parameters()}
                for block in transformer.blocks
            ])
            transformer.blocks = _Staying(transformer.blocks)
        self._moved, self._memory, self._loaded, self._arrived, self._stream = self._layers, {}, [], [], None
        self.end()

    def begin(self, device):
        """Takes memory for one expert's layers on ``device``; none of them is loaded yet."""
        self._device = device
        self._stream = None if device.type == HOST.type else self._stream or torch.Stream(device)
        for blocks in self._layers:
            for layer, parameters in enumerate(blocks):
                for name, (parameter, weights) in parameters.items():
                    parameter.data = self._place(layer, name, weights, device)
        self._moved, self._loaded = self._layers, [None] * len(self._layers[0])
        self._arrived = [None] * len(self._layers[0])

    def narrow(self, used_up=()):
        """A run has replaced projections by their results: their weights are loaded no more."""
        self._set_aside(_parameters_of(used_up))
        self._moved = [
            [_still_there(*one) for one in zip(transformer.blocks, blocks)]
            for transformer, blocks in zip(self._transformers, self._layers)
        ]

    def load(self, expert):
        """Asks for all layers of ``expert`` that are not there or on their way, and waits for the first one."""
        for layer, loaded in enumerate(self._loaded):
            if loaded != expert:
                self._fetch(expert, layer)
        self._wait(0)

    def before(self, expert, layer):
        """Waits for the layer."""
        if self._loaded[layer] != expert:  # a run that is resumed begins without a LOAD
            self._fetch(expert, layer)
        self._wait(layer)

    def after(self, layer, then):
        """Asks for the layer of the expert that is next."""
        if then is not None:
            self._fetch(then, layer)

    def end(self):
        """Gives the memory back; the blocks' parameters are their weights again, on the host."""
        super().end()
        if self._stream is not None:
            self._stream.synchronize()  # a run that failed may have asked for a layer
        for parameter, weights in (pair for blocks in self._layers for parameters in blocks for pair in parameters.values()):
            parameter.data = weights
        self._memory = {}

    def _place(self, layer, name, weights, device):
        """The memory of a weight: the same for all experts that have it alike."""
        key = layer, name, weights.shape, weights.dtype
        if key not in self._memory:
            self._memory[key] = torch.empty_like(weights, device=device)
        return self._memory[key]

    def _fetch(self, expert, layer):
        """Copies behind all that the device was given so far: what was there is used no more then."""
        if self._stream is not None:
            self._stream.wait_stream(torch.accelerator.current_stream(self._stream.device))
        with nullcontext() if self._stream is None else self._stream:
            for parameter, weights in self._moved[expert][layer].values():
                parameter.data.copy_(weights, non_blocking=True)
            self._arrived[layer] = None if self._stream is None else self._stream.record_event()
        self._loaded[layer] = expert

    def _wait(self, layer):
        if self._arrived[layer] is not None:
            torch.accelerator.current_stream(self._stream.device).wait_event(self._arrived[layer])


def _moved(tensor, device):
    return tensor.to(device)


def _parameters_of(modules):
    return [one for module in modules for one in module.parameters()]


class _Staying(nn.ModuleList):
    """Blocks that stay where they are when their transformer is moved or cast."""

    def _apply(self, fn, recurse=True):
        return self


def _still_there(block, parameters):
    """Those of ``parameters`` that ``block`` still has."""
    own = dict(block.named_parameters())
    return {name: pair for name, pair in parameters.items() if own.get(name) is pair[0]}


def _on_host(weights):
    weights = weights.to(HOST)
    return weights.pin_memory() if torch.accelerator.is_available() else weights
