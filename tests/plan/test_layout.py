"""Which latent frames and video frames a block owns."""

import pytest

from xdualparal.plan.layout import Layout

LAYOUT = Layout(block_latents=8, context_latents=4)


def test_sizes():
    assert LAYOUT.window_latents == 12
    assert [LAYOUT.own_latents(block) for block in (0, 1, 7)] == [12, 8, 8]
    assert [LAYOUT.first_latent(block) for block in (0, 1, 2)] == [0, 12, 20]


@pytest.mark.parametrize("latent_frames, blocks", [(1, 1), (12, 1), (13, 2), (20, 2), (21, 3), (65, 8)])
def test_blocks_hold_all_latent_frames(latent_frames, blocks):
    assert LAYOUT.num_blocks(latent_frames) == blocks
    assert sum(map(LAYOUT.own_latents, range(blocks))) >= latent_frames


@pytest.mark.parametrize("num_frames", [0, 45, 77, 100, 257])
def test_frames_and_blocks_are_each_others_inverse(num_frames):
    frames = [LAYOUT.frames_of(blocks, num_frames, 4) for blocks in range(5)]
    assert frames[:2] == [0, 45] and frames == sorted(frames)
    for blocks, count in enumerate(frames):
        if count < num_frames or not num_frames:
            assert LAYOUT.whole_blocks(count, num_frames, 4) == blocks == LAYOUT.whole_blocks(count + 1, num_frames, 4)
