"""K/V that outlast their pass, at xDiT's cache seam."""

import torch
from xfuser.core.cache_manager.cache_manager import get_cache_manager

from xdualparal.engine.context_store import ContextStore
from xdualparal.plan.actions import Pass
from xdualparal.plan.passes import Kept, KVKey, PassSpec
from xdualparal.compat.backports import complete_xfuser

complete_xfuser()
LAYER, OTHER = object(), object()
NEWER, OLDER = KVKey(Pass(0, 2, 0), "head"), KVKey(Pass(0, 1, 1), "head")


def spec(reads=(), keeps=(), drops=None):
    """A spec of which only the K/V matter. ``keeps``: (key, first frame, frames)."""
    drops = reads if drops is None else drops
    return PassSpec((), range(0), 0, (0,), reads, tuple(Kept(*one) for one in keeps), drops)


def tokens(frames, per_frame, stretches=1):
    """(1, tokens, 1, 1): each token's value is its frame; ``stretches`` times all frames, one after the other."""
    return torch.arange(frames).repeat_interleave(per_frame).repeat(stretches).float().view(1, -1, 1, 1)


def seen(cache, new, layer=LAYER):
    """What attention sees for ``new``, as a list of numbers, for K and V."""
    with cache.installed():
        return [x.flatten().tolist() for x in get_cache_manager().update_and_get_kv_cache([new, new + 100], layer)]


def test_own_first_frames_are_what_the_next_pass_reads():
    cache, window = ContextStore([LAYER], frame_tokens=3), tokens(6, 3)
    plain = window.flatten().tolist()
    with cache.during(spec(keeps=[(NEWER, 2, 2)]), 0):
        assert seen(cache, window)[0] == plain
    with cache.during(spec(reads=(NEWER,)), 0):
        keys, values = seen(cache, window)
    # the window is [2 of the previous block | 4 own]: the own first two are frames 2 and 3
    assert keys == plain + [2.0] * 3 + [3.0] * 3
    assert values == [k + 100 for k in keys]
    assert not cache._kept  # read once, then dropped


def test_ulysses_stretches():
    cache = ContextStore([LAYER], frame_tokens=2, ulysses_degree=2)
    with cache.during(spec(keeps=[(NEWER, 1, 1)]), 0):
        seen(cache, tokens(4, 2, stretches=2))
    with cache.during(spec(reads=(NEWER,)), 0):
        keys, _ = seen(cache, tokens(4, 2, stretches=2))
    assert keys[16:] == [1.0, 1.0, 1.0, 1.0]  # frame 1 of both stretches


def test_what_is_kept_is_a_copy():
    cache, window = ContextStore([LAYER], frame_tokens=1), tokens(3, 1)
    with cache.during(spec(keeps=[(NEWER, 1, 1)]), 0):
        seen(cache, window)
    window.fill_(-1)
    with cache.during(spec(reads=(NEWER,), keeps=[(OLDER, 1, 1)]), 0):
        assert seen(cache, tokens(3, 1))[0] == [0.0, 1.0, 2.0, 1.0]


def test_branches_have_their_own():
    cache = ContextStore([LAYER], frame_tokens=1)
    for branch in (0, 1):
        with cache.during(spec(keeps=[(NEWER, 1, 1)]), branch):
            seen(cache, tokens(3, 1) + 10 * branch)
    for branch in (1, 0):
        with cache.during(spec(reads=(NEWER,)), branch):
            assert seen(cache, tokens(3, 1))[0][3:] == [1.0 + 10 * branch]
    assert not cache._kept


def test_what_is_not_dropped_stays_and_several_are_read_in_order():
    """As for a context that lives longer than a wave."""
    cache = ContextStore([LAYER], frame_tokens=1)
    with cache.during(spec(keeps=[(NEWER, 0, 1), (OLDER, 2, 1)]), 0):
        seen(cache, tokens(3, 1))
    for drops in ((), (NEWER, OLDER)):
        with cache.during(spec(reads=(OLDER, NEWER), drops=drops), 0):
            assert seen(cache, tokens(3, 1))[0] == [0.0, 1.0, 2.0, 2.0, 0.0]
    assert not cache._kept


def test_serves_its_own_layers_and_leaves_as_it_came():
    manager, cache = get_cache_manager(), ContextStore([LAYER], 1)
    with cache.installed():
        assert manager.has_cache_entry(LAYER) and not manager.has_cache_entry(OTHER)
    assert not manager.has_cache_entry(LAYER)


def test_xdits_own_cache_types_are_as_before():
    manager = get_cache_manager()
    with ContextStore([LAYER], 1).installed():
        manager.register_cache_entry(OTHER, "attn")
        key, value = manager.update_and_get_kv_cache([tokens(3, 1), tokens(3, 1) + 100], OTHER)
    assert torch.equal(key, tokens(3, 1)) and torch.equal(value, tokens(3, 1) + 100)
    del manager.cache["attn", OTHER]
