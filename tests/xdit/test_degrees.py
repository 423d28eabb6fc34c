"""How many processes the launcher starts: as many as the checks will ask for."""

import pytest

from xdualparal.xdit.degrees import num_processes, read_degrees
from xdualparal.xdit.flags import make_parser

COMMAND = ["--model", "tiny-wan", "--prompt", "a ring", "--num_frames", "-3"]


@pytest.mark.parametrize("extra, processes", [
    ([], 1),
    (["--dualparal_degree", "4"], 4),
    (["--dualparal-degree=4", "--ulysses-degree", "2"], 8),
    (["--dualparal_degree=2", "--ulysses_degree=2", "--ring_degree", "3", "--data_parallel_degree", "5", "--use_cfg_parallel"], 120),
    (["--use-cfg-parallel", "--tensor_parallel_degree", "3", "--pipefusion-parallel-degree", "2"], 12),
    (["--dualparal_degree", "4", "--dualparal_degree", "2"], 2),  # the last one counts
    (["--dual_wrong", "4"], None), (["--ulys", "4"], 4), (["--ring=2"], 2),
    (["--prompt", "--ulysses_degree=4 is a flag"], None), (["--negative_prompt", "dualparal_degree 4"], 1),
    (["--seed", "3"], 1),
])
def test_both_parsers_read_the_same(extra, processes):
    """``processes`` is None where the whole parser refuses."""
    argv = COMMAND + extra
    if processes is None:
        with pytest.raises(ValueError):
            make_parser().parse_args(argv)
    else:
        assert num_processes(read_degrees(argv)) == num_processes(vars(make_parser().parse_args(argv))) == processes


@pytest.mark.parametrize("extra", [
    ["--dualparal_degree", "two"], ["--dualparal_degree"], ["--d", "2"], ["--use_cfg_parallel=True"], ["--use", "4"], ["--data", "a.csv"],
])
def test_what_the_whole_parser_refuses_is_left_to_it(extra):
    with pytest.raises(ValueError):
        make_parser().parse_args(COMMAND + extra)
    assert 1 <= num_processes(read_degrees(COMMAND + extra)) <= 2
