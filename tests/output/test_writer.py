"""Writing in a thread of its own; what it writes to only writes down what it gets."""

import threading

import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor

from xdualparal.output.h264 import as_uint8
from xdualparal.output.left_video import frames_in
from xdualparal.output.mp4 import VideoWriter
from xdualparal.output.writer import MAX_WAITING, ThreadedWriter, to_uint8

LIMIT_S = 30


class Notes:
    """A writer that waits until it may go on. ``fails``: at which segment it raises."""

    def __init__(self, fails=None, may_go_on=True):
        self.log, self._fails, self.go_on, self.frames_written = [], fails, threading.Event(), 0
        if may_go_on:
            self.go_on.set()

    def write(self, frames):
        """Writes it down."""
        assert self.go_on.wait(LIMIT_S)
        if frames == self._fails:
            raise OSError(28, "No space left on device")
        self.log.append((frames, threading.current_thread().name))
        self.frames_written += 1

    def close(self):
        """Writes that down, too."""
        self.log.append("closed")


def written(notes):
    """What was done, without the threads' names."""
    return [one if one == "closed" else one[0] for one in notes.log]


def test_all_segments_in_order_in_another_thread():
    notes = Notes()
    with ThreadedWriter(notes) as writer:
        for segment in range(5):
            writer.write(segment)
    assert notes.log == [*((n, "writer") for n in range(5)), "closed"] and writer.frames_written == 5


def test_after_drain_all_is_written():
    """What a snapshot waits for."""
    notes = Notes(may_go_on=False)
    with ThreadedWriter(notes) as writer:
        writer.write(0), writer.write(1)
        assert written(notes) == []
        threading.Timer(0.2, notes.go_on.set).start()
        writer.drain()
        assert written(notes) == [0, 1]


def test_segments_do_not_pile_up_before_a_slow_writer():
    notes, handed = Notes(may_go_on=False), []
    with ThreadedWriter(notes) as writer:
        def hand_over():
            for segment in range(MAX_WAITING + 3):
                writer.write(segment)
                handed.append(segment)

        thread = threading.Thread(target=hand_over, daemon=True)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and len(handed) <= MAX_WAITING + 1  # one is being written
        notes.go_on.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert written(notes) == [*range(MAX_WAITING + 3), "closed"]


@pytest.mark.parametrize("act", ["write", "drain", "leave"])
def test_what_the_thread_raises_is_raised_here_and_nothing_is_written_behind_it(act):
    notes = Notes(fails=1)
    with pytest.raises(OSError, match="No space left"):
        with ThreadedWriter(notes) as writer:
            for segment in range(3):
                writer.write(segment)
            if act != "leave":
                writer._waiting.join()
                writer.write(9) if act == "write" else writer.drain()
                pytest.fail("nothing was raised")
    assert written(notes) == [0, "closed"]


def test_the_callers_own_error_is_not_hidden():
    notes = Notes(fails=0)
    with pytest.raises(KeyError):
        with ThreadedWriter(notes) as writer:
            writer.write(0)
            raise KeyError
    assert written(notes) == ["closed"]


def test_measured_in_its_thread():
    names = []

    def measure(function, frames):
        names.append(threading.current_thread().name)
        function(frames)

    with ThreadedWriter(Notes(), measure) as writer:
        writer.write(0)
    assert names == ["writer"]


def test_closed_at_once_the_file_is_whole(tmp_path):
    """As the watchdog does from its thread while segments wait."""
    path, begun, go_on = tmp_path / "a.mp4", threading.Event(), threading.Event()

    def measure(function, frames):
        begun.set()
        assert go_on.wait(LIMIT_S)
        function(frames)

    def close():
        assert begun.wait(LIMIT_S)
        writer.close_at_once()
        go_on.set()

    with pytest.raises(ValueError, match="closed"):
        with ThreadedWriter(VideoWriter(path, 16), measure) as writer:
            writer._writer.write(np.zeros((2, 32, 32, 3), np.uint8))
            closing = threading.Thread(target=close)
            closing.start()
            writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    closing.join(LIMIT_S)
    assert frames_in(path) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_numbers_are_those_of_float_frames(dtype):
    """All roundings: 300,000 numbers beyond -1 to 1, the limits and the halves between two colours."""
    halves = (torch.arange(256) + 0.5) / 255 * 2 - 1
    numbers = torch.cat([torch.randn(299_488, generator=torch.Generator().manual_seed(0)), halves, -halves])
    frames = numbers.view(1, 3, 5, 100, 200).to(dtype)
    processor = VideoProcessor(vae_scale_factor=8)
    before = as_uint8(processor.postprocess_video(frames, output_type="np")[0])
    now = to_uint8(processor.postprocess_video(frames, output_type="pt")[0])
    assert now.dtype == np.uint8 and now.flags.c_contiguous and np.array_equal(now, before)
