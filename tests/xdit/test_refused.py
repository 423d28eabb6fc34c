"""Flags and numbers mean something or are refused, by the launcher or by what each rank checks, in one line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xdualparal.launch.environment import Node
from xdualparal.xdit import cli
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.degrees import num_processes, read_degrees
from xdualparal.xdit.flags import command_settings, dualparal_config, make_parser
from xdualparal.xdit.numbers import RULES

CASES = json.loads((Path(__file__).parent / "cases" / "refused.json").read_text())
DEMO = ["--model", "tiny-wan", "--prompt", "a red circle", "--dualparal_degree", "2"]


def checked(argv):
    """The parsed flags after all that the launcher and the ranks check of ``argv``. Raises ValueError."""
    flags, rest = cli.split_arguments(argv)
    node = Node(flags.nnodes, flags.node_rank, flags.master_addr, flags.master_port, flags.nproc_per_node)
    processes = node.processes(num_processes(read_degrees(rest)))
    args = vars(make_parser().parse_args(rest))
    check_command(args, processes * node.nnodes)
    return args


@pytest.mark.parametrize("extra, words", CASES, ids=[extra for extra, _ in CASES])
def test_a_number_that_means_nothing_is_refused(tmp_path, monkeypatch, extra, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        checked([*DEMO, *extra.split()])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag, value, words", [
    ("output_directory", "a\nb", "has a control character"), ("dualparal_output", "\udcff.mp4", "is no UTF-8 text"),
    ("dualparal_trace", "a\u2028b", "has a control character"), ("model_path", "a\0b", "has a control character"),
    ("dualparal_checkpoint", "y" * 300, "File name too long"), ("dualparal_checkpoint", "y/" * 2100, "File name too long"),
    ("prompt", "&nbsp;", "which says nothing"), ("prompt", "&amp;#8203;", "which says nothing"), ("prompt", "\u3164", "which says nothing"),
])
def test_a_text_that_means_nothing_is_refused(tmp_path, monkeypatch, flag, value, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        checked([*DEMO, f"--{flag}={value}"])
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


NUMBERS = st.one_of(
    st.integers(-3, 20).map(str), st.sampled_from(["16", "32", "48", "64", "81", "512"]), st.integers().map(str), st.floats().map(str),
    st.sampled_from(["nan", "-inf", "1e400", "", " ", "x", "0x10", "1_0", "\u0663", "\udcff", "1,2", "--", "9" * 5000, "True"]),
)
OWN = ("block_latents", "context_latents", "stagger", "checkpoint_waves", "quality", "hang_timeout", "end_costs", "stage_layers", "decode")
NAMES = [*RULES, "ulysses_degree", "ring_degree", "data_parallel_degree", *(f"dualparal_{name}" for name in OWN), "nnodes", "master_port"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flags=st.lists(st.tuples(st.sampled_from(NAMES), NUMBERS), min_size=1, max_size=3, unique_by=lambda flag: flag[0]))
def test_any_numbers_are_meant_or_refused_in_one_line(tmp_path, capsys, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "1")  # xDiT's log asks for them
    try:
        args = checked([*DEMO, *(f"--{name}={value}" for name, value in flags)])
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    except SystemExit as ended:  # the launcher's parser
        lines = capsys.readouterr().err
        assert ended.code == 2 and lines.count("\n") == 1
    else:
        for name, value in flags:
            if name in RULES:
                kind = float if name in ("guidance_scale", "guidance_scale_2", "flow_shift") else int
                assert args[name] == kind(value)
                RULES[name].of(name, args[name])
            elif name.removeprefix("dualparal_") in OWN:
                holder = command_settings(args) if name.endswith(("quality", "hang_timeout")) else dualparal_config(args)
                assert str(getattr(holder, name.removeprefix("dualparal_"))) == str(args[name])
    assert not list(tmp_path.iterdir())
