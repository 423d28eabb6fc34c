"""xDiT's runner with DualParal: ``torchrun -m xdualparal.xdit.runner``, one process a rank.

Knows: the order of a run in xDiT's runner. Must not know: what DualParal does in it.
"""

import logging
import os
import sys

from ..compat.host import enable_host_platform

enable_host_platform()

from xfuser.runner import xFuserModelRunner  # noqa: E402  (after the platform)

from .checks import check_or_exit  # noqa: E402
from .flags import command_settings, dualparal_config, make_parser, xdit_args  # noqa: E402
from ..launch.watchdog import STOPPED, Watch  # noqa: E402
from ..launch.mailbox import launcher_of  # noqa: E402


class DualParalRunner(xFuserModelRunner):
    """xDiT's runner for a command whose model class is known, see checks.check_command."""

    def __init__(self, args, model_class, watch):
        self._model_class, self._args, self._watch = model_class, args, watch
        super().__init__(xdit_args(args))
        if args["dualparal_degree"] is None:
            watch.begins(None)  # xDiT's own run: nothing is watched

    def _select_model(self, model_name, config):
        if self._args["dualparal_degree"] is not None:
            return self._model_class.configured(config, dualparal_config(self._args), command_settings(self._args), self._watch)
        model = self._model_class(config)
        if self._args["model_path"]:
            model.settings.model_name = self._args["model_path"]
        return model


def main():
    """Makes the videos of the command in ``sys.argv``.

    Exit code 2: the command cannot work; 1: something failed; 130: it was stopped before the end.
    """
    logging.basicConfig(level=logging.INFO)
    args = vars(make_parser().parse_args())
    model_class = check_or_exit(args)
    launcher = launcher_of(os.environ["RANK"])
    watch = Watch(args["dualparal_hang_timeout"], launcher)
    try:
        was_stopped = _run(DualParalRunner(args, model_class, watch), args)
    except Exception as error:
        try:
            watch.failed(error)
        finally:
            if launcher.is_there:
                os._exit(1)  # the launcher says why; other threads may wait for ranks that are gone
        raise
    sys.exit(STOPPED if was_stopped else 0)


def _run(runner, args):
    """Whether a video with an end was stopped before it."""
    input_args = runner.preprocess_args(args)
    runner.initialize(input_args)
    if args["profile"]:
        *_, profile = runner.profile(input_args)
        runner.save(profile=profile)
    else:
        output, timings = runner.run(input_args)
        runner.save(output=output, timings=timings)
    was_stopped = getattr(runner.model, "was_stopped", False) and args["num_frames"] != 0
    runner.cleanup()
    return was_stopped


if __name__ == "__main__":
    main()
