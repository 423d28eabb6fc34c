"""Which latent frames and video frames a block owns."""

from dataclasses import replace

import pytest

from xdualparal.plan.layout import Layout

LAYOUT = Layout(block_latents=8, context_latents=4)


def test_sizes():
    assert LAYOUT.window_latents == 12
    assert [LAYOUT.own_latents(block) for block in (0, 1, 7)] == [12, 8, 8]
    assert [LAYOUT.first_latent(block) for block in (0, 1, 2)] == [0, 12, 20]


@pytest.mark.parametrize("latent_frames, blocks", [(1, 1), (12, 1), (13, 2), (20, 2), (21, 3), (65, 8)])
def test_blocks_hold_all_latent_frames(latent_frames, blocks):
    layout = replace(LAYOUT, latent_frames=latent_frames)
    assert layout.num_blocks == blocks and LAYOUT.num_blocks is None
    owned = list(map(layout.own_latents, range(blocks)))
    assert sum(owned) == latent_frames == layout.first_latent(blocks) and min(owned) > 0
    assert owned[:-1] == list(map(LAYOUT.own_latents, range(blocks - 1)))


@pytest.mark.parametrize("latent_frames, shortest", [(None, 20), (5, 5), (12, 12), (13, 13), (20, 20), (65, 17), (67, 19), (68, 20)])
def test_the_shortest_video_with_windows_of_the_same_sizes(latent_frames, shortest):
    layout = replace(LAYOUT, latent_frames=latent_frames)
    alike = layout.shortest_alike()
    assert alike.latent_frames == shortest and alike.shortest_alike() == alike
    if latent_frames is not None:
        assert window_sizes(alike) == window_sizes(layout)


@pytest.mark.parametrize("latent_frames, shortest", [(None, 20), (5, 5), (12, 12), (13, 13), (20, 20), (28, 20), (65, 25), (67, 27)])
def test_the_shortest_video_where_windows_are_the_own_frames(latent_frames, shortest):
    """Cached context: 12, 8 and a short last one."""
    layout = replace(LAYOUT, latent_frames=latent_frames, equal_windows=False)
    alike = layout.shortest_alike()
    assert alike.latent_frames == shortest and alike.shortest_alike() == alike
    if latent_frames is not None:
        assert window_sizes(alike) == window_sizes(layout)


def window_sizes(layout):
    """Latent frames of the windows: every block but the first sees the last C of the one before it, or none of them."""
    context = layout.context_latents if layout.equal_windows else 0
    return {layout.own_latents(block) + (context if block else 0) for block in range(layout.num_blocks)}


@pytest.mark.parametrize("latent_frames, seen", [(None, 16), (65, 16), (16, 16), (14, 14), (12, 12), (3, 3)])
def test_how_much_a_pass_sees(latent_frames, seen):
    assert replace(LAYOUT, latent_frames=latent_frames).seen_latents == seen


def test_the_first_blocks_alone():
    layout = replace(LAYOUT, latent_frames=30)
    assert [layout.of_blocks(n).latent_frames for n in (1, 3, 4)] == [12, 28, 30]
    assert LAYOUT.of_blocks(3).num_blocks == 3


@pytest.mark.parametrize("num_frames", [0, 45, 77, 100, 257])
def test_frames_and_blocks_are_each_others_inverse(num_frames):
    frames = [LAYOUT.frames_of(blocks, num_frames, 4) for blocks in range(5)]
    assert frames[:2] == [0, 45] and frames == sorted(frames)
    for blocks, count in enumerate(frames):
        if count < num_frames or not num_frames:
            assert LAYOUT.whole_blocks(count, num_frames, 4) == blocks == LAYOUT.whole_blocks(count + 1, num_frames, 4)


@pytest.mark.parametrize("context", [1, 4])
def test_a_video_that_continues_another_has_no_frames_of_its_latents(context):
    layout = Layout(8, 4, context + 20, continued_latents=context)
    assert layout.num_blocks == replace(layout, continued_latents=0).num_blocks
    frames = [layout.frames_of(blocks, 80, 4) for blocks in range(layout.num_blocks + 1)]
    assert frames == [0, 4 * (12 - context), 4 * (20 - context), 80][:layout.num_blocks] + [80]
    assert [layout.whole_blocks(count, 80, 4) for count in frames] == list(range(layout.num_blocks + 1))


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("latent_frames", range(1, 20))
def test_blocks_that_overlap(latent_frames, overlap):
    """Each begins where the one before has its last frames, all have their whole size but the last one, and none is needless."""
    layout = Layout(5, 0, latent_frames, overlap_latents=overlap)
    blocks = [range(layout.first_latent(n), layout.first_latent(n) + layout.own_latents(n)) for n in range(layout.num_blocks)]
    assert blocks[0].start == 0 and blocks[-1].stop == latent_frames and all(len(block) == 5 for block in blocks[:-1])
    for before, block in zip(blocks, blocks[1:]):
        assert before.stop - block.start == overlap and block.stop > before.stop
    assert sum(map(layout.given_latents, range(layout.num_blocks))) == latent_frames
    assert [layout.of_blocks(n + 1).num_blocks for n in range(layout.num_blocks)] == [n + 1 for n in range(layout.num_blocks)]
    assert window_sizes(layout.shortest_alike()) == window_sizes(layout)
