"""Copies of the installed xfuser, without and with the patches."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "patches"))

from trees import PATCHES, apply, copy_installed  # noqa: E402


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """A copy of the installed xfuser with its tests."""
    return copy_installed(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="session")
def patched(stock, tmp_path_factory):
    """The same with the whole series."""
    folder = shutil.copytree(stock, tmp_path_factory.mktemp("patched"), dirs_exist_ok=True)
    for patch in PATCHES:
        apply(patch, folder)
    return folder
