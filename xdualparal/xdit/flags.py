"""DualParal's launch flags beside xDiT's.

Knows: the command line. Must not know: models, processes.
"""

from dataclasses import fields

import torch
from xfuser import xFuserArgs
from xfuser.config import FlexibleArgumentParser

from ..config import DualParalConfig
from ..compat.backports import add_missing_flags
from ..strategies.table import strategy_of
from ..launch.errors import refuse  # noqa: F401  (the models refuse with it)
from .settings import CommandSettings


class OneLineParser(FlexibleArgumentParser):
    """xDiT's parser, except that an error is a ValueError of one line: xDiT prints its usage, over a hundred lines."""

    def error(self, message):
        """Raises ValueError."""
        raise ValueError(f"{message} ({self.prog} --help lists the flags)")


def make_parser():
    """A parser with every flag of xDiT's runner and DualParal's own group."""
    parser = OneLineParser(
        prog="xdit-dualparal",
        description="xDiT with DualParal: long videos, pipelined over GPUs. Takes every flag of xdit; "
        "--dualparal_degree turns DualParal on. --nnodes, --node_rank, --master_addr, --master_port and "
        "--nproc_per_node start it on several machines, as with torchrun. Other commands, each with --help: xdit-dualparal "
        "decode FILE decodes latents that were kept, plan finds degrees for a number of GPUs, bench measures strategies side by side, quality "
        "measures videos.",
    )
    xFuserArgs.add_runner_args(parser)
    add_missing_flags(parser, xFuserArgs)
    add_dualparal_args(parser)
    # Not in plain xdit, where a flag without our prefix could meet one of its own.
    parser.add_argument("--output", dest="dualparal_output", metavar="FILE", help="the same as --dualparal_output")
    parser.add_argument(
        "--vae_dtype", dest="dualparal_vae_precision", metavar="P", help="the same as --dualparal_vae_precision"
    )
    parser.add_argument(
        "--long_video_strategy", dest="dualparal_strategy", metavar="NAME", help="the same as --dualparal_strategy"
    )
    parser.add_argument(
        "--dualparal_continue", dest="dualparal_continue_from", metavar="FILE", help="the same as --dualparal_continue_from"
    )
    for name in ("lora", "lora_2"):
        parser.add_argument(
            f"--{name}", dest=f"dualparal_{name}", action="append", metavar="PATH[:WEIGHT]", help=f"the same as --dualparal_{name}"
        )
    return parser


def add_dualparal_args(parser):
    """Adds ``--dualparal_degree`` and a flag for each field of DualParalConfig and CommandSettings, in a group of their own."""
    group = parser.add_argument_group("DualParal Options")
    group.add_argument(
        "--dualparal_degree", type=int, metavar="N",
        help="turn DualParal on with N pipeline stages (1 is allowed); multiplies the number of processes",
    )
    for field in (*fields(DualParalConfig), *fields(CommandSettings)):
        if field.type is bool:
            group.add_argument(f"--dualparal_{field.name}", action="store_true", help=field.metadata["help"])
            continue
        if field.type == _TEXTS:
            group.add_argument(f"--dualparal_{field.name}", action="append", metavar=field.metadata["value"], help=field.metadata["help"])
            continue
        convert, metavar = _FLAG_TYPES[field.type]
        group.add_argument(
            f"--dualparal_{field.name}", type=convert, metavar=field.metadata["value"] or metavar, default=field.default,
            help=f"{field.metadata['help']} (default: {field.default})",
        )


def _whole_numbers(text):
    return tuple(map(int, text.split(",")))


def _two_numbers(text):
    first, last = map(float, text.split(","))
    return first, last


_TEXTS = tuple[str, ...] | None  # of a flag that may be given several times
# argparse names them in its errors
_whole_numbers.__name__, _two_numbers.__name__ = "list of whole numbers", "pair of numbers"
_FLAG_TYPES = {  # a field's type: how a flag's text becomes one, and what the help calls it
    int: (int, "N"),
    int | None: (int, "N"),
    str: (str, "PLACE"),
    float: (float, "X"),
    float | None: (float, "S"),
    str | None: (str, "PATH"),
    tuple[float, float]: (_two_numbers, "A,B"),
    tuple[int, ...] | None: (_whole_numbers, "N,N,..."),
}


def dualparal_config(args, model=None):
    """The DualParalConfig in ``args``, a dict of parsed flags, settled for their degree and, where it is given, for the ``model``'s class.
    Raises ValueError as DualParalConfig does."""
    config = DualParalConfig(**{field.name: args[f"dualparal_{field.name}"] for field in fields(DualParalConfig)})
    if args["dualparal_degree"] is None:
        return config
    return strategy_of(config).settled(config, args["dualparal_degree"], model and model.family.facts)


def command_settings(args):
    """The CommandSettings in ``args``. Raises ValueError as CommandSettings does."""
    values = {field.name: args[f"dualparal_{field.name}"] for field in fields(CommandSettings)}
    return CommandSettings(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def value_of(args, model, name):
    """What ``--name`` gives, or the model's default; None where there is neither. A guidance scale that is given is the second
    expert's too, as in diffusers, and not only beside its default: with few steps --guidance_scale 1 is meant for all."""
    default = getattr(model.default_input_values, name, None)
    if name == "guidance_scale_2" and default is not None and args["guidance_scale"] is not None:
        default = args["guidance_scale"]
    return args[name] if args[name] is not None else default


def xdit_args(args):
    """``args`` with DualParal's degree where xDiT has its own pipeline's, as its configuration expects it.

    One patch: more would wake PipeFusion's stale K/V paths (DESIGN section 3).
    """
    if args["dualparal_degree"] is None:
        return dict(args)
    # xDiT wants one with a file of prompts.
    batch_size = args["batch_size"] or (args["dualparal_videos_in_flight"] if args["dataset_path"] else None)
    return dict(
        args, pipefusion_parallel_degree=args["dualparal_degree"], num_pipeline_patch=1, batch_size=batch_size,
        attention_backend=args["attention_backend"] or _default_backend(args),
    )


def _default_backend(args):
    """None, xDiT's own choice; on the CPU that is one without the log-sum-exp, and a strategy may need it."""
    if torch.accelerator.is_available() or not strategy_of(dualparal_config(args)).merges_attention:
        return None
    return "SDPA_FLASH"
