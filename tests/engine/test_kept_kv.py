"""K/V that wait for a later pass: in float8, and in the host's memory."""

import pytest
import torch

from xdualparal.engine import kept_kv
from xdualparal.engine.kept_kv import DeviceShelf, HostShelf, exact, float8

CPU = torch.device("cpu")


def tokens(seed=0, dtype=torch.float32):
    """(1, 6, 3, 5), heads of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(1, 6, 3, 5, generator=generator) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1)).to(dtype)


def keep(given, format, shelf):
    """Keeps tokens."""
    return kept_kv.Kept(format.pack(given), format, shelf)


def written(kept, like):
    """What ``kept`` writes."""
    place = torch.full_like(like, 9.0)
    kept.write(place)
    return place


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_has_four_bits_of_each_number(dtype):
    """Half a unit in the last of 3 bits behind the point: a 16th; and below the normal numbers 2^-10 of the scale."""
    given = tokens(dtype=dtype)
    kept = keep(given, float8(), DeviceShelf())
    numbers, scale = kept.packed()
    assert (numbers.dtype, scale.shape, kept.count) == (torch.float8_e4m3fn, (1, 1, 3, 1), 6)
    assert torch.equal(torch.frexp(scale.float()).mantissa, torch.full((1, 1, 3, 1), 0.5))  # powers of two
    assert ((numbers.float().abs().amax(dim=(1, 3)) >= 224) & (numbers.float().abs().amax(dim=(1, 3)) <= 416)).all()
    error = (written(kept, given) - given).float().abs()
    assert (error <= torch.maximum(given.float().abs() / 16, scale.float() * 2.0 ** -10)).all() and error.max() > 0


def test_what_was_unpacked_packs_to_the_same_bits():
    for seed in range(200):
        kept = keep(tokens(seed), float8(), DeviceShelf())
        again = keep(written(kept, tokens()), float8(), DeviceShelf())
        assert all(torch.equal(one.float(), two.float()) for one, two in zip(kept.packed(), again.packed()))


def test_ranks_that_share_tokens_share_the_scale():
    whole = keep(tokens(), float8(), DeviceShelf())
    largest = tokens().abs().amax(dim=(1, 3), keepdim=True)
    parts = [keep(part, float8(lambda own: torch.maximum(own, largest)), DeviceShelf()) for part in tokens().split(3, dim=1)]
    assert torch.equal(torch.cat([written(part, tokens()[:, :3]) for part in parts], dim=1), written(whole, tokens()))


def test_nothing_and_zeros_in_float8():
    kept = keep(torch.zeros(1, 6, 3, 5), float8(), DeviceShelf())
    assert torch.equal(written(kept, tokens()), torch.zeros(1, 6, 3, 5))


@pytest.mark.parametrize("format", [exact(), float8()])
def test_the_host_gives_the_same_bits_and_uses_its_memory_again(format):
    shelf = HostShelf(CPU)
    given = [tokens(seed) for seed in range(4)]
    kept = [keep(one, format, shelf) for one in given]
    wanted = [written(keep(one, format, DeviceShelf()), one) for one in given]
    for one in kept[:3]:
        one.ask()
    for one, like in zip(kept, wanted):  # the last one comes without being asked for
        assert torch.equal(written(one, like), like)
        assert torch.equal(written(one, like), like)
    addresses = {part.data_ptr() for one in kept for part in one.packed()}
    for one in kept:
        one.drop()
    again = [keep(one, format, shelf) for one in reversed(given)]
    assert {part.data_ptr() for one in again for part in one.packed()} == addresses
    assert all(torch.equal(written(one, like), like) for one, like in zip(again, reversed(wanted)))


def test_what_waits_on_the_host_is_a_copy():
    given, like = tokens(), tokens()
    kept = keep(given, exact(), HostShelf(CPU))
    given.fill_(-1)
    assert torch.equal(written(kept, like), like)
