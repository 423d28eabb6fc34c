"""Durations of actions against sums by hand, and the elementwise work against what torch does."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xdualparal.models.numbers import UMT5_XXL, decode_operations, model_numbers
from xdualparal.models.wan import WanFamily
from xdualparal.plan.actions import BOTH, CONDITIONAL, DECODE, FORWARD, LOAD, SEND, STEP, Action, Pass
from xdualparal.plan.cost import StagePart, forward_operations, shape_of
from xdualparal.plan.device import GPUS, DeviceProfile
from xdualparal.plan.durations import EAGER, Durations, decode_place, layers_with_copies
from xdualparal.plan.layout import Layout
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.placement import Placement
from xdualparal.plan.pricing import price_of
from xdualparal.strategies.clips import ClipLayout, ClipsPlan
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.strategies.fifo import FifoPlan

SMALL = dict(num_layers=30, num_attention_heads=12, ffn_dim=8960)  # Wan2.1-T2V-1.3B
DEVICE = DeviceProfile("one", 10**10, 2e12, 1e12, 4e12, 8e12, 1e11, 1e10, 2e10, float8_per_s=4e12, link_s=1e-3, layer_s=1e-4)
LAYOUT = Layout(8, 4, 28)
FRAME = 30 * 52  # tokens of a latent frame at 480 x 832


def numbers(config=SMALL, vae_dtype=torch.float32):
    return ModelNumbers(**model_numbers(WanFamily(), config, {}, UMT5_XXL, torch.bfloat16, vae_dtype))


def durations(stages=2, device=DEVICE, plan=None, compiled=False, model=None, per_node=None, **run):
    layers = 30 // stages
    run = RunNumbers(480, 832, 2, LAYOUT, 4, (layers,) * stages, **run)
    placement = per_node and Placement(stages, run.ulysses, run.ring, run.guidance_ranks, per_node=per_node)
    return Durations(model or numbers(), run, plan or DualParalPlan(3, 4, stages, layout=LAYOUT), device, 1000.0, compiled, placement)


def test_a_pass_is_its_products_attention_and_elementwise_work():
    plan, one, own = DualParalPlan(3, 4, 2, layout=LAYOUT), Pass(0, 1, 1), durations()
    operations = forward_operations(numbers(), StagePart(15, True, False), shape_of(plan, one), FRAME, 512)
    hidden = 12 * FRAME * 1536 * 2
    branch = operations.matrix / 2e12 + operations.attention / 1e12 + 15 * (EAGER * hidden / 1e11 + 1e-4)
    assert own.seconds(Action(0, FORWARD, one, BOTH)) == pytest.approx(2 * branch)
    assert own.seconds(Action(0, FORWARD, one, CONDITIONAL)) == pytest.approx(branch)
    assert durations(compiled=True).seconds(Action(0, FORWARD, one, CONDITIONAL)) == pytest.approx(branch - 15 * (EAGER - 40) * hidden / 1e11)
    assert own.seconds(Action(1, STEP, one)) == own.seconds(Action(0, SEND, one, peer=1)) == 0


def test_shards_share_the_work_and_exchange():
    """Ulysses 2: half of Q, K, V and the output of half the tokens goes to the other; ring 2: all K and V that a pass sees."""
    one = Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL)
    alone, halves = durations().seconds(one), durations(ulysses=2).seconds(one)
    share, seen = 12 * FRAME // 2 * 1536 * 2, 16 * FRAME // 2 * 1536 * 2
    constant = 15 * 1e-4
    assert halves == pytest.approx((alone - constant) / 2 + constant + 15 * 4 * (1e-3 + share / 2 / 1e10))
    assert durations(ulysses=2).exchanged_bytes(one) == 15 * 4 * share // 2
    assert durations(ring=2).exchanged_bytes(one) == 15 * 2 * seen
    assert durations().exchanged_bytes(one) == 0


def test_ring_gathers_beside_attention_over_its_own_keys():
    """In 15 layers: half of the keys are a rank's own. What does not fit beside them shows."""
    one, gathered = Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL), 2 * 16 * FRAME // 2 * 1536 * 2
    own = 4 * (12 * FRAME // 2) * (16 * FRAME // 2) * 1536 / 1e12
    alone = (durations().seconds(one) - 15 * 1e-4) / 2 + 15 * 1e-4
    assert 1e-3 + gathered / 1e10 < own and durations(ring=2).seconds(one) == pytest.approx(alone)
    slow = replace(DEVICE, link_per_s=1e7)
    assert durations(ring=2, device=slow).seconds(one) == pytest.approx(alone + 15 * (1e-3 + gathered / 1e7 - own))


def test_clips_exchange_beside_attention_over_their_own_keys():
    """3 clips of 9 latent frames, a halo of 4 on each side; of 6 sampled frames (0, 4, 9, 13, 18, 22) 4 are elsewhere, of which one is in the halo."""
    plan = ClipsPlan(ClipLayout(9, 0, 27, clips=3, halo=4, sampled=6), 4)
    one, comes = Action(1, FORWARD, Pass(0, 1, 1), CONDITIONAL), 2 * (8 + 4 - 1) * FRAME * 1536 * 2
    assert shape_of(plan, one.one)[:4] == (9, 9 + 8 + 6, 9, 11)
    fast, slow = (durations(3, replace(DEVICE, link_per_s=rate), plan) for rate in (1e12, 1e6))
    assert fast.exchanged_bytes(one) == 10 * comes
    own = 4 * (9 * FRAME) ** 2 * 1536 / 1e12
    assert slow.seconds(one) - fast.seconds(one) == pytest.approx(10 * (1e-3 + comes / 1e6 - own))


def test_exchanges_take_as_many_links_as_there_are():
    """Ulysses 4: 3 of 7 links. Messages and a pair's exchange have one."""
    one, send, many = Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL), Action(0, SEND, Pass(0, 1, 1), BOTH, 1), replace(DEVICE, links=7)
    exchanged = durations(ulysses=4).exchanged_bytes(one) / 1e10
    assert durations(ulysses=4).seconds(one) - durations(ulysses=4, device=many).seconds(one) == pytest.approx(exchanged * 2 / 3)
    assert durations(ulysses=2).seconds(one) == durations(ulysses=2, device=many).seconds(one)
    assert durations().message_seconds(send) == durations(device=many).message_seconds(send)


def test_predictions_of_other_ranks():
    """With guidance on two ranks each pass's prediction, 8 latent frames in bfloat16, goes to the other one when it is finished; a queue's lanes tell each other theirs,
    in float32: of 4 windows of 6 latent frames the first two are the first lane's."""
    step, prediction = Action(1, STEP, Pass(0, 1, 1)), 8 * 16 * 60 * 104 * 2
    pair = durations(guidance_ranks=2)
    assert pair.exchanged_bytes(step) == prediction and pair.seconds(step) == pair.waiting_seconds(step) == pytest.approx(1e-3 + prediction / 1e10)
    queue = FifoPlan(Layout(8, 0, 40), 24, 2, 2)
    own, wave = durations(2, plan=queue), Pass(0, 0, 30)
    assert own.gathered_bytes(Action(1, STEP, wave)) == 12 * 16 * 60 * 104 * 4 and own.exchanged_bytes(Action(1, STEP, wave)) == 0
    assert own.seconds(Action(1, STEP, wave)) == pytest.approx(1e-3 + 12 * 16 * 60 * 104 * 4 / 1e10)
    assert price_of(queue, own).link_bytes.keys() == {(0, 1), (1, 0)}
    both = durations(2, plan=queue, guidance_ranks=2)
    assert both.exchanged_bytes(Action(1, FORWARD, wave)) == 6 * 16 * 60 * 104 * 2 and both.exchanged_bytes(Action(1, STEP, wave)) == 0
    assert both.waiting_seconds(Action(1, FORWARD, wave)) == pytest.approx(1e-3 + 6 * 16 * 60 * 104 * 2 / 1e10)


def test_messages_have_hidden_states_or_latents():
    own = durations()
    hidden, latents = Action(0, SEND, Pass(0, 1, 1), BOTH, 1), Action(1, SEND, Pass(0, 1, 1), BOTH, 0)
    assert own.message_bytes(hidden) == 2 * 12 * FRAME * 1536 * 2
    assert own.message_bytes(latents) == 8 * 16 * 60 * 104 * 4
    assert own.message_seconds(hidden) == pytest.approx(1e-3 + own.message_bytes(hidden) / 1e10)
    assert own.message_seconds(Action(1, SEND, Pass(0, 1, 3), BOTH, 2)) == 0  # to its own decode lane


ON_NODES = replace(DEVICE, network_per_s=5e8, network_s=3e-3)


def test_sixteen_ranks_on_two_nodes_by_hand():
    """2 stages with Ulysses 8 on nodes of 8: 12 hidden states of 12 latent frames leave the first node, those of both branches of all 8 ranks, and share its
    network; the latents of 3 steps of each of 3 blocks, and the finished ones of the first two, leave the other one. Ulysses 16 sends 8 of 15 parts of all there."""
    staged, split = durations(2, ON_NODES, ulysses=8, per_node=8), durations(1, ON_NODES, ulysses=16, per_node=8)
    hidden, back, inside = Action(0, SEND, Pass(0, 1, 1), BOTH, 1), Action(1, SEND, Pass(0, 1, 1), BOTH, 0), Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL)
    message = 2 * 12 * FRAME // 8 * 1536 * 2
    assert staged.message_seconds(hidden) == pytest.approx(3e-3 + 8 * message / 5e8)
    assert staged.message_seconds(back) == pytest.approx(3e-3 + 8 * 16 * 60 * 104 * 4 / 5e8)
    assert staged.seconds(inside) == durations(2, ulysses=8).seconds(inside)
    price = price_of(staged._plan, staged)
    assert price.network_links == ((0, 1), (1, 0)) and price.network_bytes == 12 * 8 * message == 8 * price.link_bytes[0, 1]
    assert sum(staged.network_bytes(back).values()) == 8 * 16 * 60 * 104 * 4 and not staged.network_bytes(inside)
    exchange = 12 * FRAME // 16 * 1536 * 2 * 15 // 16
    alone = durations(1, ulysses=16).seconds(inside) - 30 * 4 * (1e-3 + exchange / 1e10)
    assert split.seconds(inside) == pytest.approx(alone + 30 * 4 * (3e-3 + 8 * (8 / 15) * exchange / 5e8))
    price = price_of(split._plan, split)
    assert price.network_bytes == pytest.approx(8 * 8 / 15 * price.exchanged_bytes) and not price.network_links


def test_a_rank_sends_no_faster_than_over_its_own_link():
    fast, send = replace(ON_NODES, network_per_s=1e15), Action(0, SEND, Pass(0, 1, 1), BOTH, 1)
    assert durations(2, fast, per_node=1).message_seconds(send) == pytest.approx(3e-3 + durations().message_bytes(send) / 1e10)


def test_predictions_cross_the_network():
    """Of the guidance branches' last stages; of a queue's lanes, each on its node; of clips what their halos have."""
    step = Action(1, STEP, Pass(0, 1, 1))
    pair, prediction = durations(guidance_ranks=2, device=ON_NODES, per_node=2), 8 * 16 * 60 * 104 * 2
    assert pair.seconds(step) == pytest.approx(3e-3 + prediction / 5e8) and pair.network_bytes(step) == {0: prediction, 1: prediction}
    queue = durations(2, ON_NODES, FifoPlan(Layout(8, 0, 40), 24, 2, 2), per_node=1)
    wave = Action(1, STEP, Pass(0, 0, 30))
    assert queue.seconds(wave) == pytest.approx(3e-3 + queue.gathered_bytes(wave) / 5e8) and queue.network_bytes(wave) == {1: queue.gathered_bytes(wave)}
    clips = ClipsPlan(ClipLayout(9, 0, 27, clips=3, halo=4, sampled=0), 4)
    halo = durations(3, replace(ON_NODES, network_per_s=1.0), clips, per_node=1)
    own = 4 * (9 * FRAME) ** 2 * 1536 / 1e12
    both, one = (Action(1, FORWARD, Pass(0, 1, 1), CONDITIONAL), Action(0, FORWARD, Pass(0, 0, 1), CONDITIONAL))
    assert halo.network_bytes(one) == {0: pytest.approx(10 * 2 * 4 * FRAME * 1536 * 2)}
    middle = 3e-3 + 2 * 8 * FRAME * 1536 * 2  # seconds, at a byte a second: its two halos leave the node in the middle
    assert halo.seconds(both) == pytest.approx(10 * middle, rel=1e-6) and middle > own


def test_ranks_that_are_all_on_one_node_are_as_without_nodes():
    for run in (dict(ulysses=2), dict(ring=2), dict(guidance_ranks=2)):
        one, without = durations(device=ON_NODES, per_node=4, **run), durations(**run)
        assert price_of(one._plan, one) == price_of(without._plan, without)


@pytest.mark.parametrize("network_per_s, staged_wins", [(1e8, True), (1e14, False)])
def test_over_a_slow_network_stages_are_faster_than_ulysses(network_per_s, staged_wins):
    """On 2 nodes of 8, of a device with fast links: stages wait at first, Ulysses in each layer."""
    device = replace(DEVICE, network_per_s=network_per_s, network_s=0.0, link_s=0.0, link_per_s=1e14)
    staged, split = durations(2, device, ulysses=8, per_node=8), durations(1, device, ulysses=16, per_node=8)
    assert (price_of(staged._plan, staged).seconds < price_of(split._plan, split).seconds) == staged_wins


def test_decoding_and_experts():
    plan = DualParalPlan(3, 4, 2, layout=LAYOUT)
    decode = Action(1, DECODE, Pass(0, 1, 3))
    assert durations().seconds(decode) == pytest.approx(8 * 480 * 832 * 1000 / 4e12)
    assert durations(model=numbers(vae_dtype=torch.bfloat16)).seconds(decode) == pytest.approx(8 * 480 * 832 * 1000 / 8e12)
    assert durations(parallel_vae=True, ulysses=2).seconds(decode) == pytest.approx(8 * 480 * 832 * 1000 / 4e12 / 4)
    tiles = 256 + 256 + 96, 4 * 256 + 64  # rows from 0, 192 and 384; columns from 0, 192, 384, 576 and 768
    assert durations(tile=(256, 256), tile_stride=(192, 192)).seconds(decode) == pytest.approx(8 * tiles[0] * tiles[1] * 1000 / 4e12)
    assert durations().seconds(Action(0, LOAD, Pass(0, 1, 1))) == pytest.approx(15 * numbers().layer_bytes / 2e10)
    assert plan.layout.own_latents(0) == 12
    assert decode_place("thread", GPUS["h100"]) == "inline" and decode_place("end", GPUS["h100"]) == "end"


def on_the_host(host_per_s):
    """(seconds of a pass with cached K/V on the host, of one with them on the device, seconds of copying a layer's one way)."""
    plan, one = DualParalPlan(3, 4, 1, layout=LAYOUT, context="cached"), Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL)
    device = replace(DEVICE, host_per_s=host_per_s)
    here, there = (durations(1, device, plan, kept_bytes=2, kept_on_host=where) for where in (False, True))
    size = 2 * 4 * FRAME * 1536 * 2  # K and V of 4 latent frames
    assert there.host_bytes(one) == 30 * 2 * size and here.host_bytes(one) == 0
    assert there.host_bytes(Action(0, FORWARD, Pass(0, 0, 1), BOTH)) == 2 * 30 * size  # block 0 reads none, block 2 leaves none
    assert there.host_bytes(Action(0, FORWARD, Pass(0, 2, 1), BOTH)) == 2 * 30 * size and there.host_bytes(Action(0, STEP, one.one)) == 0
    return there.seconds(one), here.seconds(one), size / host_per_s


def test_copies_from_and_to_the_host_are_made_beside_the_pass():
    """But for the first layer's, where the link is fast; where it is slow a pass takes what the copies take, in both directions one after the other."""
    there, here, copy = on_the_host(1e12)
    assert there == pytest.approx(here + copy) and copy < 0.01 * here
    there, here, copy = on_the_host(1e7)
    assert 30 * 2 * copy <= there <= 30 * 2 * copy + here / 30


def test_copies_by_hand():
    """3 layers of 10 s, each with 4 s of K/V that come and 2 that leave; then of 1 s."""
    assert layers_with_copies(3, 10, 4, 2) == 4 + 3 * 10
    # Come: 0 to 4 and 8. Layer 0 from 4; the third's come from 8 to 12, before layer 0's leave until 14; layer 1 from 8, its own leave until 16; layer 2 from 12.
    assert layers_with_copies(3, 1, 4, 2) == 18
    assert layers_with_copies(3, 10, 0, 0) == 30 and layers_with_copies(1, 1, 4, 2) == 6
    assert layers_with_copies(3, 10, 0, 2) == 30 and layers_with_copies(3, 10, 0, 12) == 36


def test_float8_layers_have_its_rate():
    one = Action(0, FORWARD, Pass(0, 1, 1), CONDITIONAL)
    operations = forward_operations(numbers(), StagePart(15, True, False), shape_of(DualParalPlan(3, 4, 2, layout=LAYOUT), one.one), FRAME, 512)
    assert durations().seconds(one) - durations(layer_share=0.5).seconds(one) == pytest.approx(operations.matrix * (1 / 2e12 - 1 / 4e12))


def test_a_published_time():
    """81 frames of 1.3B at 480p take an RTX 4090 "about 4 minutes" (README of Wan-Video/Wan2.1): all is one block."""
    layout = Layout(21, 0, 21)
    run = RunNumbers(480, 832, 2, layout, 50, (30,))
    plan = DualParalPlan(1, 50, 1, layout=layout, decode="inline")
    priced = price_of(plan, Durations(numbers(), run, plan, GPUS["rtx4090"], decode_operations(WanFamily(), {})))
    assert 0.85 < priced.seconds / 240 < 1.15


class Touched(TorchDispatchMode):
    """Counts bytes that are read and written, but by products and attention, and by views."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        given, made = ([one for one in tree_leaves(values) if isinstance(one, torch.Tensor)] for values in ((args, kwargs), result))
        storages = {one.untyped_storage().data_ptr() for one in given}
        is_view = not name.endswith("_") and any(one.untyped_storage().data_ptr() in storages for one in made)
        if not (is_view or name in ("mm", "addmm", "bmm") or "scaled_dot_product" in name):
            self.bytes += sum(one.nbytes for one in (*given, *made))
        return result


@pytest.mark.parametrize("heads, ffn", [(12, 8960), (40, 13824)])
def test_elementwise_work_is_what_torch_does(heads, ffn):
    dim = heads * 128
    block = WanTransformerBlock(dim, ffn, heads, "rms_norm_across_heads", True, 1e-6, None).bfloat16()
    for norm in (block.norm1, block.norm2, block.norm3):
        norm.float()
    hidden, text = torch.randn(1, 16 * 64, dim).bfloat16(), torch.randn(1, 8, dim).bfloat16()
    rotary = WanRotaryPosEmbed(128, (1, 2, 2), 1024)(torch.zeros(1, 16, 16, 16, 16))
    with torch.no_grad(), Touched() as touched:
        block(hidden, text, torch.randn(1, 6, dim), rotary)
    assert touched.bytes / hidden.nbytes == pytest.approx(EAGER, rel=0.03)
