"""The folder of a run's mailboxes: made, removed, and removed by a later run where nobody was left to do it.

Knows: the folder for temporary files, and locks. Must not know: what is in a mailbox. A launcher holds a lock (flock) on a file in
its folder, which the kernel frees when it dies: a folder whose lock is free was left by a launcher and workers that were killed.
"""

import errno
import fcntl
import os
import re
import shutil
import socket
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

# With the host's name: the folder for temporary files may be on a disk of several hosts, between which locks may not count.
_PREFIX = f"xdualparal-mailbox-{socket.gethostname()}-"
_RANDOM = "[a-z0-9_]{8}"  # what tempfile.mkdtemp adds
_LOCK = "launcher"
_SPACE = 1 << 16  # bytes; a status file takes 512, which are mapped: without space for them a worker would die of a signal


@contextmanager
def run_folder():
    """A new folder, a Path, that is there until the end of the context. First removes what killed runs have left.

    Raises ValueError when nothing can be written there.
    """
    try:
        remove_abandoned()
        folder, lock = _new()
    except OSError as error:
        raise ValueError(
            f"the folder for temporary files cannot be written ({error.strerror}): free some space there, or set TMPDIR to another folder"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned():
    """Removes this user's folders on this host whose launchers are dead, as far as that can be told."""
    for folder in Path(tempfile.gettempdir()).glob("xdualparal-mailbox-*"):
        if re.fullmatch(re.escape(_PREFIX) + _RANDOM, folder.name) and _is_own_folder(folder):
            with suppress(OSError):  # BlockingIOError: its launcher is alive; or another run removes it just now
                lock = _locked(folder, fcntl.LOCK_NB)
                if _is_there(folder, lock):
                    shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _new():
    """(a folder, the file descriptor that holds its lock)."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with suppress(FileNotFoundError):  # before it was locked, another run took it for abandoned
            lock = _locked(folder)
            if _is_there(folder, lock):
                _write_something(folder, lock)
                return folder, lock
            os.close(lock)


def _write_something(folder, lock):
    """Finds out whether there is space. Raises OSError."""
    try:
        if os.write(lock, bytes(_SPACE)) < _SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        raise


def _locked(folder, how=0):
    """The file descriptor of the lock; a disk without locks gives none, and then nothing there is ever abandoned."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
    except OSError:
        if how:
            os.close(descriptor)
            raise
    return descriptor


def _is_there(folder, lock):
    """Whether the locked file is still the one in the folder.

    Who waited for a lock may get that of a file that was removed meanwhile, while another run has locked a new one there. Only who
    holds the lock of the file that is there may use or remove the folder.
    """
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK, follow_symlinks=False))
    return False


def _is_own_folder(folder):
    with suppress(OSError):
        return folder.is_dir() and not folder.is_symlink() and folder.stat(follow_symlinks=False).st_uid == os.getuid()
    return False
