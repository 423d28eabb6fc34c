"""Makes ``dualparal_testing`` importable."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
torch.set_num_threads(1)


def pytest_configure(config):
    config.addinivalue_line("markers", "processes: starts real processes over gloo")


@pytest.fixture(scope="session")
def golden():
    """The folder of golden files."""
    return HERE / "golden"
