"""On which node each rank of a run is, and what of an exchange leaves a node.

Knows: degrees, and how many ranks a node has. Must not know: bytes, rates, what is exchanged.

xDiT numbers ranks with Ulysses innermost, then ring, stages, guidance branches and replicas (xfuser 0.7.0: parallel_state.py, "tp-sp-pp-cfg-dp", and
yunchang's set_seq_parallel_pg; tests/plan/test_placement.py compares). Consecutive ranks fill nodes, as the launcher starts them.
"""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

ULYSSES, RING, LANES, GUIDANCE, REPLICAS = "ulysses", "ring", "stages", "guidance", "replicas"
_AXES = (ULYSSES, RING, LANES, GUIDANCE, REPLICAS)  # innermost first


class Route(NamedTuple):
    """The way of an exchange. ``beside``: ranks of a group that are on one node. ``leaving``: {node: what leaves it for others, in what one rank sends},
    of all ranks that send at once; empty where nothing does."""

    beside: int
    leaving: dict[int, float]

    @property
    def busiest(self):
        """What leaves the node that most leaves."""
        return max(self.leaving.values(), default=0)


@dataclass(frozen=True)
class Placement:
    """The ranks of ``stages`` (lanes of any strategy) x ``ulysses`` x ``ring`` x ``guidance`` branches x ``replicas`` on nodes of ``per_node`` each; None: all on one."""

    stages: int = 1
    ulysses: int = 1
    ring: int = 1
    guidance: int = 1
    replicas: int = 1
    per_node: int | None = None

    def groups(self, axis):
        """The groups of ranks that differ in their place along ``axis`` alone, lists."""
        size, stride = getattr(self, axis), prod(getattr(self, inner) for inner in _AXES[:_AXES.index(axis)])
        return [[first + n * stride for n in range(size)] for first in self._ranks if first // stride % size == 0]

    def node_of(self, rank):
        """The number of the node of a global ``rank``."""
        return rank // self.per_node if self.per_node else 0

    def lane_of(self, rank):
        """The stage of a global ``rank``."""
        return rank // (self.ulysses * self.ring) % self.stages

    @property
    def _ranks(self):
        return range(prod(getattr(self, axis) for axis in _AXES))

    def uneven(self):
        """The first of ULYSSES, RING, GUIDANCE whose groups do not have equally many ranks on each of their nodes; None where all have. A rank of
        such a group would wait for those that are farther from each other."""
        return next((axis for axis in (ULYSSES, RING, GUIDANCE) if len(set(self._on_a_node(axis))) > 1), None)

    def _on_a_node(self, axis):
        return [count for group in self.groups(axis) for count in Counter(map(self.node_of, group)).values()]

    # Routes, where the ranks of ``lanes`` send at once.

    def to_group(self, axis, lanes):
        """Each rank sends equal parts to the others of its group along ``axis``."""
        share = 1 / max(1, getattr(self, axis) - 1)
        sends = ((rank, other, share) for group in self.groups(axis) for rank in group for other in group if other != rank)
        return self._route(axis, lanes, sends)

    def to_next(self, lanes):
        """Each rank sends all to the one of the next stage, the last stage's to the first one's."""
        sends = ((rank, group[(n + 1) % len(group)], 1) for group in self.groups(LANES) for n, rank in enumerate(group))
        return self._route(LANES, lanes, sends)._replace(beside=2)

    def round_all(self, lanes):
        """The same, of what all lanes pass on to gather it."""
        return self.to_next(lanes)._replace(beside=max(self._on_a_node(LANES)))

    def to_clips(self, lanes, exchange, unit):
        """Each lane sends to others the latent frames that ``exchange(lane)`` says (ClipsPlan.exchange); ``unit``: how many are counted as what one sends."""
        given = {lane: {other: len(goes) for other, (goes, _) in exchange(lane).items()} for lane in lanes}
        sends = (
            (group[lane], group[other], count / unit) for group in self.groups(LANES) for lane, others in given.items() for other, count in others.items()
        )
        return self._route(LANES, lanes, sends)

    def _route(self, axis, lanes, sends):
        """``sends``: (sender, receiver, amount)."""
        leaving = Counter()
        for rank, other, amount in sends:
            if self.lane_of(rank) in lanes and self.node_of(rank) != self.node_of(other):
                leaving[self.node_of(rank)] += amount
        return Route(max(self._on_a_node(axis)), dict(leaving))
