"""Saving a run and going on from what was saved."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline
from xdualparal.run_spec import RunSpec
from xdualparal.output.checkpoint import Checkpoint, read_manifest

SPEC = RunSpec(prompt="a ship", height=32)
STATE = {"wave": 3, "in_flight": {0: (torch.arange(3.0), [None, torch.ones(2)])}}


def saved(folder):
    """A checkpoint of STATE in ``folder``."""
    checkpoint = Checkpoint(folder, SPEC)
    checkpoint.save(STATE, 3, wait=True)
    return checkpoint


def test_a_state_comes_back(tmp_path):
    saved(tmp_path / "new")
    state = Checkpoint(tmp_path / "new", SPEC).load()
    assert state["wave"] == 3 and torch.equal(state["in_flight"][0][0], torch.arange(3.0))
    assert Checkpoint(tmp_path / "other", SPEC).load() is None


def test_only_the_latest_stays_and_nothing_after_the_end(tmp_path):
    checkpoint = saved(tmp_path)
    checkpoint.save(STATE, 5, wait=True)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.json", "state-5.pt"}
    checkpoint.end()
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.json"]
    assert checkpoint.load() is None and checkpoint.is_of_a_finished_run()


def test_a_finished_run_is_no_hindrance_for_another(tmp_path):
    saved(tmp_path).end()
    other = Checkpoint(tmp_path, replace(SPEC, height=48))
    assert other.load() is None and not other.is_of_a_finished_run()
    other.save(STATE, 3, wait=True)
    assert other.load()["wave"] == 3 and not other.is_of_a_finished_run()


def test_other_settings_are_refused_with_the_difference(tmp_path):
    saved(tmp_path)
    with pytest.raises(ValueError, match="of another run: height was 32 and is 48: give the same settings, another"):
        Checkpoint(tmp_path, replace(SPEC, height=48)).load()


@pytest.mark.parametrize("file", ["state-3.pt", "checkpoint.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"x" + content[1:]])
def test_a_damaged_file_is_refused(tmp_path, file, damage):
    saved(tmp_path)
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    with pytest.raises(ValueError, match="is damaged.*delete the folder to start anew"):
        Checkpoint(tmp_path, SPEC).load()


def test_a_missing_state_and_another_format_are_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "state-3.pt").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        Checkpoint(tmp_path, SPEC).load()
    (tmp_path / "checkpoint.json").write_text(json.dumps(read_manifest(tmp_path) | {"format": 7}))
    with pytest.raises(ValueError, match="has format 7, this is 5"):
        Checkpoint(tmp_path, SPEC).load()


@pytest.mark.parametrize("content", [
    b"", b"null", b"[]", b"[[[[", b"7", b'"text"', b"{}", b'{"format": 5}', b'{"format": 5, "spec": 3, "finished": true}', b"[" * 99999,
    b'{"format": 5, "spec": {}, "wave": 3, "file": "../../secret", "sha256": "00"}', b'{"format": 5, "spec": {}, "wave": 3}',
    b'{"format": 5, "spec": {}, "wave": "x", "file": "state-x.pt", "sha256": "0"}', b'{"format": 5, "spec": {}, "wave": 3, "file": "state-3.pt"}',
    b"\xff\xfe", b'{"format": 5, "spec": {}, "wave": null, "file": "state-3.pt", "sha256": "0"}',
])
def test_a_foreign_manifest_is_refused(tmp_path, content):
    (tmp_path / "checkpoint.json").write_bytes(content)
    with pytest.raises(ValueError, match="checkpoint.json is damaged: delete the folder to start anew$"):
        Checkpoint(tmp_path, SPEC).load()


def test_two_runs_cannot_have_one_folder(tmp_path):
    first, second = Checkpoint(tmp_path, SPEC), Checkpoint(tmp_path, SPEC)
    first.lock()
    with pytest.raises(ValueError, match="the checkpoint .* is being written by another run .process "):
        second.lock()
    (tmp_path / ".checkpoint.json.0123abcd.part").write_text("")
    first.release(), second.lock(), second.release(), second.release()
    assert not list(tmp_path.iterdir())


def test_a_state_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("a user's")
    (tmp_path / "folder").mkdir()
    for name in ("state-3.pt", "checkpoint.json.part", "state-3.pt.part"):
        (tmp_path / "folder" / name).symlink_to(tmp_path / "mine")
    saved(tmp_path / "folder")
    assert (tmp_path / "mine").read_text() == "a user's" and not (tmp_path / "folder" / "state-3.pt").is_symlink()


def test_what_cannot_be_saved_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Checkpoint(tmp_path / "file" / "folder", SPEC).save(STATE, 1, wait=True)


LONG = Case("", num_frames=400, num_steps=5)
CACHED = replace(LONG, cached=True, anchors=2)


def segments(rank, folder, degrees, case, output_type="np", stop_after=None, blocks_kept=0, num_frames=None):
    """The segments that one run gives; it is stopped after ``stop_after`` of them."""
    config = replace(case.config(), checkpoint=folder, checkpoint_waves=3)
    pipeline = DualParalPipeline(small_pipeline(case.scheduler), engine_config(**degrees), config)
    arguments = case.arguments() | dict(output_type=output_type, num_frames=num_frames or case.num_frames)
    given, run = [], pipeline.stream(blocks_kept=blocks_kept, **arguments)
    for segment in run:
        given.append(np.asarray(segment))
        if len(given) == stop_after:
            run.stop()
    return given, run.blocks_kept


def processes(degrees):
    """How many ``degrees`` make."""
    return int(np.prod([int(n) + (name == "use_cfg_parallel") for name, n in degrees.items() if name != "attention_backend"]))


def run(folder, degrees, case=LONG, **options):
    """What the output rank of a run gives."""
    return run_ranks(segments, processes(degrees), str(folder) if folder else None, degrees, case, **options)[-1]


@pytest.mark.processes
@pytest.mark.parametrize("before, after, case", [
    (dict(stages=2), dict(stages=2), LONG),
    (dict(stages=1), dict(stages=4), replace(LONG, stagger=2)),
    (dict(stages=2), dict(stages=2, use_cfg_parallel=True), replace(LONG, scheduler="dpm++")),
    (dict(stages=2), dict(stages=4), CACHED),
    (dict(stages=2, use_cfg_parallel=True), dict(stages=1), replace(CACHED, stagger=2, context_dtype="float8", context_store="host")),
])
def test_a_run_goes_on_to_the_same_bits(tmp_path, before, after, case):
    """Also on another number of stages, and with guidance on two ranks."""
    whole, _ = run(None, dict(stages=1), case)
    first, _ = run(tmp_path, before, case, stop_after=1)
    assert 0 < len(first) < len(whole) and (tmp_path / "checkpoint.json").exists()
    rest, kept = run(tmp_path, after, case, blocks_kept=len(first))
    assert kept == len(first)
    assert np.array_equal(np.concatenate(first + rest), np.concatenate(whole))
    again, kept = run(tmp_path, after, case, blocks_kept=len(first + rest))
    assert again == [] and kept == len(first + rest)  # it was finished


@pytest.mark.processes
def test_shards_are_saved_as_one(tmp_path):
    """From two ranks that share each frame to one that has it whole; Ulysses rounds differently."""
    whole, _ = run(None, dict(stages=1))
    first, _ = run(tmp_path, dict(stages=2, ulysses_degree=2), stop_after=1)
    rest, _ = run(tmp_path, dict(stages=1), blocks_kept=len(first))
    assert np.abs(np.concatenate(first + rest) - np.concatenate(whole)).max() < 1e-4


@pytest.mark.processes
def test_kept_context_of_shards_is_saved_as_one(tmp_path):
    """From Ulysses to ring, and on one rank; both cut heads and tokens."""
    whole, _ = run(None, dict(stages=1), CACHED)
    first, _ = run(tmp_path, dict(stages=2, ulysses_degree=2), CACHED, stop_after=1)
    more, _ = run(tmp_path, dict(stages=1, ring_degree=2, ulysses_degree=2, attention_backend="SDPA_FLASH"), CACHED, stop_after=1, blocks_kept=len(first))
    rest, _ = run(tmp_path, dict(stages=1), CACHED, blocks_kept=len(first + more))
    assert more and np.abs(np.concatenate(first + more + rest) - np.concatenate(whole)).max() < 1e-4


@pytest.mark.processes
def test_blocks_that_the_caller_lost_are_asked_for(tmp_path):
    first, _ = run(tmp_path, dict(stages=1), stop_after=2)
    with pytest.raises(AssertionError, match="were written before the checkpoint and only 0 are there: put the video"):
        run(tmp_path, dict(stages=1), blocks_kept=0)


@pytest.mark.processes
def test_another_seed_length_or_block_is_refused(tmp_path):
    run(tmp_path, dict(stages=1), stop_after=1)
    with pytest.raises(AssertionError, match="num_frames was 400 and is 401"):
        run(tmp_path, dict(stages=2), num_frames=401)
    with pytest.raises(AssertionError, match="block_latents was 4 and is 3"):
        run(tmp_path, dict(stages=1), replace(LONG, block=3))


def test_a_state_that_does_not_fit_is_warned_of_and_the_one_before_stays(tmp_path, monkeypatch, caplog):
    checkpoint = saved(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        checkpoint.save(STATE | {"wave": 9}, 9)
        checkpoint._saving.join()
    checkpoint.save(STATE | {"wave": 11}, 11, wait=False)
    assert "could not be saved (No space left on device), the one before it stays: free some space" in caplog.text
    checkpoint._saving.join()
    assert checkpoint.load()["wave"] == 11 and {file.name for file in tmp_path.iterdir()} == {"checkpoint.json", "state-11.pt"}


def test_running_out_of_memory_is_warned_of_or_raised(tmp_path, monkeypatch, caplog):
    checkpoint = saved(tmp_path)

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as memory:
        memory.setattr("torch.save", no_memory)
        checkpoint.save(STATE, 9)
        checkpoint._saving.join()
        with pytest.raises(MemoryError):
            checkpoint.save(STATE, 11, wait=True)
    assert "could not be saved (MemoryError), the one before it stays" in caplog.text
    assert checkpoint.load()["wave"] == 3
