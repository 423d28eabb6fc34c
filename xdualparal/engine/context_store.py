"""K/V that outlast their pass, at xDiT's cache seam.

Knows: a pass's spec, and where a latent frame's tokens are in K and V. Must not know: the model, the attention backend, which
parallelism runs around it, or which K/V a strategy wants.

xDiT's USP asks its cache manager for a layer's K/V after the Ulysses exchange and before attention
(xfuser/model_executor/layers/usp.py), so what is appended here is seen by every attention backend and by ring.
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
        self._reading, self._keeping = [], []

    @contextmanager
    def during(self, spec, branch):
        """While the pass of ``spec`` runs for ``branch``: append what it reads, and keep what it keeps."""
        self._reading = [self._kept[key, branch] for key in spec.reads]
        self._keeping = [(kept, self._kept.setdefault((kept.key, branch), {})) for kept in spec.keeps]
        yield
        for key in spec.drops:
            del self._kept[key, branch]
        self._reading, self._keeping = [], []

    def extend(self, layer, key, value):
        """What attention sees for K and V, (batch, tokens, heads, head_dim) each, of ``layer``: with the K/V that the pass
        reads behind them."""
        for kept, by_layer in self._keeping:
            by_layer[layer] = [self._frames(tokens, kept) for tokens in (key, value)]
        if not self._reading:
            return [key, value]
        read = [by_layer[layer] for by_layer in self._reading]
        return [torch.cat([own, *(pair[n] for pair in read)], dim=1) for n, own in enumerate((key, value))]

    def _frames(self, tokens, kept):
        stretches = tokens.unflatten(1, (self._ulysses_degree, -1))
        first, last = (frame * self._frame_tokens for frame in (kept.first, kept.first + kept.count))
        # A copy, so that the whole window's K/V is not kept alive by its slice.
        return stretches[:, :, first:last].flatten(1, 2).clone()

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
