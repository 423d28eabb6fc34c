"""The folders that a command writes to.

Knows: the flags that name a folder or file. Must not know: what is written. ``check_folders`` makes nothing;
``make_folders`` is for when all checks have passed.
"""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def check_folders(args):
    """Raises ValueError for a folder that cannot be made or written, by the nearest one that exists. Makes nothing."""
    for folder, name in folders_of(args):
        _check_can_be_made(folder, name)


def make_folders(args):
    """Makes the folders that a run writes to. Raises ValueError for one that cannot be written after all."""
    for folder, name in folders_of(args):
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _cannot_be_written(folder, name, error.strerror) from None


def folders_of(args):
    """(folder, how a message names it) of all folders that the command writes to."""
    yield Path(args["output_directory"]), "--output_directory"
    if args["dualparal_checkpoint"]:
        yield Path(args["dualparal_checkpoint"]), "--dualparal_checkpoint"
    for name in ("dualparal_output", "dualparal_trace", "dualparal_latents_out"):
        if args[name]:
            yield Path(args[name]).parent, f"the folder of --{name}"


def _check_can_be_made(folder, name):
    """Judges by the nearest folder that exists."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)
    except OSError as error:  # a name that is too long, say
        raise _cannot_be_written(folder, name, error.strerror) from None
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise _cannot_be_written(folder, name, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _cannot_be_written(folder, name, os.strerror(errno.EACCES))


def _cannot_be_written(folder, name, why):
    return ValueError(f"{name} {folder} cannot be written ({why}): give a folder that can")
