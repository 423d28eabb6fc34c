"""Where ranks are: against xDiT's own groups, and by hand on two nodes."""

import pytest
import torch
from xfuser.core.distributed.utils import RankGenerator
from yunchang.globals import PROCESS_GROUP, set_seq_parallel_pg

from xdualparal.plan.placement import GUIDANCE, LANES, REPLICAS, RING, ULYSSES, Placement
from xdualparal.strategies.clips import ClipLayout, ClipsPlan


@pytest.mark.parametrize("degrees", [(3, 2, 2, 2, 1), (2, 1, 2, 1, 3), (4, 3, 1, 2, 2), (2, 2, 4, 1, 1)], ids=str)
def test_groups_are_xdits(degrees, monkeypatch):
    """``degrees``: stages, Ulysses, ring, guidance, replicas."""
    placement = Placement(*degrees)
    stages, ulysses, ring, guidance, replicas = degrees
    generator = RankGenerator(1, ulysses * ring, stages, guidance, replicas, 1, "tp-sp-pp-cfg-dp")
    for axis, name in ((LANES, "pp"), (GUIDANCE, "cfg"), (REPLICAS, "dp")):
        assert sorted(placement.groups(axis)) == sorted(generator.get_ranks(name))
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks: list(ranks))
    monkeypatch.setattr(PROCESS_GROUP, "ULYSSES_PG", None)
    monkeypatch.setattr(PROCESS_GROUP, "RING_PG", None)
    for rank in range(stages * ulysses * ring * guidance * replicas):
        set_seq_parallel_pg(ulysses, ring, rank, stages * ulysses * ring * guidance * replicas)
        assert PROCESS_GROUP.ULYSSES_PG in placement.groups(ULYSSES) and PROCESS_GROUP.RING_PG in placement.groups(RING)


def test_stages_on_two_nodes():
    """4 stages of 2 ranks on nodes of 4: the second one's two ranks send to the other node, the last one's back."""
    placement = Placement(4, ulysses=2, per_node=4)
    assert [placement.to_next((stage,)).leaving for stage in range(4)] == [{}, {0: 2}, {}, {1: 2}]
    assert not any(placement.to_group(ULYSSES, (stage,)).leaving for stage in range(4))
    assert placement.round_all(range(4)) == (2, {0: 2, 1: 2}) and placement.to_next((0,)).beside == 2


def test_a_group_on_two_nodes():
    """Ulysses 4 on nodes of 2: each rank sends 2 of its 3 parts to the other node. Ring 2 of Ulysses 2: all."""
    assert Placement(1, ulysses=4, per_node=2).to_group(ULYSSES, (0,)) == (2, {0: pytest.approx(4 / 3), 1: pytest.approx(4 / 3)})
    placement = Placement(1, ulysses=2, ring=2, per_node=2)
    assert placement.to_group(ULYSSES, (0,)) == (2, {}) and placement.to_group(RING, (0,)) == (1, {0: 2, 1: 2})


def test_guidance_on_two_nodes():
    """2 stages of 1 rank in each branch: the last stage's pair."""
    placement = Placement(2, guidance=2, per_node=2)
    assert placement.to_group(GUIDANCE, (1,)) == (1, {0: 1, 1: 1}) and placement.to_next((0,)).leaving == {}


def test_clips_on_two_nodes():
    """4 clips of 4 latent frames, a halo of 2, on nodes of 2: 2 frames each way, where the frames that all see are left out."""
    plan, placement = ClipsPlan(ClipLayout(4, 0, 16, clips=4, halo=2, sampled=0), 3), Placement(4, per_node=2)
    assert placement.to_clips((0, 1, 2, 3), plan.exchange, unit=4) == (2, {0: 0.5, 1: 0.5})
    assert placement.to_clips((0,), plan.exchange, unit=4).leaving == {}


@pytest.mark.parametrize("degrees, per_node, uneven", [
    (dict(stages=2, ulysses=4), 4, None), (dict(ulysses=8), 4, None), (dict(stages=3, ulysses=4), 6, ULYSSES), (dict(stages=3, ulysses=2, ring=2), 6, RING),
    (dict(ulysses=3, ring=4), 6, None), (dict(stages=2, guidance=2, replicas=3), 6, GUIDANCE), (dict(stages=12, guidance=2), 8, None),
    (dict(stages=3, ulysses=4), None, None), (dict(stages=5, replicas=2), 2, None),
])
def test_uneven_groups(degrees, per_node, uneven):
    assert Placement(**degrees, per_node=per_node).uneven() == uneven
