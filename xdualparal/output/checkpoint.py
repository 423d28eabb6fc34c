"""The state of a run on disk, from which it can be resumed.

Knows: files, and how to replace them so that one whole state is always there. Must not know: what the state means.
"""

import hashlib
import json
import logging
import threading
from contextlib import suppress
from pathlib import Path

import torch

from ..run_spec import RunSpec
from .files import not_written, reason_of, remove_left_in, write_whole, write_whole_with
from .lock import FileLock

logger = logging.getLogger(__name__)

_MANIFEST = "checkpoint.json"
_FORMAT = 5  # 3: the last block is short; 4: what a RunSpec has; 5: kept K/V


class Checkpoint:
    """The latest saved state of one run, in ``folder``.

    ``spec``: the run's RunSpec, which must be the same when it is resumed. A state is a dict of plain values and tensors.
    Saving happens in a thread; a state that comes while one is still being saved is left out. One that cannot be saved is
    warned of, and the one before it stays.
    """

    def __init__(self, folder, spec):
        self._folder, self._spec = Path(folder), spec
        self._saving, self._error, self._lock = None, None, None

    def lock(self):
        """Keeps other runs from this folder until ``release``. Raises ValueError, with the owner, when one is there, OSError
        when the folder cannot be made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self._folder, "the checkpoint")
        remove_left_in(self._folder)

    def release(self):
        """Lets others use the folder."""
        if self._lock is not None:
            self._lock.release()

    def load(self):
        """The saved state, or None when there is none: nothing was saved, or the run was finished.

        Raises ValueError when it is of another run, with the differences, or when its file is damaged.
        """
        manifest = read_manifest(self._folder)
        if manifest is None or is_finished(manifest):
            return None
        check_same(self._folder, manifest, self._spec.as_json())
        return torch.load(_checked_file(self._folder, manifest), weights_only=True)

    def is_of_a_finished_run(self):
        """Whether the folder says that this very run was finished. Raises ValueError as ``load`` does."""
        manifest = read_manifest(self._folder)
        return manifest is not None and is_finished(manifest) and not _spec_of(manifest).differences(self._spec.as_json())

    def save(self, state, wave, wait=False):
        """Saves ``state`` as that before ``wave``. ``wait``: until it is on the disk; raises what kept it from there."""
        if self._saving is not None and self._saving.is_alive():
            if not wait:
                return
            self._saving.join()
        if self._error is not None:
            why = reason_of(self._error)
            logger.warning("the checkpoint in %s could not be saved (%s), the one before it stays: free some space", self._folder, why)
            self._error = None
        self._saving = threading.Thread(target=self._write, args=(state, wave), daemon=True)
        self._saving.start()
        if wait:
            self._saving.join()
            if isinstance(self._error, OSError):
                raise not_written(self._error, self._folder)
            if self._error is not None:
                raise self._error

    def end(self):
        """Writes that the run is finished, in place of the state; if it cannot be written, nothing is left."""
        if self._saving is not None:
            self._saving.join()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / _MANIFEST, _as_bytes(dict(format=_FORMAT, finished=True, spec=self._spec.as_json())))
        except OSError as error:
            logger.warning("that the run is finished could not be written to %s (%s)", self._folder, reason_of(error))
            _remove(self._folder / _MANIFEST)
        for file in self._folder.glob("state-*.pt"):
            _remove(file)

    def _write(self, state, wave):
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"state-{wave}.pt"
            digest = hashlib.sha256()
            write_whole_with(self._folder / name, lambda file: torch.save(state, _Hashed(file, digest)))
            manifest = dict(format=_FORMAT, wave=wave, file=name, sha256=digest.hexdigest(), spec=self._spec.as_json())
            write_whole(self._folder / _MANIFEST, _as_bytes(manifest))
            for old in self._folder.glob("state-*.pt"):
                if old.name != name:
                    old.unlink()
        except BaseException as error:  # MemoryError, say: the caller is warned of it, or raises it
            self._error = error


class _Hashed:
    """A file to write to, of whose bytes ``digest`` hears: a state may be too large to be in memory once more."""

    def __init__(self, file, digest):
        self._file, self._digest = file, digest

    def write(self, content):
        """Writes ``content``; returns how many bytes."""
        self._digest.update(content)
        return self._file.write(content)

    def flush(self):
        """Writes what waits."""
        self._file.flush()


def _remove(file):
    """As far as it can be removed."""
    with suppress(OSError):
        file.unlink()


def _as_bytes(manifest):
    return json.dumps(manifest, indent=2).encode()


def is_finished(manifest):
    """Whether ``manifest`` is of a run that was finished: there is no state beside it."""
    return manifest.get("finished", False)


def read_manifest(folder):
    """What is said beside the saved state in ``folder``: a dict with spec, wave, file; None when there is none.

    Raises ValueError when it cannot be read.
    """
    path = Path(folder) / _MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] == _FORMAT:
            _check_complete(manifest)
            return manifest
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error.strerror}): give another folder") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"checkpoint {path} is damaged: delete the folder to start anew") from None
    raise ValueError(f"checkpoint {path} has format {manifest['format']!r}, this is {_FORMAT}: use the version that wrote it")


def _check_complete(manifest):
    """Raises KeyError, ValueError or TypeError unless all is there that is read of it."""
    RunSpec.from_json(manifest["spec"])
    if is_finished(manifest):
        return
    if not isinstance(manifest["sha256"], str) or manifest["file"] != f"state-{int(manifest['wave'])}.pt":
        raise ValueError


def check_same(folder, manifest, values):
    """Raises ValueError, with the differences, unless the manifest's run has ``values``, see RunSpec.differences."""
    differences = _spec_of(manifest).differences(values)
    if differences:
        raise ValueError(
            f"the checkpoint in {folder} is of another run: {'; '.join(differences)}: give the same settings, another "
            "folder, or delete it to start anew"
        )


def _spec_of(manifest):
    return RunSpec.from_json(manifest["spec"])


def _checked_file(folder, manifest):
    path = folder / manifest["file"]
    if not path.exists() or _digest_of(path) != manifest["sha256"]:
        raise ValueError(f"checkpoint {path} is damaged (its checksum is wrong): delete the folder to start anew")
    return path


def _digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
