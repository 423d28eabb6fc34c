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


def spec(reads=(), keeps=(), drops=None, reads_before=0):
    """A spec of which only the K/V matter. ``keeps``: (key, first frame, frames)."""
    drops = reads if drops is None else drops
    return PassSpec((), range(0), 0, (0,), (0,), reads, tuple(Kept(*one) for one in keeps), drops, reads_before=reads_before)


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


def test_what_is_earlier_stands_before_the_window():
    cache = ContextStore([LAYER], frame_tokens=1)
    with cache.during(spec(keeps=[(NEWER, 0, 1), (OLDER, 2, 1)]), 0):
        seen(cache, tokens(3, 1))
    with cache.during(spec(reads=(OLDER, NEWER), reads_before=1), 0):
        assert seen(cache, tokens(3, 1) + 10)[0] == [2.0, 10.0, 11.0, 12.0, 0.0]


def joined_by(cache, layer, frames, reads):
    """What USP would hand to attention for random K and V of ``layer``, and the concatenation that it must be."""
    generator = torch.Generator().manual_seed(frames)
    key, value = (torch.randn(1, frames, 3, 5, generator=generator) for _ in range(2))
    read = [cache._kept[name, 0][layer] for name in reads]
    wanted = [torch.cat([own, *(pair[n].packed()[0] for pair in read)], dim=1) for n, own in enumerate((key, value))]
    with cache.during(spec(reads=reads, drops=()), 0):
        return cache.extend(layer, key, value), wanted


def test_window_and_context_are_written_once_into_memory_that_all_layers_share():
    """Windows of several lengths; USP's transpose and contiguous() of it copy nothing."""
    cache = ContextStore([LAYER, OTHER], frame_tokens=1)
    with cache.during(spec(keeps=[(NEWER, 0, 2), (OLDER, 1, 1)]), 0):
        for layer in (LAYER, OTHER):
            cache.extend(layer, *torch.randn(2, 1, 4, 3, 5))
    addresses = []
    for frames, reads in ((6, (NEWER, OLDER)), (2, (NEWER,)), (5, (OLDER,))):
        for layer in (LAYER, OTHER):
            given, wanted = joined_by(cache, layer, frames, reads)
            assert all(map(torch.equal, given, wanted))
            assert all(one.transpose(1, 2).is_contiguous() for one in given)
            addresses.append(tuple(one.data_ptr() for one in given))
    assert len(set(addresses)) == 1 and len(set(addresses[0])) == 2


def test_memory_grows_with_the_longest_window():
    cache = ContextStore([LAYER], frame_tokens=1)
    with cache.during(spec(keeps=[(NEWER, 0, 1)]), 0):
        cache.extend(LAYER, *torch.randn(2, 1, 4, 3, 5))
    for frames in (2, 9, 3):
        given, wanted = joined_by(cache, LAYER, frames, (NEWER,))
        assert all(map(torch.equal, given, wanted))
    assert [joined._memory.numel() for joined in cache._joined] == [10 * 3 * 5] * 2


def test_a_layers_old_context_goes_before_its_new_one_comes():
    cache = ContextStore([LAYER, OTHER], frame_tokens=1)
    with cache.during(spec(keeps=[(NEWER, 0, 1)]), 0):
        for layer in (LAYER, OTHER):
            cache.extend(layer, *torch.randn(2, 1, 4, 3, 5))
    with cache.during(spec(reads=(NEWER,), keeps=[(OLDER, 0, 1)]), 0):
        cache.extend(LAYER, *torch.randn(2, 1, 4, 3, 5))
        assert list(cache._kept[NEWER, 0]) == [OTHER] and list(cache._kept[OLDER, 0]) == [LAYER]
        cache.extend(OTHER, *torch.randn(2, 1, 4, 3, 5))
    assert set(cache._kept) == {(OLDER, 0)}


def test_what_is_kept_holds_no_more_memory_than_its_frames():
    cache = ContextStore([LAYER], frame_tokens=2, ulysses_degree=2)
    with cache.during(spec(keeps=[(NEWER, 1, 1)]), 0):
        cache.extend(LAYER, *torch.randn(2, 1, 16, 3, 5))
    assert [one.packed()[0].untyped_storage().nbytes() for one in cache._kept[NEWER, 0][LAYER]] == [4 * 3 * 5 * 4] * 2


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
