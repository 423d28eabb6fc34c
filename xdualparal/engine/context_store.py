"""K/V that outlast their pass, at xDiT's cache seam.

Knows: a pass's spec, and where a latent frame's tokens are in K and V. Must not know: the model, the attention backend, which
parallelism runs around it, or which K/V a strategy wants.

xDiT's USP asks its cache manager for a layer's K/V after the Ulysses exchange and before attention
(xfuser/model_executor/layers/usp.py), so what is appended here is seen by every attention backend and by ring.

Window and context are written once, into memory that all layers share: one layer's K/V of both, and no copy of it, is there
at a time. What is kept for the next pass is a copy for each layer; a layer's old one goes before its new one comes. What lasts for
waves may be in other numbers and another memory (kept_kv.py).
"""

from contextlib import contextmanager

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager

from ..plan.waiting import AHEAD
from .kept_kv import DeviceShelf, Kept, exact

CACHE_TYPE = "dualparal_context"


class ContextStore:
    """Keeps, per layer and guidance branch, the K/V that specs name, until the pass that reads them for the last time.

    ``layers``: the self-attention modules of the stage. ``frame_tokens``: tokens of a latent frame on this rank.
    ``ulysses_degree``: after the exchange a rank holds that many stretches of tokens, each with all latent frames.
    ``lasting``: (Format, shelf) of what lasts for waves, see kept_kv.py. ``move``: see base.Family.moved, without its first argument.
    """

    def __init__(self, layers, frame_tokens, ulysses_degree=1, lasting=None, move=None):
        self._move, self._moves = move, ()
        self._layers, self._frame_tokens, self._ulysses_degree = list(layers), frame_tokens, ulysses_degree
        self._short = exact(), DeviceShelf()
        self._lasting = lasting or self._short
        self._kept = {}  # (KVKey, branch): {layer: [K, V] as kept_kv.Kept}, layers in the order of computing
        # Of the pass under way: ({layer: [K, V]}, whether it is dropped), how many of those are before the window; ({layer: [K, V]},
        # its layers whose pairs are to be asked for, in order); (plan.passes.Kept, {layer: [K, V]}).
        self._reading, self._before, self._coming, self._keeping = [], 0, [], []
        self._joined = _Joined(), _Joined()

    @contextmanager
    def during(self, spec, branch):
        """While the pass of ``spec`` runs for ``branch``: append what it reads, and keep what it keeps."""
        self._reading = [(self._kept[key, branch], key in spec.drops) for key in spec.reads]
        self._moves, self._before, self._coming = spec.moves, spec.reads_before, [(by_layer, iter(list(by_layer))) for by_layer, _ in self._reading]
        for _ in range(AHEAD):
            self._ask_for_next()
        self._keeping = [(kept, self._kept.setdefault((kept.key, branch), {})) for kept in spec.keeps]
        yield
        for key in spec.drops:
            del self._kept[key, branch]
        self._reading, self._coming, self._keeping = [], [], []

    def _ask_for_next(self):
        for by_layer, layers in self._coming:  # layers, not their pairs: what is dropped must make room
            for one in by_layer.get(next(layers, None), ()):
                one.ask()

    def extend(self, layer, key, value):
        """What attention sees for K and V, (batch, tokens, heads, head_dim) each, of ``layer``: with the K/V that the pass
        reads before and behind them. Their memory is the next layer's, too: attention must be done with it by then."""
        seen = [key, value]
        if self._reading:
            self._ask_for_next()
            seen = self._with_what_is_read(layer, seen)
        for kept, by_layer in self._keeping:  # after the reading: what was dropped makes room
            format, shelf = self._lasting if kept.lasts else self._short
            by_layer[layer] = [Kept(format.pack(self._frames(tokens, kept)), format, shelf) for tokens in (key, value)]
        return seen

    def _with_what_is_read(self, layer, own):
        pairs = [by_layer[layer] for by_layer, _ in self._reading]
        seen = [
            joined.fill([pair[n] for pair in pairs[:self._before]], one, [pair[n] for pair in pairs[self._before:]])
            for n, (one, joined) in enumerate(zip(own, self._joined))
        ]
        first = 0
        for latents, (keys, _) in zip(self._moves, pairs):
            place = seen[0][:, first:first + keys.count]
            place.copy_(self._move(place, latents))
            first += keys.count
        for by_layer, is_last in self._reading:
            for one in by_layer.pop(layer) if is_last else ():
                one.drop()
        return seen

    def _frames(self, tokens, kept):
        """A copy of the kept frames' tokens, so that the whole window's K/V is not kept alive by its slice."""
        stretches = tokens.unflatten(1, (self._ulysses_degree, -1))
        first, last = (frame * self._frame_tokens for frame in (kept.first, kept.first + kept.count))
        frames = stretches[:, :, first:last]
        return torch.empty_like(frames, memory_format=torch.contiguous_format).copy_(frames).flatten(1, 2)

    def kept(self, key, branch):
        """For each layer, in the order of computing, the packed tensors of K and of V, on the CPU: copies of what lasts."""
        return [
            [[part.to("cpu", copy=True) for part in one.packed()] for one in pair] for pair in self._kept[key, branch].values()
        ]

    def restore(self, key, branch, layers, packed, device):
        """Keeps for ``layers`` what ``kept`` gave."""
        format, shelf = self._lasting
        self._kept[key, branch] = {
            layer: [Kept([part.to(device) for part in parts], format, shelf) for parts in pair] for layer, pair in zip(layers, packed, strict=True)
        }

    @contextmanager
    def installed(self):
        """While active, xDiT's cache manager asks this store for its layers."""
        manager = get_cache_manager()
        manager.register_cache_type(CACHE_TYPE, lambda new_kv, layer, **_: self.extend(layer, *new_kv))
        for layer in self._layers:
            manager.register_cache_entry(layer, "attn", CACHE_TYPE)
        try:
            yield self
        finally:
            manager.unregister_cache_type(CACHE_TYPE)


class _Joined:
    """Memory for one layer's K or V of window and context, used again by all layers and passes; as large as the largest."""

    def __init__(self):
        self._memory = torch.empty(0)

    def fill(self, before, own, behind):
        """``own``, (batch, tokens, heads, head_dim), with what waits (kept_kv.Kept) before and behind it along tokens. Heads come
        before tokens in memory, as attention wants them: USP's ``contiguous()`` then copies nothing."""
        batch, own_tokens, heads, dim = own.shape
        tokens = [*(one.count for one in before), own_tokens, *(one.count for one in behind)]
        numbers = batch * heads * sum(tokens) * dim
        if self._memory.numel() < numbers or (self._memory.dtype, self._memory.device) != (own.dtype, own.device):
            self._memory = torch.empty(0)  # frees the old one before there is a new one
            self._memory = torch.empty(numbers, dtype=own.dtype, device=own.device)
        joined = self._memory[:numbers].view(batch, heads, sum(tokens), dim).transpose(1, 2)
        places = list(joined.split(tokens, dim=1))
        places.pop(len(before)).copy_(own)
        for place, one in zip(places, [*before, *behind]):
            one.write(place)
        return joined
