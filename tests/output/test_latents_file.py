"""Latents on disk, block after block."""

import os

import pytest
import torch
from safetensors.torch import save_file

from xdualparal.output.latents_file import LatentsFile, read_before, read_latents

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


def test_of_a_video_that_continues_another_with_that_ones_last(tmp_path):
    before = torch.randn(1, 16, 2, 4, 4)
    with LatentsFile(tmp_path / "a", {"model": "tiny"}) as file:
        for number, latents in enumerate(BLOCKS):
            file.append(number, latents, None if number else before)
    assert torch.equal(read_before(tmp_path / "a"), before)
    assert all(map(torch.equal, (latents for _, latents in read_latents(tmp_path / "a")), BLOCKS))
    write(tmp_path / "b")
    assert read_before(tmp_path / "b") is None


@pytest.mark.parametrize("name, words", [("no/l", "there is no folder .*no.: make it"), ("c/l", "is in .*c, the checkpoint: give another folder")])
def test_a_place_where_it_cannot_be_is_refused_at_once(tmp_path, name, words):
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=words):
        LatentsFile(tmp_path / name, {}, checkpoint=tmp_path / "c")
    assert not list(tmp_path.glob("*/*"))


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


def record(header, data=b""):
    """A record with a header of any bytes."""
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("content", [
    record(b"[]"), record(b"null"), record(b"{}"), record(b"\xff" * 9), record(b"[" * 99999), b"\xff" * 8 + b"x" * 99,
    record(b'{"__metadata__": {}, "latents": {}}'), record(b'{"__metadata__": [], "latents": {"data_offsets": [0, 0]}}'),
    record(b'{"__metadata__": {}, "latents": {"data_offsets": [0, -9]}}'), record(b'{"__metadata__": {}, "latents": {"data_offsets": 3}}'),
    record(b'{"__metadata__": {}, "latents": {"data_offsets": [4, 8]}}', b"x" * 9), record(b'{"latents": {"data_offsets": [0, 1]}}', b"x"),
    record(b'{"__metadata__": {}, "latents": {"data_offsets": ["a", "b"]}}'), record(b'{"__metadata__": {}, "latents": [1, 2]}'),
    record(b'{"__metadata__": {}, "latents": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', b"xxxx"),
    record(b'{"__metadata__": {}, "latents": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}', b"xxxx"),
    record(b'{"__metadata__": {}, "latents": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b"xxxx"),
])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="no file of latents|is damaged in the block that begins at byte 0") as refused:
        list(read_latents(tmp_path / "a"))
    assert "\n" not in str(refused.value) and (tmp_path / "a").read_bytes() == content
    with pytest.raises(ValueError, match="latents_out .*a exists and is not of this run: give another name"):
        LatentsFile(tmp_path / "a", {"run": "one"})


def test_any_byte_may_be_wrong(tmp_path):
    """What comes back is a refusal or latents."""
    write(tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for place in range(0, 300, 3):
        (tmp_path / "a").write_bytes(whole[:place] + bytes([whole[place] ^ 0x14]) + whole[place + 1:])
        try:
            assert all(latents.dtype for _, latents in read_latents(tmp_path / "a"))
        except ValueError as error:
            assert "\n" not in str(error)


def test_a_file_of_another_run_stays_unless_the_user_says_so(tmp_path):
    """It is replaced when there is a block, not before."""
    write(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="exists and is not of this run.*dualparal_overwrite"):
        LatentsFile(tmp_path / "a", {"run": "two"})
    with LatentsFile(tmp_path / "a", {"run": "two"}, overwrite=True) as file:
        assert (tmp_path / "a").read_bytes() == before
        file.append(0, BLOCKS[0])
    with LatentsFile(tmp_path / "a", {"run": "two"}) as file:
        file.append(0, BLOCKS[1])
    [(facts, latents)] = read_latents(tmp_path / "a")
    assert facts["run"] == "two" and torch.equal(latents, BLOCKS[1])


def test_a_file_that_appears_meanwhile_stays(tmp_path):
    with LatentsFile(tmp_path / "a", {"run": "two"}) as file:
        (tmp_path / "a").write_text("a user's")
        with pytest.raises(FileExistsError):
            file.append(0, BLOCKS[0])
    assert (tmp_path / "a").read_text() == "a user's"
