"""Makes ``dualparal_testing`` importable; ``tests`` itself is not: xfuser's wheel installs a package of that name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import torch  # noqa: E402

from xdualparal import enable_host_platform  # noqa: E402

torch.set_num_threads(1)
enable_host_platform()


@pytest.fixture(scope="session")
def golden():
    """The folder of golden files."""
    return Path(__file__).parent / "plan" / "golden"
