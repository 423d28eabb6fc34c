"""``xdit-dualparal plan``: what it lists works, and what it refuses does not."""

import json
import re
import shlex

import pytest
import torch

from xdualparal.launch.environment import Node
from xdualparal.launch.network import check_master
from xdualparal.plan.device import GPUS
from xdualparal.plan.messages import schedule_with_messages
from xdualparal.plan.render import chrome_trace
from xdualparal.plan.simulate import simulate
from xdualparal.strategies.dualparal import DualParalPlan
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.cli import main, split_arguments
from xdualparal.xdit.degrees import num_processes
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.memory import predicted
from xdualparal.xdit.memory_check import RESERVE
from xdualparal.xdit.registry import model_class

DEMO = "--model tiny-wan --num_frames 129 --num_inference_steps 4"


def planned(tmp_path, flags, num_gpus=4, gpu="rtx4090"):
    """What --json has."""
    file = tmp_path / "plan.json"
    main(["plan", *shlex.split(flags), "--num_gpus", str(num_gpus), "--gpu", gpu, "--json", str(file), "--overwrite"])
    return json.loads(file.read_text())


def args_of(command):
    """The parsed flags of a command that was printed."""
    program, *flags = shlex.split(command)
    assert program == "xdit-dualparal"
    return vars(make_parser().parse_args(split_arguments(flags)[1]))


def node_of(command, *more):
    """The Node that the launcher makes of a command, with what else is typed."""
    flags, _ = split_arguments([*shlex.split(command)[1:], *more])
    return Node(flags.nnodes, flags.node_rank, flags.master_addr, flags.master_port, flags.nproc_per_node)


def test_the_launcher_takes_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    plan = planned(tmp_path, f'{DEMO} --prompt "a red circle" "a blue square"')
    assert len(plan["ways"]) > 10
    for way in plan["ways"]:
        args = args_of(way["command"])
        assert num_processes(args) == 4 and args["prompt"] == ["a red circle", "a blue square"]
        assert {name: args[name] or (False if value is False else args[name]) for name, value in way["flags"].items()} == way["flags"]
        check_command(args | dict(output_directory=str(tmp_path / "out")), 4)
    out = capsys.readouterr().out
    assert plan["ways"][0]["command"] in out and "the fastest, whose fullest GPU needs" in out and "decoding" in out


def test_the_launcher_takes_every_command_for_two_nodes(tmp_path, monkeypatch, capsys):
    """On each of them it starts half of the processes; the address is for people to fill in, and the launcher says so."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    plan = planned(tmp_path, f"{DEMO} --prompt x --gpus_per_node 2")
    assert plan["gpus_per_node"] == 2 and len(plan["ways"]) > 10
    for way in plan["ways"]:
        args, nodes = args_of(way["command"]), [node_of(way["command"], "--master_addr", "localhost", "--node_rank", rank) for rank in "01"]
        assert num_processes(args) == 4 and [(node.nnodes, node.node_rank, node.processes(4)) for node in nodes] == [(2, 0, 2), (2, 1, 2)]
        check_master(nodes[0])
        check_command(args | dict(output_directory=str(tmp_path / "out")), 4)
    assert node_of(plan["ways"][0]["command"]).master_addr == "ADDRESS_OF_NODE_0"
    out = capsys.readouterr().out
    assert "4 x RTX 4090 in 2 machines" in out and "over the network" in out and "network: 100 Gbit/s from a machine to the others" in out
    assert "on each machine with its own --node_rank, 0 to 1, and the first one's address" in out


def test_links_within_a_machine_and_between_two(tmp_path):
    ways = planned(tmp_path, f"{DEMO} --prompt x --gpus_per_node 2 --dualparal_degree 4")["ways"]
    assert {(link["stage"], link["over"]) for way in ways for link in way["link_bytes"]} == {(0, "device link"), (1, "network"), (2, "device link"), (3, "network")}
    assert all(way["network_bytes"] == max(link["bytes"] for link in way["link_bytes"] if link["over"] == "network") for way in ways)


def test_over_a_slow_network_stages_are_preferred(tmp_path):
    """2 machines of 2 GPUs: no Ulysses or ring group crosses it, and one that must is the slower the slower it is."""
    slow, fast = (planned(tmp_path, f"{DEMO} --prompt x --gpus_per_node 2 --network_gbps {gbps}")["ways"] for gbps in ("0.5", "100000"))
    best, worst = slow[0]["flags"], slow[-1]["flags"]
    assert best["dualparal_degree"] >= 2 and best["ulysses_degree"] * best["ring_degree"] <= 2
    assert worst["ulysses_degree"] * worst["ring_degree"] == 4
    seconds = [{json.dumps(way["flags"]): way["seconds"] for way in ways} for ways in (slow, fast)]
    assert all(seconds[0][flags] > seconds[1][flags] for flags in seconds[0])


def test_one_machine_is_planned_as_before(tmp_path, capsys):
    eight, four = (planned(tmp_path, f"{DEMO} --prompt x {flags}") for flags in ("", "--gpus_per_node 4"))
    assert eight == four and all(way["network_bytes"] == 0 for way in four["ways"]) and "network" not in capsys.readouterr().out


def test_groups_that_lie_unevenly_are_named(tmp_path):
    plan = planned(tmp_path, f"{DEMO} --prompt x --gpus_per_node 3 --dualparal_context_latents 0", 6)
    uneven = {(one["flags"]["dualparal_degree"], one["flags"]["ulysses_degree"]) for one in plan["refused"] if "some Ulysses groups" in one["why_not"]}
    assert (3, 2) in uneven and not any(way["flags"]["ulysses_degree"] == 2 and way["flags"]["dualparal_degree"] == 3 for way in plan["ways"])


def test_the_fastest_is_first_and_all_of_it_is_told(tmp_path):
    ways = planned(tmp_path, f'{DEMO} --prompt x')["ways"]
    seconds = [way["seconds"] for way in ways]
    assert seconds == sorted(seconds) and all(0 < way["first_frames_s"] <= way["seconds"] and 0 <= way["bubble"] < 1 for way in ways)
    staged = next(way for way in ways if way["flags"]["dualparal_degree"] == 4)
    assert {(link["stage"], link["to"]) for link in staged["link_bytes"]} == {(0, 1), (1, 2), (2, 3), (3, 0)}
    assert all(way["exchanged_bytes"] > 0 for way in ways if way["flags"]["ulysses_degree"] * way["flags"]["ring_degree"] > 1)


def test_memory_is_that_of_the_early_check(tmp_path, monkeypatch):
    """On 24 GB cards 14B as it is does not fit on one or two stages; what is listed needs what the launcher would find."""
    plan = planned(tmp_path, "--model Wan2.1-T2V --height 480 --width 832 --num_frames 321 --num_inference_steps 8 --prompt x", num_gpus=8)
    assert {way["flags"]["dualparal_degree"] for way in plan["ways"] if not SAVINGS.keys() & way["flags"].keys()} == {4, 8}
    assert any(one["flags"]["dualparal_degree"] == 2 and "a rank needs" in one["why_not"] for one in plan["refused"])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for way in plan["ways"]:
        args = args_of(way["command"])
        memory = max(one.total for one in predicted(args, model_class(args["model"], 1)))
        assert way["memory"]["bytes"] == memory + RESERVE <= GPUS["rtx4090"].memory_bytes


SAVINGS = dict(dualparal_decode="thread", dualparal_text_encoder="device", dualparal_expert_offload=False, enable_tiling=False, dualparal_vae_precision=None)


def test_degrees_that_do_not_fit_get_flags_that_save_memory(tmp_path, monkeypatch, capsys):
    """14B at its own size, 720 x 1280: the VAE is what is too much for 24 GB."""
    flags = "--model Wan2.1-T2V --num_frames 321 --num_inference_steps 8 --prompt x"
    plan = planned(tmp_path, flags, num_gpus=8)
    assert "stages 8, decoding inline, VAE in bfloat16 " in capsys.readouterr().out
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for way in plan["ways"]:
        args = args_of(way["command"])
        needs = {name: needed(args | ({name: SAVINGS[name]} if name in SAVINGS else {})) for name in ("as it is", *SAVINGS)}
        assert needs.pop("as it is") <= GPUS["rtx4090"].memory_bytes
        used = {name for name, value in SAVINGS.items() if args[name] != value}
        assert used and all(needs[name] > GPUS["rtx4090"].memory_bytes for name in used)  # none of them is too much


def needed(args):
    """Bytes of the fullest rank of a command."""
    return max(memory.total for memory in predicted(args, model_class(args["model"], 1))) + RESERVE


def test_files_that_are_not_there_yet_are_not_needed(tmp_path):
    """Distilled weights and images: the commands have a place for each."""
    for model, places in (("Wan2.2-Distilled-T2V", ["--distilled_transformer_path FILE", "--distilled_transformer_2_path FILE"]),
                          ("Wan2.1-FLF2V", ["--input_images IMAGE", "--dualparal_last_image IMAGE"])):
        command = planned(tmp_path, f"--model {model} --height 480 --width 832 --num_frames 161 --num_inference_steps 4 --prompt x", 4, "h100")["ways"][0]["command"]
        assert all(place in command for place in places)


def test_a_degree_that_is_given_stays(tmp_path):
    ways = planned(tmp_path, f"{DEMO} --prompt x --dualparal_degree 2 --dualparal_context_latents 0")["ways"]
    assert {(way["flags"]["dualparal_degree"], way["flags"].get("dualparal_context")) for way in ways} == {(2, None)}
    assert not any(" --dualparal_degree 2 " in way["command"].partition("--dualparal_degree 2")[2] for way in ways)


def test_a_video_of_one_block_has_nothing_to_cache(tmp_path):
    one, two = (planned(tmp_path, f"--model tiny-wan --num_inference_steps 4 --num_frames {frames} --prompt x", 2)["ways"] for frames in (45, 49))
    assert not any("dualparal_context" in way["flags"] for way in one) and any("dualparal_context" in way["flags"] for way in two)


def test_a_picture_does_not_replace_what_a_link_leads_to(tmp_path, capsys):
    (tmp_path / "own.svg").write_text("mine")
    (tmp_path / "link.svg").symlink_to(tmp_path / "own.svg")
    with pytest.raises(SystemExit):
        main(["plan", "--model", "tiny-wan", "--num_gpus", "2", "--gpu", "h100", "--gantt", str(tmp_path / "link.svg"), "--overwrite"])
    assert "it is a link" in capsys.readouterr().err and (tmp_path / "own.svg").read_text() == "mine"


def test_a_machine_may_have_more_gpus(tmp_path):
    ways = planned(tmp_path, "--model tiny-wan --num_inference_steps 4 --num_frames 65 --prompt x --dualparal_degree 5 --gpus_per_node 10 --guidance_scale 1", 10)["ways"]
    assert {way["flags"]["dualparal_degree"] for way in ways} == {5}


def test_what_waits_on_the_host_is_told(tmp_path, capsys):
    there, here = (planned(tmp_path, f"{DEMO} --prompt x --dualparal_context cached --dualparal_context_store {place}")["ways"] for place in ("host", "device"))
    tables = capsys.readouterr().out.split("tiny-wan, ")[1:]
    assert ["from and to the host" in table for table in tables] == [True, False] and "of the host's memory:" in tables[0]
    assert all(way["host_bytes"] > 0 for way in there) and not any(way["host_bytes"] for way in here)


def test_other_strategies_are_priced_too(tmp_path):
    full, clips, queue = (
        planned(tmp_path, f"{DEMO} --prompt x --long_video_strategy {name}")["ways"] for name in ("full", "video_infinity", "fifo")
    )
    ours = planned(tmp_path, f"{DEMO} --prompt x")["ways"]
    assert full[0]["seconds"] > ours[0]["seconds"] and queue[0]["seconds"] > ours[0]["seconds"]
    assert clips and all(way["memory"] is None and way["exchanged_bytes"] > 0 for way in clips if way["flags"]["dualparal_degree"] > 1)


def test_a_recorded_trace_beside_it_in_a_picture(tmp_path, capsys):
    trace = tmp_path / "trace.json"
    trace.write_text(chrome_trace(simulate(schedule_with_messages(DualParalPlan(4, 4, 2)))))
    picture = tmp_path / "timeline"
    flags = f"--num_gpus 2 --gpu rtx4090 --dualparal_degree 2 --gantt {picture} --compare {trace}"
    main(["plan", *shlex.split(f"{DEMO} --prompt x {flags}")])
    out = capsys.readouterr().out
    assert "stage 1 pass" in out and "stages 2 cached" in out
    assert "simulated, stages 2:" in picture.with_suffix(".svg").read_text()  # the fastest is cached, the recorded run was not
    assert {path.suffix for path in tmp_path.glob("timeline.*")} == {".svg", ".png"}


def test_float8_is_planned_where_this_machine_has_none(tmp_path):
    plain, float8 = (planned(tmp_path, f"{DEMO} --prompt x {flags}", 2)["ways"] for flags in ("", "--gemm_quantization fp8"))
    assert len(float8) == len(plain) and float8[0]["seconds"] < plain[0]["seconds"] and "--gemm_quantization fp8" in float8[0]["command"]


@pytest.mark.parametrize("flags, message", [
    ("--model tiny-wan --gpu rtx4090", "--num_gpus is missing"),
    ("--model tiny-wan --num_gpus 2", "--gpu is missing"),
    ("--model tiny-wan --num_gpus 0 --gpu rtx4090", "--num_gpus is 0: give a whole number from 1"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx9090", "--gpu is 'rtx9090' .*: give one of rtx4090, "),
    ("--model tiny-wam --num_gpus 2 --gpu rtx4090", "'tiny-wam' is not known"),
    ("--model Wan2.1-VACE-14B --num_gpus 2 --gpu rtx4090", "has no DualParal support"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --num_frames 0", "--num_frames is 0, for a video without end"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --dualparal_degree 3", "no degrees that are given make 2 GPUs"),
    ("--model Wan2.1-T2V --num_gpus 1 --gpu rtx4090", "nothing runs on 1 x RTX 4090; nearest is stages 1.*: a rank needs"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --height 40", "height is 40"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --speed 3", "unrecognized arguments: --speed 3"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --show 0", "--show is 0"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --json there.json", "--json there.json exists: .* --overwrite"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --gantt x.jpg", "ends in .jpg: give .svg, .png"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --compare there.json", "is not a recorded trace"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --num_frames 129 --dualparal_degree 1 --ring_degree 2 --compare two.json", "two.json is of 2 stages and compared with stages 1 ring 2.*: add"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --num_frames 33 --dualparal_degree 2 --compare two.json", "two.json has 16 passes, and .* are planned"),
    ("--model tiny-wan --num_gpus 2 --gpu a100 --gemm_quantization fp8", "profile of A100 80 GB SXM has no rate in float8"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --lora nowhere.safetensors", "nowhere.safetensors is missing: give a safetensors file"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --lora there.json", "there.json"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --lora ''", "--dualparal_lora is ''"),
    ("--model tiny-wan --num_gpus 9 --gpu rtx4090", "--num_gpus is 9 and a machine has 8 GPUs.*give a multiple of 8, or --gpus_per_node 3 or 9"),
    ("--model tiny-wan --num_gpus 4 --gpu rtx4090 --network_gbps 10", "--network_gbps is 10 and 4 GPUs are in one machine of 8"),
    ("--model tiny-wan --num_gpus 4 --gpus_per_node 2 --gpu rtx4090 --network_gbps 0", "--network_gbps is 0.0: give a number above 0"),
    ("--model tiny-wan --network_gbps 10 --calibrate new.json", "--network_gbps does nothing with --calibrate"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --gpus_per_node 0", "--gpus_per_node is 0: give a whole number from 1"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --long_video_strategy fifo --dualparal_stage_layers 4,4", "error: stage_layers is 4,4 and strategy is fifo"),
    ("--model tiny-wan --num_gpus 2 --gpu rtx4090 --input_images a b", "error: --input_images is given and tiny-wan makes videos of text only"),
    ("--model tiny-wan --num_gpus 2 --calibrate new.json", "--num_gpus does nothing with --calibrate"),
])
def test_refused_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    (tmp_path / "two.json").write_text(chrome_trace(simulate(schedule_with_messages(DualParalPlan(4, 4, 2)))))
    with pytest.raises(SystemExit) as end:
        main(["plan", *shlex.split(flags)])
    out, error = capsys.readouterr()
    assert end.value.code == 2 and out == "" and len(error.strip().splitlines()) == 1 and re.search(message, error), error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.json", "two.json"]
