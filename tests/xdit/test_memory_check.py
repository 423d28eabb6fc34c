"""A command that does not fit in memory is refused in one line, with what would fit."""

import shlex

import pytest
import torch

from xdualparal.xdit import memory_check, savings
from xdualparal.xdit.degrees import num_processes
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.memory import memory_line, predicted
from xdualparal.xdit.memory_check import RESERVE, Place, check_memory, place_of_this_rank
from xdualparal.xdit.registry import model_class

CARD = 25_400_000_000  # of 24 GiB, what is free of it


def parsed(flags, degree=4, model="Wan2.2-T2V"):
    argv = ["--model", model, "--prompt", "a ship", "--dualparal_degree", str(degree), *shlex.split(flags)]
    return vars(make_parser().parse_args(argv))


@pytest.fixture
def card(monkeypatch):
    """Says of which rank and of how many bytes a device's memory is."""
    def set_to(free_bytes, ranks=(3,), is_host=False, world=4):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        place = Place("this machine" if is_host else "device 3", free_bytes, ranks, is_host)
        monkeypatch.setattr(memory_check, "place_of_this_rank", lambda world_size: place)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: not is_host)
        monkeypatch.setattr(memory_check, "available_on_host", lambda: 10**15)  # beside the device

    return set_to


def check(args):
    return check_memory(args, model_class(args["model"], args["dualparal_degree"]))


def proposal_of(message):
    """The flags that a refusal proposes."""
    return message.split("free: ")[1].split(" would fit, ")[0]


def with_proposal(message, flags):
    """The command that a refusal proposes; what its flags say twice, the last one says."""
    return parsed(f"{flags} {proposal_of(message)}")


def last_rank(args):
    return num_processes(args) - 1


@pytest.mark.parametrize("flags, degree", [
    ("", 4), ("--height 480 --width 832", 4), ("--height 480 --width 832 --guidance_scale 1 --num_inference_steps 4", 4), ("", 2),
])
def test_what_is_proposed_fits_and_nothing_smaller_does(card, flags, degree):
    flags = f"{flags} --dualparal_degree {degree}"
    card(CARD)
    with pytest.raises(ValueError) as refusal:
        check(parsed(flags))
    message = str(refusal.value)
    assert "\n" not in message and message.startswith("by arithmetic rank 3 needs ") and "--dualparal_memory_check warn" in message
    better = with_proposal(message, flags)
    card(CARD, (last_rank(better),), world=num_processes(better))
    assert check(better) == ""
    parts = proposal_of(message).split("--")[1:]
    for alone in parts if len(parts) > 1 else ():  # none of them alone is enough
        worse = parsed(f"{flags} --{alone}")
        card(CARD, (last_rank(worse),), world=num_processes(worse))
        with pytest.raises(ValueError):
            check(worse)


def test_guidance_ranks_are_proposed_only_with_guidance(card):
    flags = "--enable_tiling --dualparal_vae_precision bfloat16 --dualparal_text_encoder cpu --dualparal_decode inline --dualparal_degree 2"
    for extra, expected in ((" --ulysses_degree 2 --dualparal_expert_offload", True), (" --guidance_scale 1", False)):
        args = parsed(flags + extra)
        changes = memory_check._degrees(args, model_class("Wan2.2-T2V", 2))
        assert any("--use_cfg_parallel" in change.text for change in changes) is expected


def test_names_the_largest_parts_and_what_is_free(card):
    card(CARD)
    with pytest.raises(ValueError, match=r"needs \d\d\.\d GB \(passes: .*weights 15.1 GB.* and 500 MB for libraries, and device 3 has 25.4 GB free: "):
        check(parsed("--height 480 --width 832"))


def test_a_user_may_know_better(card):
    card(CARD)
    assert check(parsed("--dualparal_memory_check warn")).startswith("by arithmetic rank 3 needs ")


def test_more_processes_are_proposed_where_flags_are_not_enough(card):
    card(16_000_000_000)
    flags = (
        "--height 480 --width 832 --enable_tiling --dualparal_vae_precision bfloat16 --dualparal_text_encoder cpu "
        "--dualparal_decode inline --dualparal_expert_offload"
    )
    with pytest.raises(ValueError, match=r"free: --dualparal_degree \d+ would fit") as refusal:
        check(parsed(flags, degree=2))
    enough = int(proposal_of(str(refusal.value)).split()[1])
    card(16_000_000_000, ranks=(enough - 1,), world=enough)
    assert check(parsed(flags, degree=enough)) == ""
    card(16_000_000_000, ranks=(enough - 2,), world=enough - 1)
    with pytest.raises(ValueError):
        check(parsed(flags, degree=enough - 1))
    card(16_000_000_000)
    with pytest.raises(ValueError, match=r"free: --dualparal_degree \d+ --ulysses_degree 2 would fit"):
        check(parsed(flags.replace("--height 480 --width 832", ""), degree=2))


def test_says_so_where_nothing_is_enough(card):
    card(3_000_000_000)
    with pytest.raises(ValueError, match="no flag and no degree would be enough: give a smaller --height and --width"):
        check(parsed(""))


def test_the_exact_need_fits_and_a_byte_less_does_not(card):
    args = parsed("--height 480 --width 832")
    card(CARD)
    need = predicted(args, model_class("Wan2.2-T2V", 4))[3].total + RESERVE
    card(need)
    assert check(args) == ""
    card(need - 1)
    with pytest.raises(ValueError):
        check(args)


def test_ranks_on_one_device_add_up(card):
    args = parsed("--height 480 --width 832")
    card(10**15)
    memories = predicted(args, model_class("Wan2.2-T2V", 4))
    need = memories[1].total + memories[3].total + 2 * RESERVE
    card(need - 1, ranks=(1, 3))
    with pytest.raises(ValueError, match=f"all 2 ranks on device 3 {need / 1e9:.1f} GB"):
        check(args)
    card(need, ranks=(1, 3))
    assert check(args) == ""


def test_all_ranks_of_a_machine_add_up_and_replicas_repeat(card):
    args = parsed("--data_parallel_degree 2", degree=2, model="tiny-wan")
    card(1, ranks=(0, 1, 2, 3), is_host=True)
    memories = predicted(args, model_class("tiny-wan", 2))
    need = 2 * sum(memory.total for memory in memories)
    card(need, ranks=(0, 1, 2, 3), is_host=True)
    assert check(args) == ""
    card(need - 1, ranks=(0, 1, 2, 3), is_host=True)
    with pytest.raises(ValueError, match="all 4 ranks on this machine"):
        check(args)


def test_on_a_machine_without_accelerator_the_encoder_is_always_there_and_offload_adds(card):
    args = parsed("--dualparal_text_encoder cpu --dualparal_expert_offload")
    card(10**15, is_host=True)
    memories = predicted(args, model_class("Wan2.2-T2V", 4))
    assert memories[0].text_encoder == 11361820672
    card(sum(memory.total for memory in memories), ranks=(0, 1, 2, 3), is_host=True)
    with pytest.raises(ValueError):
        check(args)


def test_the_demo_model_runs_on_any_machine(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(memory_check, "available_on_host", lambda: 300_000_000)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert check(parsed("--num_frames 10001", model="tiny-wan")) == ""


def test_nothing_is_checked_where_it_is_not_known_what_is_free(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(memory_check, "available_on_host", lambda: None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert check(parsed("")) == ""


@pytest.mark.parametrize("local_rank, first, here, devices, expected", [
    (0, 0, 4, 4, (0,)), (3, 0, 4, 4, (3,)), (3, 8, 8, 4, (11, 15)), (5, 0, 8, 2, (1, 3, 5, 7)), (2, 4, 4, 1, (4, 5, 6, 7)),
])
def test_the_ranks_of_a_device(monkeypatch, local_rank, first, here, devices, expected):
    for name, value in dict(LOCAL_RANK=local_rank, RANK=first + local_rank, LOCAL_WORLD_SIZE=here).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: devices)
    monkeypatch.setattr(memory_check, "free_on_device", lambda index: 10 + index)
    place = place_of_this_rank(16)
    assert place.ranks == expected and place.free_bytes == 10 + local_rank % devices and not place.is_host


def test_what_linux_says_is_available():
    free = memory_check.available_on_host()
    assert 10**8 < free < 10**14


@pytest.mark.parametrize("model", ["tiny-wan", "tiny-wan-2", "Wan2.1-T2V-1.3B", "Wan2.1-T2V", "Wan2.2-T2V"])
def test_every_model_has_a_line(model):
    args = parsed("", degree=2, model=model)
    assert memory_line(args, model_class(model, 2)).startswith("by arithmetic rank ")


def test_another_value_is_refused():
    from xdualparal.xdit.settings import CommandSettings

    with pytest.raises(ValueError, match="memory_check is 'off': give one of refuse, warn"):
        CommandSettings(memory_check="off")


CACHED = "--height 480 --width 832 --num_frames 801 --dualparal_context cached --dualparal_decode inline --dualparal_text_encoder cpu --enable_tiling "


@pytest.mark.parametrize("more, free, proposed", [
    ("--num_inference_steps 20", 40, "--dualparal_context_store host"),
    ("--num_inference_steps 4 --dualparal_context_dtype float8 --dualparal_context_store host", 15, "--dualparal_degree"),
])
def test_ways_out_of_cached_contexts_memory(card, more, free, proposed):
    card(free * 10**9)
    with pytest.raises(ValueError, match=f"free: {proposed}"):
        check(parsed(CACHED + more, degree=4, model="Wan2.1-T2V"))


def test_on_a_machine_without_accelerator_cached_context_gets_smaller_or_recomputed(card):
    """Its host is where it computes."""
    args = parsed(CACHED + "--num_inference_steps 50", degree=1, model="Wan2.1-T2V")
    card(10**15, is_host=True, ranks=(0,), world=1)
    model = model_class("Wan2.1-T2V", 1)
    assert not [*savings.context_on_host(args, model)]
    changes = {change.text: change for change in savings.less_context(args, model)}
    needs = {text: predicted(args | change.values, model_class("Wan2.1-T2V", 1))[0].context for text, change in changes.items()}
    before = predicted(args, model_class("Wan2.1-T2V", 1))[0].context
    half = [needs[f"--dualparal_context_{text}"] for text in ("dtype float8", "latents 2")]
    assert all(0.45 * before < need < 0.55 * before for need in half) and needs["--dualparal_context recomputed"] < before / 20


def test_what_waits_on_the_host_must_fit_there(card, monkeypatch):
    card(10**15)
    args = parsed(CACHED + "--num_inference_steps 20 --dualparal_context_store host", model="Wan2.1-T2V")
    needed = sum(memory.host for memory in predicted(args, model_class("Wan2.1-T2V", 4)))
    monkeypatch.setattr(memory_check, "available_on_host", lambda: needed)
    assert check(args) == ""
    monkeypatch.setattr(memory_check, "available_on_host", lambda: needed - 1)
    with pytest.raises(ValueError, match="cached context wait in this machine's memory, and .* are free: give --dualparal_context_dtype"):
        check(args)
