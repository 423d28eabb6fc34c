"""A latent frame cut over ranks and joined again."""

import pytest
import torch
from dualparal_testing.small_wan import small_transformer

from xdualparal.models import WanFamily
from xdualparal.engine.sharding import SpatialShard, check_heads

SIZE, PATCH = (4, 12), (2, 2)  # 2 x 6 tokens


def shards(degree):
    """The shard of every rank."""
    return [SpatialShard(SIZE, PATCH, rank, degree) for rank in range(degree)]


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6, 12])
def test_parts_join_to_the_whole(degree):
    latents = torch.randn(1, 5, 3, *SIZE)
    parts = [shard.take(latents) for shard in shards(degree)]
    assert all(part.shape[3:] == shard.latent_size for part, shard in zip(parts, shards(degree)))
    assert torch.equal(shards(degree)[0].join(torch.cat(parts, dim=4)), latents)


@pytest.mark.parametrize("degree", [2, 4])
@torch.no_grad()
def test_a_rank_embeds_exactly_its_own_tokens(degree):
    transformer, family, latents = small_transformer(), WanFamily(), torch.randn(1, 16, 3, *SIZE)
    whole = family.embed(transformer, latents).unflatten(1, (3, -1))
    for shard in shards(degree):
        own = family.embed(transformer, shard.take(latents)).unflatten(1, (3, -1))
        assert torch.allclose(own, whole[:, :, shard.tokens], atol=1e-6)
        assert shard.grid == (1, shard.frame_tokens)


def test_one_rank_has_it_all():
    [shard], latents = shards(1), torch.randn(1, 5, 3, *SIZE)
    assert shard.take(latents) is latents and shard.join(latents) is latents and shard.grid == (2, 6)


def test_refuses_what_cannot_be_split_and_names_what_can():
    with pytest.raises(ValueError, match="12 tokens, which 5 ranks .* give a product of 1, 2, 3, 4, 6, 12"):
        SpatialShard(SIZE, PATCH, 0, 5)
    with pytest.raises(ValueError, match="ulysses_degree is 3 .* 4 attention heads.* give 1, 2, 4"):
        check_heads(4, 3)
