"""Memory by arithmetic, on numbers that can be checked by hand. tests/engine/test_memory.py measures."""

from dataclasses import replace

import pytest

from xdualparal.plan.layout import Layout
from xdualparal.plan import memory
from xdualparal.plan.memory import fullest, memory_of_ranks
from xdualparal.plan.memory_numbers import ModelNumbers, RunNumbers
from xdualparal.plan.schedule import AT_END, INLINE, NO_DECODE, THREAD

# 10 x 10 numbers: a token is 2 x 2 latents of 1 pixel, hidden states have 10 numbers of 2 bytes.
MODEL = ModelNumbers(
    layers=8, heads=2, head_dim=5, ffn_dim=40, channels=3, pixels_per_token=2, pixels_per_latent=1, frames_per_latent=4,
    experts=1, number_bytes=2, layer_bytes=1000, shared_bytes=100, embedding_bytes=20, head_bytes=30, largest_bytes=7,
    text_encoder_bytes=5000, vae_bytes=600, vae_memory_bytes=9.0, vae_work_bytes=11.0,
    vae_small_work_bytes=30.0, vae_small_rows=20, vae_number_bytes=4,
)
RUN = RunNumbers(
    height=20, width=20, branches=2, layout=Layout(2, 1, 9), steps=4, stage_layers=(2, 2, 3, 1), text_tokens=6, decode=THREAD,
)
TWO_EXPERTS = replace(MODEL, experts=2)
WINDOW_TOKENS = 3 * 10 * 10  # B + C latent frames


def test_weights_are_those_of_the_model_and_once_more_what_every_stage_needs():
    weights = [memory.weights for memory in memory_of_ranks(MODEL, RUN)]
    assert weights == [2 * 1000 + 100 + 20, 2100, 3100, 1000 + 100 + 30]
    assert [memory.weights for memory in memory_of_ranks(TWO_EXPERTS, RUN)] == [2 * one for one in weights]


def test_with_offload_the_experts_share_the_memory_of_one():
    memories = memory_of_ranks(TWO_EXPERTS, replace(RUN, expert_offload=True))
    assert [memory.weights for memory in memories] == [2 * 1000 + 2 * 120, 2 * 1000 + 2 * 100, 3 * 1000 + 2 * 100, 1000 + 2 * 130]
    assert [memory.offloaded for memory in memories] == [4000, 4000, 6000, 2000]
    assert [memory.offloaded for memory in memory_of_ranks(TWO_EXPERTS, RUN)] == [0] * 4


def test_quantized_layers_are_loaded_whole():
    plain, quantized = (memory_of_ranks(MODEL, replace(RUN, layer_share=share))[2].phases() for share in (1.0, 0.5))
    assert quantized["loading"] == plain["loading"] and quantized["passes"] == plain["passes"] - 3 * 1000 / 2


def test_the_parts_of_a_middle_stage():
    """Stage 2 of 4, 3 layers: hidden states have 300 tokens of 20 bytes."""
    memory, hidden = memory_of_ranks(MODEL, RUN)[2], WINDOW_TOKENS * 20
    assert memory.context == 2 * 3 * 2 * (100 * 20) + 2 * (4 / 3) * hidden  # branches, layers, K and V; joined with the window's
    assert memory.messages == 2 * 2 * hidden + 2 * 2 * hidden + hidden  # received, sent, and the first branch's result
    assert memory.text == 2 * 6 * 20 * (1 + 2 * 3) + 5 * 7 * 10 * 2
    # Its input, rotary tables, and the larger of RoPE, norms and feed-forward: 3 hidden states and 2 inner ones of 4 times the width
    assert memory.activations == hidden + 2 * WINDOW_TOKENS * 5 * 4 + max(7 * hidden + 3 * hidden, 11 * hidden, 11 * hidden, 10 * hidden)
    assert (memory.latents, memory.vae, memory.vae_memory, memory.decoding, memory.text_encoder) == (0, 0, 0, 0, 0)


def test_the_ends_hold_the_latents():
    """A frame is 3 * 400 * 4 bytes; block 0 has 3, the 3 others 2 of them; all 4 are in flight."""
    first, *_, last = memory_of_ranks(MODEL, RUN)
    frame, stepped = 4800, (3 + 2 * 2) * 4800
    assert first.latents == stepped + 2 * 2 * frame + 3 * frame
    assert last.latents == 4 * stepped + 3 * frame + 2 * 2 * frame
    alone = memory_of_ranks(MODEL, replace(RUN, stage_layers=(8,), decode=AT_END))[0]
    assert alone.latents == 4 * stepped + 2 * 2 * frame + 2 * 3 * frame + 9 * frame  # all 9 are kept until the end


def test_only_the_first_rank_encodes_and_only_the_last_one_decodes():
    run = replace(RUN, ulysses=2, guidance_ranks=2)
    memories = memory_of_ranks(MODEL, run)
    assert [memory.text_encoder for memory in memories] == [5000] + [0] * 15
    assert [memory.decoding > 0 for memory in memories] == [False] * 15 + [True]
    assert [memory.vae for memory in memories] == ([0] * 6 + [600] * 2) * 2  # the last stage loads it
    assert [memory.weights for memory in memories] == [one for one in (2120, 2100, 3100, 1130) for _ in range(2)] * 2
    assert memory_of_ranks(MODEL, replace(RUN, encoder_on_device=False))[0].text_encoder == 0


def test_parts_of_frames_and_branches_of_their_own_divide_what_passes_hold():
    whole, half = memory_of_ranks(MODEL, RUN)[1], memory_of_ranks(MODEL, replace(RUN, ulysses=2))[2]
    assert (half.activations * 2, half.context * 2, half.messages * 2) == (whole.activations, whole.context, whole.messages)
    assert half.text == whole.text
    branch = memory_of_ranks(MODEL, replace(RUN, guidance_ranks=2))[1]
    assert branch.activations == whole.activations and branch.text < whole.text and branch.messages < whole.messages / 2


def test_videos_side_by_side_have_their_own_context_latents_and_decoder_memory():
    one, two = (memory_of_ranks(MODEL, replace(RUN, videos=videos)) for videos in (1, 2))
    kept = 2 * 2 * 2 * (100 * 20)
    assert two[1].context - one[1].context == kept and two[1].activations == one[1].activations
    assert two[3].vae_memory == 2 * one[3].vae_memory and two[3].decoding == one[3].decoding
    assert two[0].latents > one[0].latents


@pytest.mark.parametrize("place, beside", [(THREAD, True), (INLINE, False), (AT_END, False)])
def test_decoding_beside_passes_adds_up(place, beside):
    memory = memory_of_ranks(MODEL, replace(RUN, decode=place))[3]
    both = memory.activations + memory.decoding if beside else max(memory.activations, memory.decoding)
    stays = memory.weights + 600 + memory.text + memory.context + memory.messages + memory.latents + memory.vae_memory
    assert memory.phases()["passes"] == memory.total == stays + both
    assert memory.vae_memory == 9 * 400
    assert memory.decoding == max(11 * 400 + 3 * 4 * 400 * 3 * 4, 3 * 3 * 4 * 400 * 3 * 4)


def test_nothing_is_decoded_for_latents():
    memory = memory_of_ranks(MODEL, replace(RUN, decode=NO_DECODE))[3]
    assert (memory.vae_memory, memory.decoding) == (0, 0)


def test_tiles_overlap_in_memory_and_bound_the_work():
    """20 pixels in tiles of 8, 6 apart: 8, 8, 8 and 2 long."""
    memory = memory_of_ranks(MODEL, replace(RUN, tile=(8, 8), tile_stride=(6, 6)))[3]
    assert memory.vae_memory == 9 * 26**2
    frames = 3 * 4 * 400 * 3 * 4
    assert memory.decoding == max(11 * 64 + frames, 3 * frames)
    large = memory_of_ranks(MODEL, replace(RUN, tile=(20, 32), tile_stride=(15, 24)))[3]
    assert large.vae_memory == 9 * 400  # no tiles are used


def test_small_frames_need_more_on_a_cpu():
    model = replace(MODEL, vae_work_bytes=1100.0, vae_small_work_bytes=3000.0)
    small, large = (memory_of_ranks(model, replace(RUN, on_host=True, height=height, width=100))[3] for height in (20, 22))
    row = 3 * 4 * 100 * 3 * 4  # of a block's frames
    assert (small.decoding, large.decoding) == (3000 * 20 * 100 + 20 * row, 1100 * 22 * 100 + 22 * row)
    assert memory_of_ranks(model, replace(RUN, height=20, width=100))[3].decoding == 1100 * 20 * 100 + 20 * row


def test_the_peak_is_the_largest_phase():
    memory = memory_of_ranks(replace(MODEL, text_encoder_bytes=10**9), RUN)[0]
    assert memory.total == memory.phases()["encoding"] == 10**9
    memory = memory_of_ranks(replace(MODEL, largest_bytes=10**9), RUN)[0]
    assert memory.total == memory.phases()["loading"] == 10**9 + memory.weights


def test_the_length_of_a_video_does_not_matter_but_to_what_is_decoded_at_the_end():
    def totals(latent_frames, decode):
        run = replace(RUN, layout=Layout(2, 1, latent_frames), decode=decode)
        return [memory.total for memory in memory_of_ranks(MODEL, run)]

    assert totals(100, THREAD) == totals(10000, THREAD) == totals(None, THREAD)
    assert totals(10000, AT_END)[3] - totals(100, AT_END)[3] == 9900 * 4800


def test_a_video_in_one_block_needs_no_context():
    memory = memory_of_ranks(MODEL, replace(RUN, layout=Layout(2, 1, 2)))[1]
    assert memory.context == 0
    assert memory.messages == (2 * 2 + 2 * 2 + 1) * 200 * 20


def test_the_fullest_rank():
    memories = memory_of_ranks(MODEL, RUN)
    number, memory = fullest(memories)
    assert memory.total == max(one.total for one in memories) and memories[number] is memory


def test_the_parts_that_are_shown_are_not_empty():
    parts = memory_of_ranks(MODEL, RUN)[1].parts()
    assert set(parts) == {"weights", "loading", "text", "activations", "context", "messages"} and all(parts.values())


def whole_context(run, model=MODEL):
    """The context of stage 2 when the K/V of as many passes wait as ever do."""
    return memory._context(model, run, 2, run.kept_entries)


def test_cached_context_waits_as_often_as_designed():
    """4 blocks, 4 steps: min(4, 3 * 1) entries of 2 branches, 3 layers, K and V, of 100 tokens of 10 numbers; block 0's window is as before."""
    runs = [replace(RUN, **more) for more in ({}, dict(kept_bytes=2), dict(kept_bytes=1), dict(kept_bytes=2, kept_on_host=True))]
    plain, cached, float8, host = map(whole_context, runs)
    entry = 2 * 3 * 2 * 100 * 10 * 2
    assert cached - plain == 3 * entry and float8 - plain == 3 * entry / 2
    on_device, on_host = (memory_of_ranks(MODEL, run)[2] for run in (runs[1], runs[3]))
    assert (on_host.kept_on_host, on_host.host, host - plain) == (3 * entry, 3 * entry, 5 * entry / 6)
    assert on_device.host == 0 and on_host.total < on_device.total
    two = whole_context(replace(RUN, kept_bytes=2, stagger=2, videos=2))
    assert two == 2 * plain - 2 * (4 / 3) * WINDOW_TOKENS * 20 + 2 * 4 * entry


def test_anchors_wait_for_each_step():
    """4 steps, 2 branches, 3 layers, K and V, of 2 of 8 latent frames' tokens; and one layer's, joined with the window's."""
    a_frame = WINDOW_TOKENS // RUN.window_latents
    runs = [replace(RUN, **more) for more in ({}, dict(anchor_latents=2, anchor_bytes=2), dict(anchor_latents=2, anchor_bytes=1), dict(
        anchor_latents=2, anchor_bytes=2, kept_on_host=True))]
    plain, device, float8, host = map(whole_context, runs)
    entry, joined = 2 * 3 * 2 * 2 * a_frame * 10 * 2, 2 * 2 * a_frame * 10 * 2
    assert (device - plain, float8 - plain, host - plain) == (4 * entry + joined, 2 * entry + joined, 5 * entry / 6 + joined)
    assert memory_of_ranks(MODEL, runs[3])[2].kept_on_host == 4 * entry
    one_block = replace(RUN.layout, latent_frames=RUN.window_latents)
    assert whole_context(replace(runs[1], layout=one_block)) == whole_context(replace(RUN, layout=one_block))


def test_block_0_and_all_kept_entries_do_not_meet():
    """Windows of 15 latent frames for block 0 and 10 for the others: the fuller of block 0 without the last entry and another with all."""
    run = replace(RUN, kept_bytes=2, layout=Layout(RUN.layout.block_latents, RUN.layout.context_latents, RUN.layout.latent_frames, equal_windows=False))
    most, one = memory_of_ranks(MODEL, run)[2], memory._kept(MODEL, run, 2)
    assert most.context in (whole_context(run), whole_context(run) - one)
    parts = [memory._activations(MODEL, run, False, window) for window in (run.window_latents, run.layout.block_latents)]
    assert most.activations == (parts[1] if most.context == whole_context(run) else parts[0]) and parts[1] < parts[0]


def test_designs_figures_of_cached_context():
    """DESIGN section 2: Wan 14B at 480p in bfloat16, C = 4, 5 layers a stage: 2.6 GB with 4 steps and no guidance, 64 GB with 50 and two
    branches."""
    wan = replace(MODEL, heads=40, head_dim=128, pixels_per_token=16, pixels_per_latent=8)
    for steps, branches, expected in ((4, 1, 2.6e9), (50, 2, 64e9)):
        sizes = dict(height=480, width=832, layout=Layout(8, 4), stage_layers=(5,) * 8, steps=steps, branches=branches)
        plain, cached = (whole_context(replace(RUN, **sizes, kept_bytes=kept), wan) for kept in (0, 2))
        assert cached - plain == pytest.approx(expected, rel=0.02)
