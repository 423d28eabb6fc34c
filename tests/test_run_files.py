"""How much cached context is saved, and whether the disk has space for it."""

import logging
import shutil
from collections import namedtuple

import pytest

from xdualparal import DualParalConfig
from xdualparal.run_files import check_space

Usage = namedtuple("Usage", "total used free")


class Mesh:
    """Of one rank."""

    decides = True

    def on_output_rank(self, function):
        return function()


@pytest.mark.parametrize("most_gb, states, words", [(8.0, 2, "every 10 waves"), (0.5, 1, "only when the run is stopped")])
def test_the_size_is_said_and_more_than_the_disk_has_is_refused(tmp_path, monkeypatch, caplog, most_gb, states, words):
    """On the way two states are there for a moment, at a stop one."""
    config = DualParalConfig(context="cached", checkpoint=str(tmp_path / "new"), checkpoint_context_gb=most_gb)
    for free, is_enough in ((states * 10**9, True), (states * 10**9 - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(0, 0, free))
        with caplog.at_level(logging.INFO):
            if is_enough:
                check_space(Mesh(), config, 10**9)
            else:
                with pytest.raises(ValueError, match=f"saves {states} GB of cached context and {tmp_path} has .* GB free: give another folder"):
                    check_space(Mesh(), config, 10**9)
    assert f"up to 1 GB of cached context, {words}" in caplog.text
