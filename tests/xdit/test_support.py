"""The table of xDiT's flags: it has every one, and what it refuses is refused by name."""

import pytest
from xfuser import xFuserArgs
from xfuser.config import FlexibleArgumentParser

from xdualparal.compat.backports import add_missing_flags
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.support import REFUSED, USED, WITH_PROFILE, check_support


def command(folder, *extra, model="tiny-wan", degree=2):
    """A good command's flags, as a dict, with ``extra`` ones behind."""
    degrees = [] if degree is None else ["--dualparal_degree", str(degree)]
    argv = ["--model", model, "--prompt", "a red circle", "--output_directory", str(folder), *degrees, *extra]
    return vars(make_parser().parse_args(argv))


def xdits_flags():
    """{name: argparse's action} of the installed xDiT's own flags."""
    parser = FlexibleArgumentParser()
    xFuserArgs.add_runner_args(parser)
    add_missing_flags(parser, xFuserArgs)
    return {action.dest: action for action in parser._actions if action.dest != "help"}


def given(name):
    """Arguments that give ``name`` another value than by default."""
    action = xdits_flags()[name]
    if action.nargs == 0:
        return [action.option_strings[-1] if action.default is True else action.option_strings[0]]
    if action.choices:
        return [f"--{name}", action.choices[0]]
    values = {"int": "3", "float": "0.5", "parse_gemm_quantization": "fp8"}
    return [f"--{name}", values.get(getattr(action.type, "__name__", ""), "something")]


def test_every_flag_of_xdit_is_in_the_table_once():
    groups = (USED, WITH_PROFILE, set(REFUSED))
    assert set(xdits_flags()) == set().union(*groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


@pytest.mark.parametrize("name", REFUSED)
def test_a_flag_without_effect_is_refused_by_name(tmp_path, name):
    extra = given(name)
    if name == "distilled_transformer_path":
        extra = ["--distilled_transformer_path", "a", "--distilled_transformer_2_path", "b"]
    with pytest.raises(ValueError, match=rf"^--{name} (is|was) .* and .*(leave|give)") as error:
        check_command(command(tmp_path, *extra), 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(WITH_PROFILE))
def test_profile_flags_want_a_profile(tmp_path, name):
    with pytest.raises(ValueError, match=f"--{name} is .* and nothing is profiled: add --profile"):
        check_command(command(tmp_path, *given(name)), 2)
    check_command(command(tmp_path, "--profile", *(["--" + name] if "stack" in name else ["--" + name, "3"])), 2)


def test_the_defaults_of_all_flags_are_accepted(tmp_path):
    check_support(command(tmp_path))
    check_command(command(tmp_path, "--gemm_quantization", "none", "--profile_wait", "2", "--spargeattn_simthreshold", "0.3"), 2)


def test_without_dualparal_they_are_xdits(tmp_path):
    args = command(tmp_path, "--enable_model_cpu_offload", "--guidance_scale_2", "3", degree=None, model="Wan2.1-T2V")
    assert check_command(args, 1).__name__ == "xFuserWan21T2VModel"
