"""What may be written where: nothing that exists is replaced unless it is the run's own or the user says so.

Knows: paths, and how a whole file takes its place. Must not know: what is in a file, or who wrote it.
"""

import errno
import os
import re
import secrets
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path

ADDED = ".{}.12345678.part"  # the longest name that is made beside a file, see create_beside and lock.lock_path
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of file systems without hard links


def check_regular(path, what):
    """Raises ValueError for a path that is there and is no file that can be replaced, or whose name cannot be: a folder, a
    link (what it leads to is not ours), a pipe or device, a read-only file. ``what``: how the user named it."""
    path = Path(path)
    if not is_printable(str(path)):
        raise ValueError(f"{what} {str(path)!a} cannot be written (it has a control character or is no UTF-8 text): give another name")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        _check_name(path, what)
        return
    except (OSError, ValueError) as error:
        raise _refusal(path, what, getattr(error, "strerror", None) or error) from None
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder"}
    kind = next((name for is_kind, name in kinds.items() if is_kind(mode)), None)
    if kind is None and not stat.S_ISREG(mode):
        kind = "a pipe or device"
    if kind is None and not mode & 0o222:
        kind = "read-only"
    if kind is not None:
        raise _refusal(path, what, f"it is {kind}")


def is_printable(text):
    """Whether ``text`` can be printed in a line: it has no control character, line break or byte of argv that was no text."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text)


def check_new(path, what):
    """Raises ValueError when something is at ``path``."""
    if os.path.lexists(path):
        raise exists(path, what, "exists and is not of this run")


def exists(path, what, why):
    """The ValueError for something at ``path`` that must not be replaced."""
    return ValueError(
        f"{what} {path} {why}: give another name, move the file away, or add --dualparal_overwrite (overwrite=True) to replace it"
    )


def check_apart(named):
    """Raises ValueError when two of ``named``, [(what, path)], are one file, under any names."""
    seen = {}
    for what, path in named:
        for key in _identities(path):
            if key in seen and seen[key] != (what, path):
                raise ValueError(f"{seen[key][0]} {seen[key][1]} and {what} {path} are one file: give each its own")
            seen[key] = what, path


def _identities(path):
    yield os.path.realpath(path)
    with suppress(OSError):
        found = os.stat(path)
        yield found.st_dev, found.st_ino


def check_replaceable(path, what, overwrite):
    """Raises ValueError unless the file ``path`` can be written; one that is there only where ``overwrite``, the flag of that name, is given.
    ``what``: how the user named it."""
    check_place(path, what, None)
    check_regular(path, what)
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"{what} {path} exists: give another name, or add --overwrite to replace it")


def check_place(path, what, checkpoint):
    """Raises ValueError unless the folder of ``path`` is there, and is not ``checkpoint`` (a path or None)."""
    folder = os.path.realpath(Path(path).absolute().parent)
    if not os.path.isdir(folder):
        raise ValueError(f"{what} {path} cannot be written (there is no folder {folder}): make it, or give another one")
    if checkpoint is not None and folder == os.path.realpath(checkpoint):
        raise ValueError(f"{what} {path} is in {checkpoint}, the checkpoint: give another folder")


def create_beside(path):
    """The path of a new, empty, hidden file in the folder of ``path``; nobody else has it and no link leads to it.

    Raises OSError.
    """
    beside = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(4)}.part")
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    return beside


def remove_left_beside(path):
    """Removes what ``create_beside`` made and a killed process left. Only for who holds the lock on ``path``."""
    _remove(Path(path).parent, re.escape(Path(path).name))


def remove_left_in(folder):
    """The same for all files in ``folder``."""
    _remove(Path(folder), ".+")


def _remove(folder, name):
    for file in folder.iterdir():
        if re.fullmatch(rf"\.{name}\.[0-9a-f]{{8}}\.part", file.name):
            with suppress(OSError):
                file.unlink()


def place_new(unfinished, path):
    """Gives the file ``unfinished`` the name ``path``, if nothing has that name: FileExistsError."""
    try:
        os.link(unfinished, path)
        os.unlink(unfinished)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(unfinished, path)
    sync_folder(Path(path).parent)


def replace(unfinished, path):
    """Puts the file ``unfinished``, whose content is on the disk, in the place of ``path``, for good."""
    os.replace(unfinished, path)
    sync_folder(Path(path).parent)


def write_whole(path, content):
    """Writes ``content``, bytes, to ``path``, see ``write_whole_with``."""
    write_whole_with(path, lambda file: file.write(content))


def write_whole_with(path, write):
    """Has ``write(file)`` write ``path``: at every moment, also after a power cut, the old or the new is there, whole.

    Raises OSError, and what ``write`` raises.
    """
    unfinished = create_beside(path)
    try:
        with open(unfinished, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def sync_folder(folder):
    """Puts the names in ``folder`` on the disk. Raises OSError; file systems that cannot do it are let be."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _check_name(path, what):
    """That the longest name made beside it can be."""
    try:
        os.lstat(path.with_name(ADDED.format(path.name)))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _refusal(path, what, getattr(error, "strerror", None) or error) from None


def _refusal(path, what, why):
    return ValueError(f"{what} {path} cannot be written ({why}): give the name of a file that can")


def not_written(error, path):
    """``error``, an OSError of writing ``path``, with the file's name, which a write's own has not, and what to do."""
    told = OSError(
        f"{path} could not be written ({reason_of(error)}): free some space, or give another folder, and run the command again"
    )
    told.errno = error.errno  # given above, it would be printed as "[Errno 28]"
    return told


def reason_of(error):
    """Why, in the system's words, without the number and the path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
