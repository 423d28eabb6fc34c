"""What is said while a video is made."""

import fcntl
import io
import os
import pty
import struct
import termios
from contextlib import suppress

import pytest

from xdualparal.engine import progress_bar
from xdualparal.engine.progress_bar import ProgressBar, progress_text, time_left


@pytest.mark.parametrize("numbers, text", [
    ((2, 25, 77, 801, "12 min left"), "block 3 of 25, 77 of 801 frames written, 12 min left"),
    ((0, 25, 0, 801), "block 1 of 25, 0 of 801 frames written"),
    ((25, 25, 801, 801), "block 25 of 25, 801 of 801 frames written"),
    ((2, None, 77, 0), "block 3, 77 frames written"),
    ((2, 25, 154, 1602, "12 min left", 2), "2 videos, block 3 of 25, 154 of 1602 frames written, 12 min left"),
])
def test_the_words(numbers, text):
    assert progress_text(*numbers) == text


@pytest.mark.parametrize("elapsed_s, done, total, text", [
    (10, 5, 10, "10 s left"), (60, 1, 13, "12 min left"), (3600, 1, 3.5, "2 h 30 min left"), (60, 30, 59, "58 s left"),
    (5, 10, 10, ""), (5, 0, 10, ""), (5, 5, None, ""),
])
def test_the_time_left(elapsed_s, done, total, text):
    assert time_left(elapsed_s, done, total) == text


def test_lines_where_there_is_no_terminal(monkeypatch):
    """The first and the last text, and between them one every LINE_S."""
    now, file = [1000.0], io.StringIO()
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    with ProgressBar(40, file=file) as bar:
        for n in range(40):
            bar.show(n, f"text {n}")
            now[0] += 1
    assert file.getvalue() == "text 0\ntext 10\ntext 20\ntext 30\ntext 39\n"


def test_nothing_is_said_twice_or_when_it_is_off():
    for is_shown, said in ((True, "one\n"), (False, "")):
        file = io.StringIO()
        with ProgressBar(1, is_shown, file=file) as bar:
            bar.show(1, "one")
        assert file.getvalue() == said


def all_of(master):
    """What was written to the terminal, whose other end is closed. One read may give a part of it."""
    parts = []
    with suppress(OSError):  # EIO is the end
        while part := os.read(master, 10000):
            parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("columns", [0, 100])
@pytest.mark.parametrize("total", [4, None])
def test_a_bar_on_a_terminal(columns, total):
    """A terminal that does not say how wide it is gets lines."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as file, ProgressBar(total, file=file) as bar:
        for n in range(5):
            bar.show(n, f"block {n}")
    said = all_of(master)
    os.close(master)
    if columns:
        assert said.count("\n") == 1 < said.count("\r") and "block 4" in said
        assert ("100% |" in said) == (total is not None)
    else:
        assert said.split() == ["block", "0", "block", "4"]
