"""K/V of passes that run on other ranks at the same time, at xDiT's cache seam, and attention over several scopes.

Knows: where a latent frame's tokens are in K and V, and how attention over sets of keys is merged. Must not know: the model, which
frames a strategy wants, or how a message travels.

As soon as xDiT's USP asks its cache manager for a layer's K/V (engine/context_store.py), those that others need leave. While they
travel, attention over the own keys is computed; then attention over each scope's keys, with the same queries. Attention over the
union of all keys follows exactly from the parts and the logarithms of the sums of their exponentials (LSE): part p has the
share exp(LSE_p + bias_p) of the sum, where a bias on the logits of all its keys is that on its LSE. So there is no mask, and any dense
backend that gives the LSE will do (compat/backends.py).
"""

from contextlib import contextmanager
from functools import lru_cache

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager
from xfuser.core.distributed import get_runtime_state
from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY

CACHE_TYPE = "dualparal_exchange"


class ExchangeStore:
    """What a clip's self-attention sees of the other clips.

    ``layers``: the self-attention modules. ``frame_tokens``, ``ulysses_degree``: see ContextStore. ``link``: starts an exchange and
    ends it, see clips.Link. ``frames``: {lane: (frames that it gets, frames that come from it)}, see ClipsPlan.exchange.
    """

    def __init__(self, layers, frame_tokens, ulysses_degree, link, frames):
        self._layers, self._frame_tokens, self._ulysses_degree = list(layers), frame_tokens, ulysses_degree
        self._link, self._frames = link, frames
        self._spec = self._own = None  # of the pass, and of the layer whose attention comes next
        self._places = lru_cache(maxsize=None)(_places)  # on the device once, not in each layer

    @contextmanager
    def during(self, spec, branch):
        """While the pass of ``spec`` runs: attend to its scopes."""
        self._spec = spec
        yield
        self._link.finish()
        self._spec = None

    def extend(self, layer, key, value):
        """K and V of ``layer``, (batch, tokens, heads, head_dim), as they are; what others need of them leaves."""
        self._own = [self._by_frame(one) for one in (key, value)]
        to_send = {lane: self._message(sent) for lane, (sent, _) in self._frames.items() if sent}
        to_come = {lane: self._shape(len(received)) for lane, (_, received) in self._frames.items() if received}
        self._link.start(to_send, to_come, key.dtype)
        return [key, value]

    def _by_frame(self, tokens):
        """(batch, stretches, frames, tokens of a frame, heads, head_dim)."""
        return tokens.unflatten(1, (self._ulysses_degree, -1, self._frame_tokens))

    def _message(self, frames):
        """K and V of own ``frames``, numbers in the video, (2, batch, stretches, frames, ...)."""
        return torch.stack([self._taken(one, frames, self._spec.position) for one in self._own])

    def _shape(self, count):
        batch, stretches, _, *rest = self._own[0].shape
        return (2, batch, stretches, count, *rest)

    def _taken(self, by_frame, frames, first):
        return by_frame.index_select(2, self._places(tuple(frame - first for frame in frames), by_frame.device))

    def attend(self, attention, query, key, value, *args, **kwargs):
        """The output of ``attention``, a backend's function, over the own keys and the scopes', and None for its LSE.
        (batch, heads, tokens, head_dim) all."""
        self._own, own = None, self._own
        parts = [(*attention(query, key, value, *args, **kwargs)[:2], 0.0)]
        come = self._link.take()  # {lane: as _message}
        for scope in self._spec.scopes:
            keys, values = self._of_scope(scope, own, come)
            parts.append((*attention(query, keys, values, *args, **kwargs)[:2], scope.bias))
        return merge_attention(parts), None

    def _of_scope(self, scope, own, come):
        """K and V of the frames of ``scope``, (batch, heads, tokens, head_dim), lane after lane."""
        spec, wanted = self._spec, set(scope.frames)
        mine = [frame for frame in scope.frames if spec.position <= frame < spec.position + spec.window_latents]
        parts = [[self._taken(one, mine, spec.position) for one in own]] if mine else []
        for lane, message in come.items():
            places = tuple(place for place, frame in enumerate(self._frames[lane][1]) if frame in wanted)
            if places:
                parts.append(message.index_select(3, self._places(places, message.device)))
        return [torch.cat(one, dim=2).flatten(1, 3).transpose(1, 2).contiguous() for one in zip(*parts)]

    @contextmanager
    def installed(self):
        """While active, xDiT's cache manager tells this store of its layers' K/V, and the attention that follows asks it."""
        manager, backend = get_cache_manager(), get_runtime_state().attention_backend
        attention = ATTENTION_FUNCTION_REGISTRY[backend]

        def attended(*args, **kwargs):  # by cross-attention, too
            return attention(*args, **kwargs) if self._own is None else self.attend(attention, *args, **kwargs)

        manager.register_cache_type(CACHE_TYPE, lambda new_kv, layer, **_: self.extend(layer, *new_kv))
        for layer in self._layers:
            manager.register_cache_entry(layer, "attn", CACHE_TYPE)
        ATTENTION_FUNCTION_REGISTRY[backend] = attended
        try:
            yield self
        finally:
            ATTENTION_FUNCTION_REGISTRY[backend] = attention
            manager.unregister_cache_type(CACHE_TYPE)


def _places(numbers, device):
    return torch.tensor(numbers, device=device)


def merge_attention(parts):
    """Attention over the union of the keys of ``parts``: [(output (batch, heads, queries, head_dim), LSE (batch, heads, at least as
    many queries), bias)], where a bias is added to all logits of a part. In float32, returned in the outputs' dtype."""
    outputs, sums, biases = zip(*parts)
    queries = outputs[0].shape[2]
    shares = torch.stack([one[..., :queries].float() + bias for one, bias in zip(sums, biases)]).softmax(dim=0)
    return sum(share[..., None] * output.float() for share, output in zip(shares, outputs)).to(outputs[0].dtype)
