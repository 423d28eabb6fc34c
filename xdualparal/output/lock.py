"""One run at a time for a file or folder.

Knows: how processes, also of several hosts on one disk, keep out of each other's way. Must not know: what they do.

The kernel frees a lock (flock) when its owner dies, so there are no stale ones; what a killed owner leaves is a small hidden
file without meaning, which the next one takes and removes.
"""

import errno
import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems without locks


def lock_path(path):
    """Where the lock for ``path`` is: beside a file, in a folder."""
    path = Path(path)
    return path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")


class FileLock:
    """The right to write ``path``, a file or a folder that is there, until ``release`` or the end of the process.

    Children that are forked do not have it. ``what``: how the user named the path. Raises ValueError, with the owner, when
    another run has it, OSError when the lock cannot be written.
    """

    def __init__(self, path, what):
        self._path = lock_path(path)
        self._descriptor = self._locked(path, what)
        os.register_at_fork(after_in_child=self._close)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        """Lets others write. A second call does nothing."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()  # before it is freed: what the next one locks is then another file, see _locked
            self._close()

    def _locked(self, path, what):
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 300).decode(errors="replace")
                os.close(descriptor)
                raise ValueError(
                    f"{what} {path} is being written by another run ({owner or 'which just started'}): wait for it or end it, "
                    "or give another name"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(descriptor)
                    raise
                logger.warning("%s is on a disk without locks: let no other run write there", path)
            if _is_still_at(descriptor, self._path):
                return descriptor
            os.close(descriptor)  # its owner has removed it meanwhile

    def _close(self):
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _is_still_at(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
