"""The next block's K/V, kept at xDiT's cache seam.

Knows: which tokens of a window are the next context of the pass after it. Must not know: the model, the
attention backend, or which parallelism runs around it.

xDiT's USP asks its cache manager for a layer's K/V after the Ulysses exchange and before attention
(xfuser/model_executor/layers/usp.py), so what is appended here is seen by every attention backend and by ring.
"""

from contextlib import contextmanager

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager

CACHE_TYPE = "dualparal_context"


class ContextCache:
    """Keeps, per layer, the K/V of a block's first C own latent frames until the pass that sees them.

    ``layers``: the self-attention modules of the stage. ``context_latents``: C. ``frame_tokens``: tokens of a
    latent frame on this rank. ``ulysses_degree``: after the exchange a rank holds that many stretches of
    tokens, each with all latent frames.
    """

    def __init__(self, layers, context_latents, frame_tokens, ulysses_degree=1):
        self._layers = list(layers)
        # A window is [C of the previous block | own], so the own first C frames are its frames C to 2C.
        self._first, self._last = context_latents * frame_tokens, 2 * context_latents * frame_tokens
        self._ulysses_degree = ulysses_degree
        self._kept = {}
        self._reading, self._keeping = {}, None

    @contextmanager
    def of_pass(self, reads, keeps):
        """While one pass runs: append what was kept under ``reads`` and keep this pass's own under ``keeps``.

        Both are any keys, or None. What is read is dropped afterwards: it has one reader.
        """
        self._reading = self._kept.pop(reads) if reads is not None and self._first else {}
        self._keeping = {} if keeps is not None and self._first else None
        yield
        if self._keeping is not None:
            self._kept[keeps] = self._keeping
        self._reading, self._keeping = {}, None

    def update(self, new_kv, layer, **_):
        """What attention sees for ``new_kv``, K and V, (batch, tokens, heads, head_dim) each: with the next context's
        appended where there is one."""
        if self._keeping is not None:
            self._keeping[layer] = [self._context_of(t) for t in new_kv]
        if layer not in self._reading:
            return new_kv
        return [torch.cat(pair, dim=1) for pair in zip(new_kv, self._reading[layer])]

    def _context_of(self, tokens):
        stretches = tokens.unflatten(1, (self._ulysses_degree, -1))
        # A copy, so that the whole window's K/V is not kept alive by its slice.
        return stretches[:, :, self._first:self._last].flatten(1, 2).clone()

    @contextmanager
    def installed(self):
        """While active, xDiT's cache manager asks this one for its layers."""
        manager = get_cache_manager()
        manager.register_cache_type(CACHE_TYPE, self.update)
        for layer in self._layers:
            manager.register_cache_entry(layer, "attn", CACHE_TYPE)
        try:
            yield self
        finally:
            manager.unregister_cache_type(CACHE_TYPE)
