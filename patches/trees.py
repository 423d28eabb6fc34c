"""Source trees of xfuser, and patches on them.

Knows: which files of the installed package a patch may touch, and git. Must not know: what the patches are for.
"""

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

PATCHES = sorted(Path(__file__).parent.glob("0*.patch"))
_PARTS = ("xfuser", "tests", "docs")  # the wheel holds them as the repository does
_NOT_IN_THE_WHEEL = "pyproject.toml"  # a patch's change of it is left out where the tree has none


def copy_installed(folder):
    """Copies the installed xfuser, its tests and its documents to ``folder``; returns it. Raises LookupError without xfuser."""
    try:
        files = importlib.metadata.files("xfuser")
    except importlib.metadata.PackageNotFoundError:
        raise LookupError("xfuser is not installed: pip install xfuser==0.7.0") from None
    for file in files:
        if file.parts[0] in _PARTS and "__pycache__" not in file.parts:
            target = Path(folder, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target)
    return Path(folder)


def git_apply(patch, tree, *options):
    """Whether ``git apply`` succeeds with ``patch`` in ``tree``, and what it said.

    The tree need not be a repository, and one around it is not looked at: there git apply would do nothing at all.
    """
    if not Path(tree, _NOT_IN_THE_WHEEL).exists():
        options = (*options, f"--exclude={_NOT_IN_THE_WHEEL}")
    outside = dict(os.environ, GIT_CEILING_DIRECTORIES=str(Path(tree).resolve().parent))
    command = ["git", "apply", *options, str(Path(patch).resolve())]
    done = subprocess.run(command, cwd=tree, env=outside, capture_output=True, text=True)
    return done.returncode == 0, done.stderr.strip()


def apply(patch, tree):
    """Applies ``patch`` to ``tree``. Raises RuntimeError, with what git says, when it does not fit."""
    fits, said = git_apply(patch, tree)
    if not fits:
        raise RuntimeError(f"{Path(patch).name} does not apply to {tree}: {said}")
