"""K/V that outlast their pass, at xDiT's cache seam.

Knows: a pass's spec, and where a latent frame's tokens are in K and V. Must not know: the model, the attention backend, which
parallelism runs around it, or which K/V a strategy wants.

xDiT's USP asks its cache manager for a layer's K/V after the Ulysses exchange and before attention
(xfuser/model_executor/layers/usp.py), so what is appended here is seen by every attention backend and by ring.

Window and context are written once, into memory that all layers share: one layer's K/V of both, and no copy of it, is there
at a time. What is kept for the next pass is a copy for each layer; a layer's old one goes before its new one comes.
"""

from contextlib import contextmanager

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager

CACHE_TYPE = "dualparal_context"


class ContextStore:
    """Keeps, per layer and guidance branch, the K/V that specs name, until the pass that reads them for the last time.

    ``layers``: the self-attention modules of the stage. ``frame_tokens``: tokens of a latent frame on this rank.
    ``ulysses_degree``: after the exchange a rank holds that many stretches of tokens, each with all latent frames.
    """

    def __init__(self, layers, frame_tokens, ulysses_degree=1):
        self._layers, self._frame_tokens, self._ulysses_degree = list(layers), frame_tokens, ulysses_degree
        self._kept = {}  # (KVKey, branch): {layer: [K, V]}
        # Of the pass under way: ({layer: [K, V]}, whether it is dropped), how many of those are before the window; (Kept, ...).
        self._reading, self._before, self._keeping = [], 0, []
        self._joined = _Joined(), _Joined()

    @contextmanager
    def during(self, spec, branch):
        """While the pass of ``spec`` runs for ``branch``: append what it reads, and keep what it keeps."""
        self._reading = [(self._kept[key, branch], key in spec.drops) for key in spec.reads]
        self._before = spec.reads_before
        self._keeping = [(kept, self._kept.setdefault((kept.key, branch), {})) for kept in spec.keeps]
        yield
        for key in spec.drops:
            del self._kept[key, branch]
        self._reading, self._keeping = [], []

    def extend(self, layer, key, value):
        """What attention sees for K and V, (batch, tokens, heads, head_dim) each, of ``layer``: with the K/V that the pass
        reads before and behind them. Their memory is the next layer's, too: attention must be done with it by then."""
        seen = [key, value]
        if self._reading:
            read = [by_layer.pop(layer) if is_last else by_layer[layer] for by_layer, is_last in self._reading]
            seen = [
                joined.fill([*(pair[n] for pair in read[:self._before]), own, *(pair[n] for pair in read[self._before:])])
                for n, (own, joined) in enumerate(zip(seen, self._joined))
            ]
        for kept, by_layer in self._keeping:  # after the reading: what was dropped makes room
            by_layer[layer] = [self._frames(tokens, kept) for tokens in (key, value)]
        return seen

    def _frames(self, tokens, kept):
        """A copy of the kept frames' tokens, so that the whole window's K/V is not kept alive by its slice."""
        stretches = tokens.unflatten(1, (self._ulysses_degree, -1))
        first, last = (frame * self._frame_tokens for frame in (kept.first, kept.first + kept.count))
        frames = stretches[:, :, first:last]
        return torch.empty_like(frames, memory_format=torch.contiguous_format).copy_(frames).flatten(1, 2)

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

    def fill(self, parts):
        """``parts``, (batch, tokens, heads, head_dim) each, one behind the other along tokens. Heads come before tokens in
        memory, as attention wants them: USP's ``contiguous()`` then copies nothing."""
        batch, _, heads, dim = parts[0].shape
        tokens = [part.shape[1] for part in parts]
        numbers = batch * heads * sum(tokens) * dim
        if self._memory.numel() < numbers or (self._memory.dtype, self._memory.device) != (parts[0].dtype, parts[0].device):
            self._memory = torch.empty(0)  # frees the old one before there is a new one
            self._memory = torch.empty(numbers, dtype=parts[0].dtype, device=parts[0].device)
        joined = self._memory[:numbers].view(batch, heads, sum(tokens), dim).transpose(1, 2)
        for place, part in zip(joined.split(tokens, dim=1), parts):
            place.copy_(part)
        return joined
