"""How many processes a command needs: the product of its degrees.

Knows: the flags of the degrees. Must not know: any other flag. Standard library only: the launcher imports it.
"""

import argparse
import math

DEGREES = (
    "dualparal_degree", "ulysses_degree", "ring_degree", "data_parallel_degree", "tensor_parallel_degree",
    "pipefusion_parallel_degree",
)


def num_processes(args):
    """The product of the degrees in ``args``, a dict of parsed flags, as xdit computes it."""
    return math.prod(args[name] or 1 for name in DEGREES) * (2 if args["use_cfg_parallel"] else 1)


def read_degrees(argv):
    """The degrees in ``argv`` as a dict, read as the whole parser reads them: - stands for _, and flags may be abbreviated.

    What the whole parser will refuse is not refused here. It counts as no degree.
    """
    parser = _DegreeParser(add_help=False)
    for name in DEGREES:
        parser.add_argument(f"--{name}", type=_number)
    parser.add_argument("--use_cfg_parallel", action="store_true")
    try:
        return vars(parser.parse_known_args(list(map(_with_underscores, argv)))[0])
    except ValueError:
        return vars(parser.parse_args([]))


class _DegreeParser(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def _number(text):
    try:
        return int(text)
    except ValueError:
        return None


def _with_underscores(argument):
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return "--" + name.replace("-", "_") + equals + value
