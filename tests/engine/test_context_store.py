"""The next block's K/V at xDiT's cache seam."""

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager

from xdualparal.engine.context_store import ContextCache
from xdualparal.plan.schedule import parse_action
from xdualparal.compat.backports import complete_xfuser

complete_xfuser()
LAYER, OTHER = object(), object()
NEWER, OLDER = parse_action("0F2.0"), parse_action("0F1.1")


def tokens(frames, per_frame, stretches=1):
    """(1, tokens, 1, 1): each token's value is its frame; ``stretches`` times all frames, one after the other."""
    return torch.arange(frames).repeat_interleave(per_frame).repeat(stretches).float().view(1, -1, 1, 1)


def seen(cache, new, layer=LAYER):
    """What attention sees for ``new``, as a list of numbers, for K and V."""
    with cache.installed():
        return [x.flatten().tolist() for x in get_cache_manager().update_and_get_kv_cache([new, new + 100], layer)]


def test_own_first_frames_are_what_the_next_pass_reads():
    cache, window = ContextCache([LAYER], context_latents=2, frame_tokens=3), tokens(6, 3)
    plain = window.flatten().tolist()
    with cache.of_pass(reads=None, keeps=NEWER):
        assert seen(cache, window)[0] == plain
    with cache.of_pass(reads=NEWER, keeps=None):
        keys, values = seen(cache, window)
    # the window is [2 of the previous block | 4 own]: the own first two are frames 2 and 3
    assert keys == plain + [2.0] * 3 + [3.0] * 3
    assert values == [k + 100 for k in keys]
    assert not cache._kept  # read once, then dropped


def test_ulysses_stretches():
    cache = ContextCache([LAYER], context_latents=1, frame_tokens=2, ulysses_degree=2)
    with cache.of_pass(None, NEWER):
        seen(cache, tokens(4, 2, stretches=2))
    with cache.of_pass(NEWER, None):
        keys, _ = seen(cache, tokens(4, 2, stretches=2))
    assert keys[16:] == [1.0, 1.0, 1.0, 1.0]  # frame 1 of both stretches


def test_what_is_kept_is_a_copy():
    cache, window = ContextCache([LAYER], context_latents=1, frame_tokens=1), tokens(3, 1)
    with cache.of_pass(None, NEWER):
        seen(cache, window)
    window.fill_(-1)
    with cache.of_pass(NEWER, OLDER):
        assert seen(cache, tokens(3, 1))[0] == [0.0, 1.0, 2.0, 1.0]


def test_no_context_keeps_nothing():
    cache = ContextCache([LAYER], context_latents=0, frame_tokens=4)
    with cache.of_pass(None, NEWER):
        seen(cache, tokens(3, 4))
    with cache.of_pass(NEWER, None):
        assert len(seen(cache, tokens(3, 4))[0]) == 12
    assert not cache._kept


def test_serves_its_own_layers_and_leaves_as_it_came():
    manager, cache = get_cache_manager(), ContextCache([LAYER], 1, 1)
    with cache.installed():
        assert manager.has_cache_entry(LAYER) and not manager.has_cache_entry(OTHER)
    assert not manager.has_cache_entry(LAYER)


def test_xdits_own_cache_types_are_as_before():
    manager = get_cache_manager()
    with ContextCache([LAYER], 1, 1).installed():
        manager.register_cache_entry(OTHER, "attn")
        key, value = manager.update_and_get_kv_cache([tokens(3, 1), tokens(3, 1) + 100], OTHER)
    assert torch.equal(key, tokens(3, 1)) and torch.equal(value, tokens(3, 1) + 100)
    del manager.cache["attn", OTHER]
