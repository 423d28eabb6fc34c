"""Kept K/V of all ranks as one, so that a run can be resumed with other degrees; and cut for the ranks again.

Knows: how stages, guidance branches, Ulysses and ring cut K/V. Must not know: files, waves, attention, or which K/V are kept.

Whole: for each key and guidance branch a list of the layers of its expert, each with K and V; each of those a list of tensors as
engine/kept_kv packs them: tokens as (1, latent frames, tokens of a frame, heads, head_dim), and what has a number a head,
(1, 1, heads, 1).
"""

import threading
from typing import NamedTuple

import torch


class Place(NamedTuple):
    """What a rank has of K/V. ``layers``: how many of an expert. ``frame_tokens``: before Ulysses' exchange. ``ulysses``: (its part of the heads, of how many). ``ring``: (its part
    of each frame's tokens, of how many). ``branches``: numbers of the guidance branches that it computes."""

    layers: int
    frame_tokens: int
    ulysses: tuple[int, int]
    ring: tuple[int, int]
    branches: tuple[int, ...]


class KeptState:
    """Brings kept K/V to the replica's output rank and back.

    ``mesh``: the run's. ``place``: of this rank. Every rank of the replica must make it, and call ``gather`` and ``spread`` with the
    same keys as the others.
    """

    def __init__(self, mesh, place):
        self._mesh, self._place, self._sending = mesh, place, None
        places = mesh.gather_objects(place)
        self._places = dict(zip(mesh.ranks, places)) if places else {}

    def gather(self, keys, kept):
        """{key: {branch: whole}} of ``keys`` on the output rank; None on the others, which go on while it travels. ``kept(key, number)``:
        what ContextStore.kept gives for a branch, by its number on this rank."""
        own = {(key, branch): kept(key, number) for key in keys for number, branch in enumerate(self._place.branches)}
        if not self._mesh.is_output:
            self.finish()
            self._sending = threading.Thread(target=self._send, args=(own,), daemon=True)
            self._sending.start()
            return None
        states = {}
        for key in keys:
            parts = {rank: self._received(rank, key, own) for rank in self._places}
            branches = {branch for place in self._places.values() for branch in place.branches}
            states[key] = {branch: self._joined(parts, branch) for branch in sorted(branches)}
        return states

    def _send(self, own):
        for (key, _), layers in own.items():
            self._mesh.send(layers, self._mesh.ranks[-1])

    def _received(self, rank, key, own):
        branches = self._places[rank].branches
        if rank == self._mesh.ranks[-1]:
            return {branch: own[key, branch] for branch in branches}
        return {branch: self._mesh.receive(rank) for branch in branches}

    def _joined(self, parts, branch):
        """The layers of all stages, in the order of ranks, each of the shards that have it."""
        of_branch = [(place, parts[rank][branch]) for rank, place in self._places.items() if branch in place.branches]
        shards = of_branch[0][0].ulysses[1] * of_branch[0][0].ring[1]
        stages = [of_branch[n:n + shards] for n in range(0, len(of_branch), shards)]
        return [
            [_join([(place, layers[number][which]) for place, layers in stage]) for which in (0, 1)]
            for stage in stages for number in range(len(stage[0][1]))
        ]

    def spread(self, keys, states, restore):
        """Gives every rank its part of ``states``, which only the output rank has, as ``gather`` made it: calls ``restore(key, number,
        layers)`` for each of ``keys`` and each branch by its number on this rank."""
        first = 0
        for rank, place in self._places.items():
            layers = range(first, first + place.layers)
            for key in keys:
                for number, branch in enumerate(place.branches):
                    own = [[_cut(packed, place) for packed in states[key][branch][layer]] for layer in layers]
                    restore(key, number, own) if rank == self._mesh.ranks[-1] else self._mesh.send(own, rank)
            first = self._first_layer_after(rank, first)
        if not self._mesh.is_output:
            for key in keys:
                for number in range(len(self._place.branches)):
                    restore(key, number, self._mesh.receive(self._mesh.ranks[-1]))

    def _first_layer_after(self, rank, first):
        """Where the next rank's layers begin: shards of a stage have the same, and each guidance rank's stages all of them."""
        ranks = list(self._places)
        index, place = ranks.index(rank), self._places[rank]
        if (index + 1) % (place.ulysses[1] * place.ring[1]):
            return first
        after = self._places[ranks[index + 1]] if index + 1 < len(ranks) else place
        return 0 if after.branches != place.branches else first + place.layers

    def finish(self):
        """Waits until all has left."""
        if self._sending is not None:
            self._sending.join()


def _join(shards):
    """[(place, packed tensors)] of one stage's shards as one's."""
    place = shards[0][0]
    ulysses, ring = place.ulysses[1], place.ring[1]
    by_place = {(place.ring[0], place.ulysses[0]): packed for place, packed in shards}
    tokens = [
        torch.cat([_as_frames(by_place[r, u][0], place) for u in range(ulysses)], dim=3) for r in range(ring)
    ]
    by_head = [torch.cat([by_place[0, u][n] for u in range(ulysses)], dim=2) for n in range(1, len(shards[0][1]))]
    return [torch.cat(tokens, dim=2), *by_head]


def _as_frames(tokens, place):
    """(1, tokens, heads, dim), a stretch of all frames of each Ulysses rank's, as (1, frames, tokens of a frame, heads, dim)."""
    return tokens.unflatten(1, (place.ulysses[1], -1, place.frame_tokens)).transpose(1, 2).flatten(2, 3)


def _cut(packed, place):
    """The part of a rank at ``place`` of whole packed tensors."""
    tokens, *by_head = packed
    (ring, rings), (ulysses, parts) = place.ring, place.ulysses
    own = tokens.chunk(rings, dim=2)[ring].chunk(parts, dim=3)[ulysses]
    stretches = own.unflatten(2, (parts, place.frame_tokens)).transpose(1, 2).flatten(1, 3)
    return [one.clone(memory_format=torch.contiguous_format) for one in (stretches, *(one.chunk(parts, dim=2)[ulysses] for one in by_head))]
