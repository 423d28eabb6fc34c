"""The shared noise pool against its rule in DESIGN section 2."""

import math
from itertools import islice

import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from xdualparal import initial_noise
from xdualparal.engine.noise import last_noise, noise_blocks
from xdualparal.plan.layout import Layout

SHAPE = (3, 2, 2)


def noise(blocks, block, context, seed=0, latent_frames=None):
    """initial_noise with a fresh generator."""
    return initial_noise(blocks, block, context, SHAPE, torch.Generator().manual_seed(seed), latent_frames)


@pytest.mark.parametrize("block, context", [(4, 2), (3, 3), (5, 0), (1, 1)])
def test_every_window_is_a_permutation_of_one_pool(block, context):
    blocks = noise(6, block, context)
    assert [b.shape for b in blocks] == [(1, 3, block + context * (n == 0), 2, 2) for n in range(6)]
    assert all(b.dtype == torch.float32 and b.device.type == "cpu" for b in blocks)
    pool = sorted(frame_sums(blocks[0]))
    for previous, own in zip(blocks, blocks[1:]):
        window = torch.cat([previous[:, :, previous.shape[2] - context:], own], dim=2)
        assert sorted(frame_sums(window)) == pool


def frame_sums(latents):
    """One number a latent frame, to tell frames apart."""
    return latents.sum(dim=(0, 1, 3, 4)).tolist()


def test_rule_step_by_step():
    generator = torch.Generator().manual_seed(3)
    pool, expected = torch.randn(1, *SHAPE[:1], 6, *SHAPE[1:], generator=generator), []
    for n in range(4):
        permuted = pool[:, :, :4][:, :, torch.randperm(4, generator=generator)]
        pool = torch.cat([pool[:, :, -2:], permuted], dim=2)
        expected.append(pool if n == 0 else pool[:, :, -4:])
    assert all(map(torch.equal, noise(4, 4, 2, seed=3), expected))


@pytest.mark.parametrize("fresh", [0.25, 0.7, 1.0])
def test_a_share_of_fresh_noise_stays_in_the_pool(fresh):
    made = list(noise_blocks(Layout(4, 2, 14), SHAPE, torch.Generator().manual_seed(3), fresh))
    generator = torch.Generator().manual_seed(3)
    pool, expected = torch.randn(1, *SHAPE[:1], 6, *SHAPE[1:], generator=generator), []
    for n in range(3):
        new = pool[:, :, :4][:, :, torch.randperm(4, generator=generator)]
        if n:
            new = math.sqrt(1 - fresh) * new + math.sqrt(fresh) * torch.randn(1, *SHAPE[:1], 4, *SHAPE[1:], generator=generator)
        pool = torch.cat([pool[:, :, -2:], new], dim=2)
        expected.append(pool if n == 0 else pool[:, :, -4:])
    assert all(map(torch.equal, made, expected))


@pytest.mark.parametrize("fresh", [0, 0.5, 1.0])
def test_mixed_noise_is_as_strong_as_any_and_with_1_blocks_share_none(fresh):
    shape = (4, 16, 16)
    blocks = list(noise_blocks(Layout(4, 2, 22), shape, torch.Generator().manual_seed(0), fresh))
    assert all(abs(block.var().item() - 1) < 0.1 for block in blocks)
    first, last = blocks[0].flatten(3).transpose(1, 2).flatten(2), blocks[-1].flatten(3).transpose(1, 2).flatten(2)
    likeness = torch.corrcoef(torch.cat([first[0], last[0]]))[:6, 6:].max().item()
    least, most = {0: (0.9, 1.01), 0.5: (0.2, 0.9), 1.0: (-1, 0.2)}[fresh]
    assert least < likeness < most


def test_same_seed_same_noise_and_lazily_too():
    endless = noise_blocks(Layout(4, 2), SHAPE, torch.Generator().manual_seed(0))
    assert all(map(torch.equal, noise(5, 4, 2), islice(endless, 5)))
    assert not torch.equal(noise(1, 4, 2, seed=0)[0], noise(1, 4, 2, seed=1)[0])


def test_blocks_do_not_share_memory():
    first, second, *_ = noise(3, 4, 2)
    second.zero_()
    assert torch.equal(first, noise(3, 4, 2)[0])


@pytest.mark.parametrize("latent_frames, own", [(15, [6, 4, 4, 1]), (17, [6, 4, 4, 3]), (18, [6, 4, 4, 4]), (7, [6, 1])])
def test_a_short_last_block_has_the_first_part_of_a_whole_ones(latent_frames, own):
    short, whole = noise(len(own), 4, 2, latent_frames=latent_frames), noise(len(own), 4, 2)
    assert [block.shape[2] for block in short] == own
    assert all(torch.equal(some, all_of_it[:, :, :some.shape[2]]) for some, all_of_it in zip(short, whole))


@pytest.mark.parametrize("latent_frames", [1, 5, 6])
def test_one_block_alone_is_drawn_as_diffusers_draws(latent_frames):
    drawn = randn_tensor((1, 3, latent_frames, 2, 2), generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise(1, 4, 2, latent_frames=latent_frames)[0], drawn)


@pytest.mark.parametrize("blocks, latent_frames, words", [
    (0, None, "num_blocks is 0"), (1, 7, "give 1 to 6"), (1, 0, "give 1 to 6"), (3, 10, "give 11 to 14"), (3, 15, "give 11 to 14"),
])
def test_what_does_not_suit_is_refused(blocks, latent_frames, words):
    with pytest.raises(ValueError, match=words):
        noise(blocks, 4, 2, latent_frames=latent_frames)


@pytest.mark.parametrize("end, count", [(22, 3), (22, 9), (20, 3), (6, 6), (5, 3), (2, 3), (14, 1), (13, 4)])
def test_the_noise_of_the_last_frames(end, count):
    layout = Layout(4, 2, 22)
    blocks = lambda: noise_blocks(layout, SHAPE, torch.Generator().manual_seed(3))  # noqa: E731
    whole = torch.cat(list(blocks()), dim=2)
    assert torch.equal(last_noise(blocks(), end, count), whole[:, :, max(0, end - count):end])
