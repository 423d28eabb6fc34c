"""xDiT's runner with DualParal: ``torchrun -m xdualparal.xdit.runner``, one process a rank.

Knows: the order of a run in xDiT's runner. Must not know: what DualParal does in it.
"""

import logging
import os
import sys

from .host import enable_host_platform

enable_host_platform()

from xfuser.runner import xFuserModelRunner  # noqa: E402  (after the platform)

from .checks import check_command  # noqa: E402
from .flags import dualparal_config, make_parser, refuse, xdit_args  # noqa: E402


class DualParalRunner(xFuserModelRunner):
    """xDiT's runner for a command whose model class is known, see checks.check_command."""

    def __init__(self, args, model_class):
        self._model_class, self._args = model_class, args
        super().__init__(xdit_args(args))

    def _select_model(self, model_name, config):
        model = self._model_class(config)
        if self._args["dualparal_degree"] is not None:
            model.dualparal_config = dualparal_config(self._args)
        return model


def main():
    """Makes the videos of the command in ``sys.argv``. Ends with exit code 2 when it cannot work."""
    logging.basicConfig(level=logging.INFO)
    args = vars(make_parser().parse_args())
    runner = DualParalRunner(args, _checked(args))
    input_args = runner.preprocess_args(args)
    runner.initialize(input_args)
    if args["profile"]:
        *_, profile = runner.profile(input_args)
        runner.save(profile=profile)
    else:
        output, timings = runner.run(input_args)
        runner.save(output=output, timings=timings)
    runner.cleanup()


def _checked(args):
    try:
        return check_command(args, int(os.environ["WORLD_SIZE"]))
    except ValueError as error:
        if os.environ["RANK"] == "0":
            refuse(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
