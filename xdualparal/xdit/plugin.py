"""DualParal in plain ``xdit``, for an xfuser that finds plugins by their entry points (patches/0002).

Knows: the hooks of xfuser.plugins.Plugin. Must not know: how a video is made.
"""

import os
from dataclasses import fields
from functools import partial

from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

from ..config import DualParalConfig
from ..launch.mailbox import NoMailbox, refusing, refusing_alone
from ..launch.watchdog import Watchdog
from .checks import check_command
from .flags import add_dualparal_args, command_settings, dualparal_config, make_parser, xdit_args
from .folders import make_folders
from .outputs import claim_outputs
from .registry import DUALPARAL_MODELS
from .settings import CommandSettings


class DualParalPlugin:
    """``--dualparal_degree`` and the other flags, and the models that they turn on."""

    degree_arguments = ("--dualparal_degree",)

    def add_runner_args(self, parser):
        """DualParal's flags, in a group of their own."""
        add_dualparal_args(parser)

    def runner_args(self, args):
        """``args`` with DualParal's degree where xDiT has its pipeline's. Ends the program with exit code 2, and one line
        from rank 0, when they cannot work."""
        if not _concerns_dualparal(args):
            return args
        args = _complete(args)
        _check_or_exit(args)
        return xdit_args(args)

    def select_model(self, model_name, args):
        """Makes the model that streams its video, where DualParal is on."""
        if args.get("dualparal_degree") is None:
            return None
        args = _complete(args)
        watchdog = Watchdog(args["dualparal_hang_timeout"])
        model_class = _check_or_exit(args)
        settings = dict(config=dualparal_config(args, model_class), command=command_settings(args))
        with refusing_alone(NoMailbox()):
            self._locks = claim_outputs(args, model_class)  # until the process ends
        return partial(model_class.configured, watchdog=watchdog, **settings)


def _check_or_exit(args):
    with refusing(NoMailbox()):
        model_class = check_command(args, int(os.environ["WORLD_SIZE"]))
        make_folders(args)
        return model_class


def _concerns_dualparal(args):
    """Whether DualParal is on, or would have to be for what is asked. xDiT's own runs are left alone."""
    is_ours = args["model"] in DUALPARAL_MODELS and args["model"] not in MODEL_REGISTRY
    given = {name: value for name, value in args.items() if name.startswith("dualparal_")}
    return is_ours or any(value != _DEFAULTS.get(name) for name, value in given.items())


_DEFAULTS = {f"dualparal_{field.name}": field.default for kind in (DualParalConfig, CommandSettings) for field in fields(kind)}


def _complete(args):
    """``args`` with the defaults of all flags that are not in them: from Python only some may be given."""
    os.environ.setdefault("RANK", "0"), os.environ.setdefault("WORLD_SIZE", "1")
    return vars(make_parser().parse_args(["--model", args["model"]])) | args
