"""xDiT's runner with DualParal: ``torchrun -m xdualparal.xdit.runner``, one process a rank.

Knows: the order of a run in xDiT's runner. Must not know: what DualParal does in it.
"""

import logging
import os
import sys
import warnings
from contextlib import contextmanager

from ..compat.host import enable_host_platform

enable_host_platform()

from xfuser.core.utils.runner_utils import log  # noqa: E402
from xfuser.runner import xFuserModelRunner  # noqa: E402  (after the platform)

from ..launch.errors import FAILED, STOPPED, Refused  # noqa: E402
from ..launch.mailbox import CLAIMED, mailbox_of, refusing, refusing_alone  # noqa: E402
from ..launch.network import keep_store  # noqa: E402
from ..launch.streams import survive_closed_output  # noqa: E402
from ..launch.watchdog import Watchdog  # noqa: E402
from . import own_runs, screen  # noqa: E402
from .advice import waiting_line, without_effect_line  # noqa: E402
from .checks import check_command  # noqa: E402
from .memory import memory_line  # noqa: E402
from .memory_check import check_memory  # noqa: E402
from .outputs import claim_outputs  # noqa: E402
from .flags import command_settings, dualparal_config, make_parser, xdit_args  # noqa: E402
from .folders import make_folders  # noqa: E402


class DualParalRunner(xFuserModelRunner):
    """xDiT's runner for a command whose model class is known, see checks.check_command."""

    def __init__(self, args, model_class, watchdog):
        self._model_class, self._args, self._watchdog = model_class, args, watchdog
        super().__init__(xdit_args(args))
        if args["dualparal_degree"] is None:
            watchdog.begin_phase(None)  # xDiT's own run: nothing of it is observed

    def _select_model(self, model_name, config):
        if self._args["dualparal_degree"] is not None:
            settings = dualparal_config(self._args, self._model_class), command_settings(self._args)
            return self._model_class.configured(config, *settings, self._watchdog)
        own_runs.complete(config)
        model = self._model_class(config)
        if self._args["model_path"]:
            model.settings.model_name = self._args["model_path"]
        return model


def main():
    """Makes the videos of the command in ``sys.argv``.

    Exit code 2: the command cannot work; 1: something failed; 130: it was stopped before the end.
    """
    survive_closed_output()
    mailbox = mailbox_of(os.environ["RANK"])
    with refusing(mailbox), _quietly():
        args, model_class = _check(sys.argv[1:])
    with refusing_alone(mailbox), _quietly():
        warning = check_memory(args, model_class)
        locks = claim_outputs(args, model_class)
    _wait_for_claim(mailbox)
    screen.set_up(args["dualparal_degree"] is not None)
    watchdog = Watchdog(args["dualparal_hang_timeout"], mailbox, os.path.abspath(args["output_directory"]), locks.close)
    if int(os.environ["WORLD_SIZE"]) > 1:
        log(f"connecting {os.environ['WORLD_SIZE']} processes")
    for line in filter(None, (waiting_line(args, model_class), without_effect_line(args, model_class))):
        log(line)
    if warning:
        log(f"warning: {warning}", log_from_all_processes=True)
    elif line := memory_line(args, model_class):
        log(line)
    try:
        store = keep_store()  # noqa: F841  (it lives as long as this name)
        with locks:
            was_stopped = _run(DualParalRunner(args, model_class, watchdog), args)
    except Refused as error:
        with refusing_alone(mailbox):
            raise
    except Exception as error:
        try:
            watchdog.failed(error)
        finally:
            if mailbox.has_launcher:
                os._exit(FAILED)  # the launcher prints why; other threads may wait for ranks that are gone
        raise
    sys.exit(STOPPED if was_stopped else 0)


def _wait_for_claim(mailbox):
    """Until the last process has claimed the files: where it is refused, the others have printed and loaded nothing. On
    several nodes only its own node's processes wait."""
    last = int(os.environ["WORLD_SIZE"]) - 1
    if int(os.environ["RANK"]) == last:
        mailbox.leave(CLAIMED)
    elif int(os.environ["RANK"]) + int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > last:
        mailbox.set_status("waits for the output's files")
        mailbox.wait_for(CLAIMED)


def _check(argv):
    """(the parsed flags, the model's class). Raises ValueError when the command cannot work; nothing was made then.

    All ranks come to the same verdict, before torch.distributed is initialized and before any weight is loaded.
    """
    args = vars(make_parser().parse_args(argv))
    model_class = check_command(args, int(os.environ["WORLD_SIZE"]))
    make_folders(args)
    return args, model_class


@contextmanager
def _quietly():
    """Without warnings: a refusal is one line, and a run repeats what it warns of."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


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
