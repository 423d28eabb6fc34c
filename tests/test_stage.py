"""Which layers are whose, and that a stage leaves the transformer as it was."""

import pytest

from xdualparal.stage import layer_ranges


@pytest.mark.parametrize("layers, stages, sizes", [(8, 1, [8]), (8, 2, [4, 4]), (30, 4, [8, 8, 7, 7]), (3, 3, [1, 1, 1])])
def test_layers_are_split_evenly_and_all(layers, stages, sizes):
    ranges = layer_ranges(layers, stages)
    assert [len(r) for r in ranges] == sizes
    assert [n for r in ranges for n in r] == list(range(layers))


def test_refuses_more_stages_than_layers():
    with pytest.raises(ValueError, match="5 stages for 4 layers.*give 1 to 4"):
        layer_ranges(4, 5)
