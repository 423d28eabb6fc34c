"""Whether a command's scheduler can make its video, judged before any weight is loaded.

Knows: flags, and where a model's scheduler is. Must not know: what makes a scheduler right (models/schedulers.py).
"""

from pathlib import Path

from ..models.schedulers import check_scheduler
from ..models.weights import read_scheduler
from .flags import value_of


def check_sampling(args, model):
    """Raises ValueError for a scheduler, steps or ``--flow_shift`` that make no video; a model that is still on the hub is
    checked when it is there."""
    folder = Path(model.settings.model_name)
    if not folder.is_dir():
        return
    scheduler, shift = read_scheduler(folder), value_of(args, model, "flow_shift")
    try:
        check_scheduler(model.scheduler(scheduler, shift), value_of(args, model, "num_inference_steps"))
    except ValueError as error:
        raise ValueError(f"{folder}/scheduler: {error}" if shift is None else f"{folder}/scheduler, --flow_shift {shift:g}: {error}") from None
