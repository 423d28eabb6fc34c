"""Windows, per-block schedulers, guidance."""

from io import BytesIO

import pytest
import torch
from dualparal_testing.small_wan import SCHEDULERS

from xdualparal import DualParalConfig
from xdualparal.plan.schedule import Plan
from xdualparal.engine.blocks import DenoiseStore, WindowStore, apply_guidance

CPU = torch.device("cpu")


def numbered(*frames):
    """Latents whose frames carry these numbers."""
    return torch.tensor(frames, dtype=torch.float32).view(1, 1, -1, 1, 1)


def window_store(steps=3, stagger=1):
    """B = 2, C = 1; block 0 starts as 0, 1, 2, block 1 as 3, 4, block 2 as 5, 6."""
    noise = iter([numbered(0, 1, 2), numbered(3, 4), numbered(5, 6)])
    return WindowStore(DualParalConfig(2, 1), Plan(3, steps, 1, stagger), noise, CPU)


def test_windows_take_the_previous_block_after_the_same_step():
    store = window_store()
    assert torch.equal(store.window(0, 0), numbered(0, 1, 2))
    store.update(0, 0, numbered(10, 11, 12))
    assert torch.equal(store.window(1, 0), numbered(12, 3, 4))
    assert store.has(0, 0) and not store.has(0, 1)


def test_with_a_stagger_the_previous_block_is_further():
    store = window_store(stagger=2)
    store.window(0, 0)
    store.update(0, 0, numbered(10, 11, 12))
    with pytest.raises(AssertionError, match="block 0 is after step 0, not 1"):
        store.window(1, 0)
    store.update(0, 1, numbered(20, 21, 22))
    assert torch.equal(store.window(1, 0), numbered(22, 5, 6))  # the first try drew 3, 4


def test_a_store_goes_on_from_what_stood():
    store = WindowStore(DualParalConfig(2, 1), Plan(3, 3, 1), iter([numbered(5, 6)]), CPU, {
        (0, 1): numbered(20, 21, 22), (1, 0): numbered(13, 14),
    })
    assert torch.equal(store.window(1, 1), numbered(22, 13, 14))
    assert torch.equal(store.window(2, 0), numbered(14, 5, 6))


def test_a_window_of_another_time_is_our_mistake():
    store = window_store()
    store.window(0, 0)
    with pytest.raises(AssertionError, match="block 0"):
        store.window(1, 0)  # block 0 has not done step 0


def test_a_block_is_dropped_when_the_next_needs_it_no_more():
    store = window_store(steps=1)
    store.window(0, 0)
    store.update(0, 0, numbered(10, 11, 12))
    store.window(1, 0)
    assert not store.has(0, 0)


def test_no_context_gives_the_own_latents():
    store = WindowStore(DualParalConfig(2, 0), Plan(2, 2, 1), iter([numbered(0, 1), numbered(2, 3)]), CPU)
    store.window(0, 0)
    store.update(0, 0, numbered(10, 11))
    assert torch.equal(store.window(1, 0), numbered(2, 3))


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
    store = DenoiseStore(make, make().timesteps, iter([noise, noise.clone()]), CPU)
    results = {0: [], 1: []}
    for wave in range(5):  # two blocks, staggered, with the same predictions
        for block in (1, 0):
            if 0 <= wave - block < 4:
                results[block].append(store.advance(block, wave - block, predictions[wave - block]))
    assert all(map(torch.equal, results[0], results[1]))
    alone, latents = make(), noise
    for step in range(4):
        latents = alone.step(predictions[step], alone.timesteps[step], latents, return_dict=False)[0]
        assert torch.equal(results[0][step], latents)
    assert not store._latents and not store._schedulers  # nothing of a finished block is kept


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
    store = DenoiseStore(make, make().timesteps, iter([noise]), CPU)
    for step in range(3):
        store.advance(0, step, predictions[step])
    file = BytesIO()
    torch.save(store.state(), file)
    file.seek(0)
    again = DenoiseStore(make, make().timesteps, iter([]), CPU, torch.load(file, weights_only=True))
    for step in (3, 4):
        assert torch.equal(again.advance(0, step, predictions[step]), store.advance(0, step, predictions[step]))
