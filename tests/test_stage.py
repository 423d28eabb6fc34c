"""Which layers are whose, and that a stage leaves the transformer as it was."""

import pytest

from xdualparal.stage import layer_ranges


@pytest.mark.parametrize("layers, stages, sizes", [(8, 1, [8]), (8, 2, [4, 4]), (30, 4, [7, 8, 8, 7]), (9, 2, [5, 4]), (11, 4, [3, 3, 3, 2]), (3, 3, [1, 1, 1])])
def test_layers_are_split_evenly_and_all(layers, stages, sizes):
    ranges = layer_ranges(layers, stages)
    assert [len(r) for r in ranges] == sizes
    assert [n for r in ranges for n in r] == list(range(layers))


def test_layers_as_given():
    assert layer_ranges(8, 3, (1, 5, 2)) == [range(0, 1), range(1, 6), range(6, 8)]


@pytest.mark.parametrize("given", [(4, 4, 1), (4, 3), (8,)])
def test_refuses_layers_that_do_not_suit(given):
    with pytest.raises(ValueError, match="stage_layers is .*: give 2 numbers, .* add up to the model's 8 layers"):
        layer_ranges(8, 2, given)


def test_refuses_more_stages_than_layers():
    with pytest.raises(ValueError, match="5 stages for 4 layers.*give 1 to 4"):
        layer_ranges(4, 5)
