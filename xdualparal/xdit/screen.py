"""What a command says: plain lines and one progress bar on stderr, and on stdout the paths of videos.

Knows: how the loggers of xfuser, diffusers and transformers print. Must not know: how a run is made.
"""

import logging
import os
import re
import sys
import textwrap
import warnings

from diffusers.utils import logging as diffusers_logging
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging
from xfuser import logger as xfuser_logging

# What xDiT says on the way of a run with DualParal: about its own inside, or what a line of ours says better.
_SAYS_NOTHING = re.compile("|".join([
    "Distributed environment is not initialized", "Model parallel is not initialized", "Using [A-Z0-9_]+ as attention backend",
    "Parameter '.*' not specified. Using model-specific default value", "Initializing model: ", "Loading model pipeline",
    "Initializing runtime state", "Model initialization complete", "Running model", "Running iteration 1/1$",
    "Iteration 1 completed in", "Average time over 1 runs", "Total time spent", "Timings saved to", "Cleaned up resources",
    "Warming up torch compiler",
]))


def set_up(with_dualparal):
    """Makes log lines plain, without the names of modules, all on stderr; LOG_LEVEL=DEBUG leaves them as they are.

    ``with_dualparal``: without it, the run is xDiT's own, and all its lines stay.
    """
    handler = xfuser_logging._default_handler
    handler.setStream(_AboveTheBar())
    handler.flush = handler.stream.flush  # xfuser set stdout's
    root = logging.StreamHandler(handler.stream)
    logging.basicConfig(level=logging.WARNING, handlers=[root], force=True)
    logging.getLogger(__name__.partition(".")[0]).setLevel(logging.INFO)
    if wants_details():
        root.setFormatter(handler.formatter)
        return
    for one in (handler, root):
        one.setFormatter(_PlainFormatter())
        one.setLevel(logging.INFO)
    if with_dualparal:
        warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning)  # xDiT's groups call it
        handler.addFilter(_says_something)
        diffusers_logging.disable_progress_bar()  # each rank would draw its own
        transformers_logging.disable_progress_bar()


def wants_details():
    """Whether the user wants to see all."""
    return os.environ.get("LOG_LEVEL", "").upper() == "DEBUG"


def start_text(video, path):
    """What is said when ``video``, a Video, is begun in the file ``path``."""
    if not video.is_to_make:
        return f"{path} was finished by an earlier run: delete {video.config.checkpoint} to make it anew"
    wanted = video.request
    frames = f"{wanted.num_frames} frames" if wanted.num_frames else "frames until it is stopped"
    return (
        f'"{textwrap.shorten(wanted.prompt, 60)}": {frames} of {wanted.width} x {wanted.height}, {wanted.num_inference_steps} steps, '
        f"seed {video.spec.seed}"
    )


def end_text(path, video, frames):
    """What is said when the run of ``video`` has ended and ``frames`` frames are in the file ``path``."""
    was_stopped, wanted = video.outcome.value == "stopped", video.request.num_frames
    resumes = " (the same command resumes)" if wanted and video.config.checkpoint else ""
    if not frames:
        what = "the state of its blocks is saved" if video.config.checkpoint else "nothing is saved"
        return f'stopped before a block of "{textwrap.shorten(video.request.prompt, 60)}" was finished: {what}{resumes}'
    text = f"{frames} of {wanted} frames saved to {path}" if wanted and was_stopped else f"{frames} frames saved to {path}"
    return f"stopped: {text}{resumes}" if was_stopped else text


def _says_something(record):
    return not _SAYS_NOTHING.match(record.getMessage())


class _PlainFormatter(logging.Formatter):
    def format(self, record):
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _AboveTheBar:
    """stderr, where a line does not break the progress bar."""

    def write(self, text):
        """Writes ``text``, a line."""
        tqdm.write(text, file=sys.stderr, end="")

    def flush(self):
        """Writes what is left."""
        sys.stderr.flush()
