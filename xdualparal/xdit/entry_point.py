"""What the entry point in the group ``xfuser.plugins`` names.

Knows: whether the installed xfuser has DualParal itself. Must not know: what a plugin does.
"""

import importlib.util

from .plugin import DualParalPlugin


class Nothing:
    """A plugin that adds nothing."""

    degree_arguments = ()

    def add_runner_args(self, parser):
        """No flag."""

    def runner_args(self, args):
        """As they are."""
        return args

    def select_model(self, model_name, args):
        """None."""


def make_plugin():
    """What the entry point names. An xfuser that has DualParal itself (patches/0006) needs nothing from here."""
    built_in = importlib.util.find_spec("xfuser.dualparal") is not None
    return Nothing() if built_in else DualParalPlugin()
