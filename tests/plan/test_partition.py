"""Which layers are whose."""

import itertools

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


@pytest.mark.parametrize("stages, costs", [(2, (0, 0)), (3, (0.4, 2.6)), (4, (3.5, 0.0)), (4, (9, 9))])
def test_no_split_has_a_shorter_longest_stage(stages, costs):
    def longest(counts):
        return max(counts[0] + costs[0], counts[-1] + costs[1], *counts[1:-1], 0)

    ranges = layer_ranges(11, DualParalConfig(end_costs=costs), stages)
    all_splits = (split for split in itertools.product(range(1, 11), repeat=stages) if sum(split) == 11)
    assert longest([len(r) for r in ranges]) == min(map(longest, all_splits))


@pytest.mark.parametrize("given", [(4, 4, 1), (4, 3), (8,)])
def test_refuses_layers_that_do_not_suit(given):
    with pytest.raises(ValueError, match="stage_layers is .*: give 2 numbers, .* add up to the model's 8 layers"):
        layer_ranges(8, DualParalConfig(stage_layers=given), 2)


def test_refuses_more_stages_than_layers():
    with pytest.raises(ValueError, match="5 stages for 4 layers.*give 1 to 4"):
        layer_ranges(4, DEFAULT, 5)
