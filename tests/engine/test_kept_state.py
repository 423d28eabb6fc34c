"""Kept K/V of all ranks as one, and cut again."""

from itertools import product
from queue import Queue

import pytest
import torch

from xdualparal.engine.kept_state import KeptState, Place
from xdualparal.plan.actions import Pass
from xdualparal.plan.passes import KVKey

KEYS = [KVKey(Pass(0, 1, 2), "tail"), KVKey(Pass(0, 2, 1), "tail")]
LAYERS, FRAMES, TOKENS, HEADS = 4, 3, 8, 4


class Mesh:
    """A rank of a replica whose ranks run one after the other, the output rank last (gather) or first (spread)."""

    def __init__(self, rank, places, queues):
        self.ranks, self.rank, self._places, self._queues = list(range(len(places))), rank, places, queues
        self.is_output = rank == len(places) - 1

    def gather_objects(self, value):
        return self._places if self.is_output else None

    def send(self, value, rank):
        self._queues[self.rank, rank].put(value)

    def receive(self, rank):
        return self._queues[rank, self.rank].get(timeout=5)


def whole(key, branch):
    """For each layer K and V, tokens and a number a head."""
    generator = torch.Generator().manual_seed(100 * key.one.block + branch)
    return [
        [[torch.randn(1, FRAMES, TOKENS, HEADS, 5, generator=generator), torch.randn(1, 1, HEADS, 1, generator=generator)] for _ in range(2)]
        for _ in range(LAYERS)
    ]


def places_of(stages, ulysses, ring, guidance_ranks):
    """The Places of all ranks in xDiT's order; layers are split unevenly."""
    layers = {1: (4,), 2: (3, 1), 4: (1, 1, 1, 1)}[stages]
    return [
        Place(count, TOKENS // (ulysses * ring), (u, ulysses), (r, ring), (0, 1) if guidance_ranks == 1 else (branch,))
        for branch, count, r, u in product(range(guidance_ranks), layers, range(ring), range(ulysses))
    ]


def equal(one, other):
    """Whether two whole states have equal tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(map(equal, one, other))


@pytest.mark.parametrize("degrees", list(product((1, 2, 4), (1, 2), (1, 2), (1, 2))))
def test_spread_and_gathered_it_is_the_same(degrees):
    places, states = places_of(*degrees), {key: {branch: whole(key, branch) for branch in (0, 1)} for key in KEYS}
    queues = {pair: Queue() for pair in product(range(len(places)), repeat=2)}
    ranks = [KeptState(Mesh(rank, places, queues), place) for rank, place in enumerate(places)]
    kept = [{} for _ in ranks]
    for number in reversed(range(len(ranks))):
        ranks[number].spread(KEYS, states, lambda key, branch, packed, own=kept[number]: own.update({(key, branch): packed}))
    assert all(len(layers) == place.layers for place, own in zip(places, kept) for layers in own.values())
    for own, rank in zip(kept, ranks):
        result = rank.gather(KEYS, lambda key, branch, own=own: own[key, branch])
        rank.finish()
    assert list(result) == KEYS and all(equal(result[key][branch], states[key][branch]) for key in KEYS for branch in (0, 1))


def test_a_ranks_part_is_in_the_order_of_ulysses_exchange():
    """Rank (ring 1 of 2, Ulysses 1 of 2) has the second half of the heads, and of each frame the tokens of the last two of 4 shards,
    one shard's of all frames after the other's."""
    places, state = places_of(1, 2, 2, 1), whole(KEYS[0], 0)
    queues = {pair: Queue() for pair in product(range(4), repeat=2)}
    kept = {}
    last = KeptState(Mesh(3, places, queues), places[3])
    last.spread(KEYS[:1], {KEYS[0]: {0: state, 1: state}}, lambda key, branch, packed: kept.update({branch: packed}))
    tokens, numbers = kept[0][2][1]
    of_whole = state[2][1][0]
    wanted = torch.cat([of_whole[:, frame, first:first + 2, 2:] for first in (4, 6) for frame in range(FRAMES)], dim=1)
    assert torch.equal(tokens, wanted) and torch.equal(numbers, state[2][1][1][:, :, 2:])
