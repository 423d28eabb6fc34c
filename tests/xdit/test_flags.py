"""The command line."""

from dataclasses import fields

import pytest

from xdualparal import DualParalConfig
from xdualparal.xdit.flags import command_settings, dualparal_config, make_parser, xdit_args
from xdualparal.xdit.settings import CommandSettings


def parse(*extra):
    """The dict of parsed flags."""
    return vars(make_parser().parse_args(["--model", "tiny-wan", "--prompt", "x", *extra]))


def test_a_flag_for_every_field_in_a_group_of_their_own():
    text = make_parser().format_help()
    group = text[text.index("DualParal Options"):]
    for name in ["degree", *(field.name for kind in (DualParalConfig, CommandSettings) for field in fields(kind))]:
        assert f"--dualparal_{name}" in group


def test_defaults_are_the_configs():
    assert dualparal_config(parse()) == DualParalConfig() and command_settings(parse()) == CommandSettings()
    assert parse()["dualparal_degree"] is None


def test_values_reach_the_config_with_dashes_too():
    args = parse("--dualparal-block-latents", "6", "--dualparal_context_latents=3", "--dualparal_trace", "a.json")
    assert dualparal_config(args) == DualParalConfig(6, 3, trace="a.json")
    assert dualparal_config(parse("--dualparal_stage_layers", "5,3")).stage_layers == (5, 3)
    assert dualparal_config(parse("--dualparal_end_costs", "0,2.5")).end_costs == (0, 2.5)


def test_a_bad_list_is_named():
    with pytest.raises(ValueError, match="invalid list of whole numbers value: '5,x'"):
        parse("--dualparal_stage_layers", "5,x")
    with pytest.raises(ValueError, match="invalid pair of numbers value: '1'"):
        parse("--dualparal_end_costs", "1")


def test_the_degree_is_xdits_pipeline_with_one_patch():
    assert xdit_args(parse("--dualparal_degree", "4"))["pipefusion_parallel_degree"] == 4
    assert xdit_args(parse("--dualparal_degree", "4"))["num_pipeline_patch"] == 1
    assert "num_pipeline_patch" not in xdit_args(parse())


def test_every_flag_of_xdit_is_taken():
    from xfuser import xFuserArgs
    from xfuser.config import FlexibleArgumentParser

    xdits = FlexibleArgumentParser()
    xFuserArgs.add_runner_args(xdits)
    assert set(xdits._option_string_actions) <= set(make_parser()._option_string_actions)


def test_an_error_is_one_line():
    with pytest.raises(ValueError) as error:
        parse("--dualparal_degree", "two")
    assert str(error.value) == "argument --dualparal_degree: invalid int value: 'two' (xdit-dualparal --help lists the flags)"
