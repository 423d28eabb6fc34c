"""One expert's layers at a time on the device: in shared memory, layer by layer."""

import copy

import pytest
import torch
from dualparal_testing.small_wan import TEXT_DIM, second_expert, small_transformer

from xdualparal.engine import residency
from xdualparal.engine.residency import ResidentExperts, SwappedExperts
from xdualparal.models import WanFamily
from xdualparal.models.wan import TextKV

CPU = torch.device("cpu")


@pytest.fixture
def experts():
    """(transformers, copies of them, their SwappedExperts)."""
    transformers = [small_transformer(), second_expert()]
    return transformers, copy.deepcopy(transformers), SwappedExperts(transformers)


def is_like(block, other):
    """Whether two blocks have equal weights."""
    return all(torch.equal(one, two) for one, two in zip(block.state_dict().values(), other.state_dict().values(), strict=True))


def test_experts_share_one_memory_and_get_their_weights_back(experts):
    transformers, originals, residency = experts
    residency.begin(CPU)
    for one, two in zip(transformers[0].blocks.parameters(), transformers[1].blocks.parameters(), strict=True):
        assert one.data_ptr() == two.data_ptr()
    addresses = [one.data_ptr() for one in transformers[0].blocks.parameters()]
    assert len(set(addresses)) == len(addresses)
    for number in (1, 0):
        residency.load(number)
        assert all(map(is_like, transformers[number].blocks, originals[number].blocks))
        assert not any(map(is_like, transformers[1 - number].blocks, originals[1 - number].blocks))
    residency.end()
    for transformer, original in zip(transformers, originals):
        assert all(map(is_like, transformer.blocks, original.blocks))


def test_a_layer_changes_as_soon_as_it_is_free(experts):
    transformers, originals, residency = experts
    residency.begin(CPU)
    residency.load(0)
    residency.after(0, None)  # the next pass is of the same expert
    assert is_like(transformers[0].blocks[0], originals[0].blocks[0])
    residency.after(0, 1)
    assert is_like(transformers[1].blocks[0], originals[1].blocks[0])
    assert is_like(transformers[0].blocks[1], originals[0].blocks[1])  # computes meanwhile
    residency.load(1)
    assert all(map(is_like, transformers[1].blocks, originals[1].blocks))


def test_without_a_load_a_layer_comes_when_it_is_needed(experts):
    transformers, originals, residency = experts
    residency.begin(CPU)
    residency.before(1, 2)
    assert is_like(transformers[1].blocks[2], originals[1].blocks[2])
    assert not is_like(transformers[1].blocks[3], originals[1].blocks[3])


def test_projections_whose_results_are_kept_are_loaded_no_more(experts):
    transformers, originals, residency = experts
    residency.begin(CPU)
    texts = []
    for number, transformer in enumerate(transformers):
        residency.load(number)
        texts.append(TextKV(transformer.blocks, torch.randn(1, 8, 48)))
    residency.narrow()
    with torch.no_grad():
        for weights in transformers[0].blocks.parameters():
            weights.fill_(7)
    residency.load(0)
    for text in texts:
        text.restore()
    loaded, original = transformers[0].blocks[0], originals[0].blocks[0]
    assert not torch.equal(loaded.attn2.to_k.weight, original.attn2.to_k.weight)
    assert torch.equal(loaded.attn2.to_q.weight, original.attn2.to_q.weight)
    residency.end()
    assert is_like(loaded, original)


def test_their_transformers_are_moved_without_them(experts):
    transformers, originals, _ = experts
    transformers[0].to(torch.float64)
    assert transformers[0].patch_embedding.weight.dtype == torch.float64
    assert is_like(transformers[0].blocks[0], originals[0].blocks[0])


@pytest.mark.parametrize("swaps", [False, True])
def test_what_a_run_needs_once_waits_on_the_host(monkeypatch, swaps):
    """The device is the host here, by another name, so that copies come and go."""
    transformers = [small_transformer(), second_expert()]
    originals, family, device = copy.deepcopy(transformers), WanFamily(), torch.device("cpu", 0)
    moved = []
    monkeypatch.setattr(residency, "_moved", lambda tensor, place: moved.append((tensor, place)) or tensor.clone(), raising=True)
    one = SwappedExperts(transformers) if swaps else ResidentExperts(transformers)
    one.begin(device)
    texts = []
    for number, transformer in enumerate(transformers):
        one.load(number)
        family.condition(transformer, torch.tensor([7.0]), torch.ones(1, 3, TEXT_DIM))
        texts.append(TextKV(transformer.blocks, torch.ones(1, 3, 48)))
    one.narrow([module for transformer in transformers for module in family.used_once(transformer)])
    names = {name for name, _ in transformers[0].named_parameters() if name.startswith("condition_embedder")}
    gone = 0 if swaps else 4 * 5  # of each layer the key's and value's projections and the key's norm
    assert {place for _, place in moved} == {residency.HOST} and len(moved) == 2 * (len(names) + gone)
    moved.clear()
    for text in texts:
        text.restore()
    one.end()
    assert {place for _, place in moved} == {device} and len(moved) == 2 * (len(names) + gone)
    for transformer, original in zip(transformers, originals):
        assert all(map(torch.equal, transformer.state_dict().values(), original.state_dict().values()))


def test_on_a_cpu_nothing_moves():
    transformer = small_transformer()
    addresses = [one.data_ptr() for one in transformer.parameters()]
    resident = ResidentExperts([transformer])
    resident.begin(CPU)
    resident.narrow(WanFamily().used_once(transformer))
    assert [one.data_ptr() for one in transformer.parameters()] == addresses
    resident.end()
    assert [one.data_ptr() for one in transformer.parameters()] == addresses
