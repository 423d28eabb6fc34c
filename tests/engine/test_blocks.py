"""Windows, per-block schedulers, guidance."""

from io import BytesIO

import pytest
import torch
from dualparal_testing.small_wan import SCHEDULERS

from xdualparal.engine.blocks import BlockStore, Denoiser, apply_guidance
from xdualparal.plan.actions import Pass
from xdualparal.plan.layout import Layout
from xdualparal.strategies.dualparal import DualParalPlan

CPU = torch.device("cpu")


def numbered(*frames):
    """Latents whose frames carry these numbers."""
    return torch.tensor(frames, dtype=torch.float32).view(1, 1, -1, 1, 1)


def window_store(steps=3, stagger=1, live=(), noise=((0, 1, 2), (3, 4), (5, 6))):
    """(a store, the windows of its plan's passes): B = 2, C = 1; block 0 starts as 0, 1, 2, block 1 as 3, 4, block 2 as 5, 6."""
    plan = DualParalPlan(3, steps, 1, stagger, layout=Layout(2, 1))
    store = BlockStore([(numbered(*frames) for frames in noise)], CPU, live)
    return store, lambda block, step: store.window(plan.spec(Pass(0, block, step)))


def test_windows_are_what_their_spec_says():
    store, window = window_store()
    assert torch.equal(window(0, 0), numbered(0, 1, 2))
    store.put(Pass(0, 0, 0), numbered(10, 11, 12))
    assert torch.equal(window(1, 0), numbered(12, 3, 4))
    assert store.has(Pass(0, 0, 0)) and not store.has(Pass(0, 0, 1))


def test_with_a_stagger_the_previous_block_is_further():
    store, window = window_store(stagger=2)
    window(0, 0)
    store.put(Pass(0, 0, 0), numbered(10, 11, 12))
    with pytest.raises(KeyError):
        window(1, 0)  # block 0 has not done step 1
    store.put(Pass(0, 0, 1), numbered(20, 21, 22))
    assert torch.equal(window(1, 0), numbered(22, 3, 4))


def test_noise_is_drawn_once():
    """Two half passes have the same window."""
    _, window = window_store()
    assert torch.equal(window(0, 0), window(0, 0))


def test_a_store_is_resumed_from_what_was_live():
    live = {Pass(0, 0, 1): numbered(20, 21, 22), Pass(0, 1, 0): numbered(13, 14)}
    _, window = window_store(live=live, noise=[(5, 6)])
    assert torch.equal(window(1, 1), numbered(22, 13, 14))
    assert torch.equal(window(2, 0), numbered(14, 5, 6))


def test_latents_are_freed():
    store, window = window_store()
    window(0, 0)
    store.put(Pass(0, 0, 0), numbered(10, 11, 12))
    store.free([Pass(0, 0, -1), Pass(0, 0, 0)])
    assert not store.has(Pass(0, 0, 0)) and not store._latents


def scheduler_maker(kind, steps):
    """A function that makes fresh schedulers with ``steps`` timesteps."""
    def make():
        scheduler = SCHEDULERS[kind]()
        scheduler.set_timesteps(steps)
        return scheduler

    return make


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_block_has_its_own_scheduler(kind):
    make = scheduler_maker(kind, 4)
    noise, predictions = torch.randn(1, 2, 3, 2, 2), torch.randn(4, 1, 2, 3, 2, 2)
    store = Denoiser(make, make().timesteps, [iter([noise, noise.clone()])], CPU)
    results = {0: [], 1: []}
    for wave in range(5):  # two blocks, staggered, with the same predictions
        for block in (1, 0):
            if 0 <= wave - block < 4:
                results[block].append(store.advance(Pass(0, block, wave - block), predictions[wave - block]))
    assert all(map(torch.equal, results[0], results[1]))
    alone, latents = make(), noise
    for step in range(4):
        latents = alone.step(predictions[step], alone.timesteps[step], latents, return_dict=False)[0]
        assert torch.equal(results[0][step], latents)
    assert not store._blocks  # nothing of a finished block is kept


def test_guidance():
    conditional, unconditional = torch.randn(1, 2, 3, 2, 2), torch.randn(1, 2, 3, 2, 2)
    both = torch.cat([conditional, unconditional])
    assert torch.equal(apply_guidance(both, 3.0), unconditional + 3.0 * (conditional - unconditional))
    assert apply_guidance(conditional, 3.0) is conditional


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_denoiser_goes_on_from_its_state_to_the_same_bits(kind):
    """The state goes through a file, as in a checkpoint."""
    make = scheduler_maker(kind, 5)
    noise, predictions = torch.randn(1, 2, 3, 2, 2), torch.randn(5, 1, 2, 3, 2, 2)
    store = Denoiser(make, make().timesteps, [iter([noise])], CPU)
    for step in range(3):
        store.advance(Pass(0, 0, step), predictions[step])
    file = BytesIO()
    torch.save(store.state(), file)
    file.seek(0)
    again = Denoiser(make, make().timesteps, [], CPU, torch.load(file, weights_only=True))
    for step in (3, 4):
        assert torch.equal(again.advance(Pass(0, 0, step), predictions[step]), store.advance(Pass(0, 0, step), predictions[step]))


def test_blocks_that_overlap_are_blended_and_a_resumed_denoiser_does_the_same():
    """Blocks of 4, 4 and 3 frames, of which 2 are common; the state goes through a file after the second block."""
    make, layout = scheduler_maker("unipc", 5), Layout(4, 0, 7, overlap_latents=2)
    store = Denoiser(make, make().timesteps, [], CPU)
    assert torch.equal(store.blended(Pass(0, 0, 4), numbered(1, 2, 30, 60), layout), numbered(1, 2))
    second = store.blended(Pass(0, 1, 4), numbered(0, 0, 90, 120), layout)
    assert torch.allclose(second, numbered(20, 20))  # 2/3 of 30 and of 0; 1/3 of 60 and 2/3 of 0
    file = BytesIO()
    torch.save(store.state(), file)
    file.seek(0)
    again = Denoiser(make, make().timesteps, [], CPU, torch.load(file, weights_only=True))
    for one in (store, again):
        assert torch.allclose(one.blended(Pass(0, 2, 4), numbered(0, 0, 7), layout), numbered(60, 40, 7))
        assert not one._blocks  # nothing of a finished video is kept


def test_videos_draw_from_their_own_noise_and_share_nothing():
    """Two videos with the same predictions and other noise, side by side, are what each is alone."""
    make, noises = scheduler_maker("unipc", 3), torch.randn(2, 1, 2, 3, 2, 2)
    predictions = torch.randn(3, 1, 2, 3, 2, 2)
    together = Denoiser(make, make().timesteps, [iter([noise]) for noise in noises], CPU)
    alone = [Denoiser(make, make().timesteps, [iter([noise])], CPU) for noise in noises]
    for step in range(3):
        for video in (0, 1):
            made = together.advance(Pass(video, 0, step), predictions[step])
            assert torch.equal(made, alone[video].advance(Pass(0, 0, step), predictions[step]))
    store = BlockStore([iter([numbered(1, 2)]), iter([numbered(3, 4)])], CPU)
    plan = DualParalPlan(1, 3, 1, layout=Layout(2, 0)).side_by_side([0, 0])
    assert [store.window(plan.spec(Pass(video, 0, 0))).flatten().tolist() for video in (1, 0)] == [[3, 4], [1, 2]]
