"""Models are told apart by all their weights, however they are split."""

import copy

import torch
from dualparal_testing.small_wan import small_transformer, small_vae

from xdualparal.models.identity import digest_of_parts, part_sums
from xdualparal.models.wan import WanFamily


def digest_on(stages, transformer, dtype=torch.float32):
    """The digests of ``transformer`` split over ``stages``."""
    ranks, layers = [], len(transformer.blocks) // stages
    for index in range(stages):
        own = copy.deepcopy(transformer).to(dtype)
        WanFamily().keep_stage(own, range(index * layers, (index + 1) * layers), index == 0, index == stages - 1)
        ranks.append(part_sums(dict(transformer=own, vae=None), index * layers))
    return digest_of_parts(ranks)


def test_the_split_does_not_matter():
    whole = digest_on(1, small_transformer())
    assert list(whole) == ["transformer"] and digest_on(2, small_transformer()) == digest_on(4, small_transformer()) == whole


def test_any_weight_any_dtype_and_any_setting_matters():
    whole = digest_on(2, small_transformer())
    changed = small_transformer()
    changed.blocks[3].ffn.net[2].weight.data[0, 0] += 1e-3  # as a merged LoRA would
    assert digest_on(2, changed) != whole
    assert digest_on(2, small_transformer(), torch.bfloat16) != whole
    other = small_transformer()
    other.register_to_config(eps=1e-5)
    assert digest_on(2, other) != whole


def test_parts_are_told_apart_and_what_has_no_weights_here_is_left_out():
    vae, other = small_vae(), small_vae()
    next(other.decoder.parameters()).data.add_(1)
    digests = [digest_of_parts([part_sums(dict(vae=one), 0)])["vae"] for one in (vae, other)]
    assert digests[0] != digests[1]
