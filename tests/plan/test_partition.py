"""Which layers are whose."""

import itertools
import random

import pytest

from xdualparal import DualParalConfig
from xdualparal.plan.partition import layer_ranges

DEFAULT = DualParalConfig()


@pytest.mark.parametrize("layers, stages, sizes", [(8, 1, [8]), (8, 2, [4, 4]), (30, 4, [7, 8, 8, 7]), (9, 2, [5, 4]), (11, 4, [3, 3, 3, 2]), (3, 3, [1, 1, 1])])
def test_layers_are_split_evenly_and_all(layers, stages, sizes):
    ranges = layer_ranges(layers, DEFAULT, stages)
    assert [len(r) for r in ranges] == sizes
    assert [n for r in ranges for n in r] == list(range(layers))


def test_layers_as_given():
    assert layer_ranges(8, DualParalConfig(stage_layers=(1, 5, 2)), 3) == [range(0, 1), range(1, 6), range(6, 8)]


def splits(layers, stages):
    """All splits of ``layers`` over ``stages``, each with a layer at least."""
    cuts = itertools.combinations(range(1, layers), stages - 1)
    return [[end - start for start, end in zip((0, *cut), (*cut, layers))] for cut in cuts]


def largest(counts, ends):
    """The largest of the stages' layers and what the ends have besides."""
    sums = list(counts)
    sums[0] += ends[0]
    sums[-1] += ends[1]
    return max(sums)


@pytest.mark.parametrize("stages, costs", [(2, (0, 0)), (3, (0.4, 2.6)), (4, (3.5, 0.0)), (4, (9, 9))])
def test_no_split_has_a_shorter_longest_stage(stages, costs):
    ranges = layer_ranges(11, DualParalConfig(end_costs=costs), stages)
    assert largest([len(r) for r in ranges], costs) == min(largest(split, costs) for split in splits(11, stages))


def test_of_the_fastest_splits_none_has_an_emptier_fullest_stage():
    draw, differs = random.Random(0), 0
    for _ in range(500):
        layers = draw.randint(1, 12)
        stages = draw.randint(1, min(layers, 5))
        costs, memory = (draw.choice([(0.003, 0.005), (draw.uniform(0, 4), draw.uniform(0, 4)), (draw.randint(0, 3), 0.5)]) for _ in range(2))
        counts = [len(r) for r in layer_ranges(layers, DualParalConfig(end_costs=costs), stages, memory)]
        shortest = min(largest(split, costs) for split in splits(layers, stages))
        fastest = [split for split in splits(layers, stages) if largest(split, costs) == pytest.approx(shortest)]
        assert counts in fastest
        fullness = {largest(split, memory) for split in fastest}
        assert largest(counts, memory) == pytest.approx(min(fullness))
        differs += max(fullness) > min(fullness) + 1e-6
    assert differs > 30  # else memory would have had nothing to decide


def test_the_last_stage_with_the_vae_has_the_fewest_layers_where_that_makes_no_stage_longer():
    assert [len(r) for r in layer_ranges(30, DEFAULT, 7)] == [4, 5, 5, 5, 5, 5, 1]


@pytest.mark.parametrize("given", [(4, 4, 1), (4, 3), (8,)])
def test_refuses_layers_that_do_not_suit(given):
    with pytest.raises(ValueError, match="stage_layers is .*: give 2 numbers, .* add up to the model's 8 layers"):
        layer_ranges(8, DualParalConfig(stage_layers=given), 2)


def test_refuses_more_stages_than_layers():
    with pytest.raises(ValueError, match="5 stages for 4 layers.*give 1 to 4"):
        layer_ranges(4, DEFAULT, 5)
