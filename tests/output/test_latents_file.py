"""Latents on disk, block after block."""

import os

import pytest
import torch
from safetensors.torch import save_file

from xdualparal.output.latents_file import LatentsFile, read_latents

BLOCKS = [torch.randn(1, 16, frames, 4, 4, generator=torch.Generator().manual_seed(frames)) for frames in (6, 4, 5)]


def write(path, blocks=BLOCKS, first=0, kept=0):
    """A file of ``blocks``."""
    with LatentsFile(path, {"model": "tiny"}, kept) as file:
        for number, latents in enumerate(blocks, first):
            file.append(number, latents)


def test_blocks_come_back_in_order(tmp_path):
    write(tmp_path / "a")
    facts, latents = zip(*read_latents(tmp_path / "a"))
    assert [fact["block"] for fact in facts] == ["0", "1", "2"] and facts[0]["model"] == "tiny"
    assert all(map(torch.equal, latents, BLOCKS))


def test_a_block_that_was_cut_short_is_left_out(tmp_path):
    write(tmp_path / "a")
    whole = (tmp_path / "a").stat().st_size
    for lost, left in ((1, 2), (whole - 5, 0)):
        os.truncate(tmp_path / "a", whole - lost)
        if left:
            assert len(list(read_latents(tmp_path / "a"))) == left
    with pytest.raises(ValueError, match="has no finished block: give a file that --dualparal_latents_out wrote"):
        list(read_latents(tmp_path / "a"))


def test_going_on_keeps_what_is_there(tmp_path):
    """The third block of the earlier run is written again: its checkpoint was from before it."""
    write(tmp_path / "a")
    write(tmp_path / "a", BLOCKS[2:], first=2, kept=2)
    facts, latents = zip(*read_latents(tmp_path / "a"))
    assert [fact["block"] for fact in facts] == ["0", "1", "2"] and all(map(torch.equal, latents, BLOCKS))


def test_blocks_that_are_missing_are_asked_for(tmp_path):
    write(tmp_path / "a", BLOCKS[:1])
    with pytest.raises(ValueError, match="has 1 blocks of this run and the checkpoint continues after 2: put the file back"):
        LatentsFile(tmp_path / "a", {}, 2)


def test_blocks_of_another_run_do_not_count(tmp_path):
    with LatentsFile(tmp_path / "a", {"run": "one"}) as file:
        file.append(0, BLOCKS[0])
    with pytest.raises(ValueError, match="has 0 blocks of this run and the checkpoint continues after 1"):
        LatentsFile(tmp_path / "a", {"run": "two"}, 1)
    LatentsFile(tmp_path / "a", {"run": "one"}, 1).__exit__()


def test_an_ordinary_safetensors_file_is_refused(tmp_path):
    save_file({"weight": BLOCKS[0]}, tmp_path / "a")
    with pytest.raises(ValueError, match="is no file of latents: give one that"):
        list(read_latents(tmp_path / "a"))


def test_another_file_is_no_file_of_latents(tmp_path):
    (tmp_path / "a").write_bytes(b"\x05\0\0\0\0\0\0\0hello there")
    with pytest.raises(ValueError, match="no file of latents"):
        list(read_latents(tmp_path / "a"))
