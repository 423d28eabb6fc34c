"""What is said while weights are read."""

import io
from pathlib import Path

import torch

import xdualparal
from xdualparal.models import WanFamily
from xdualparal.models.weights import bytes_to_read, load_stage
from xdualparal.xdit import loading
from xdualparal.xdit.loading import LoadingProgress

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"


class Screen(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self):
        return True


def read(monkeypatch, is_shown, screen):
    """(the phases, the screen) of three pieces."""
    phases, times = [], iter([0.0, 10.0, 20.0, 30.0])
    monkeypatch.setattr(loading.sys, "stderr", screen)
    monkeypatch.setattr(loading.time, "monotonic", lambda: next(times))
    with LoadingProgress(lambda: 1_500_000_000, phases.append, is_shown) as progress:
        for piece in (100_000_000, 900_000_000, 500_000_000):
            progress.tell(piece)
    return phases, screen.getvalue()


def test_the_watchdog_is_told_now_and_then(monkeypatch):
    phases, screen = read(monkeypatch, False, Screen())
    assert phases == ["loads the weights, 1.0 of 1.5 GB of weights", "loads the weights, 1.5 of 1.5 GB of weights"]
    assert screen == ""


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch):
    assert read(monkeypatch, True, io.StringIO())[1] == ""


def test_how_far_it_is(monkeypatch):
    """The bar itself is tested with a terminal, test_progress_bar."""
    shown = []
    monkeypatch.setattr(loading.ProgressBar, "show", lambda _, done, text: shown.append((done, text)))
    read(monkeypatch, True, Screen())
    assert shown == [
        (100_000_000, "0.1 of 1.5 GB of weights, 2 min left"), (1_000_000_000, "1.0 of 1.5 GB of weights, 10 s left"),
        (1_500_000_000, "1.5 of 1.5 GB of weights"),
    ]


def test_the_total_is_what_is_read():
    for index, with_vae in ((0, False), (1, True)):
        told, layers = [], [range(0, 3), range(3, 8)][index]
        load_stage(WanFamily(), TINY_WAN, index, 2, layers, torch.bfloat16, with_vae, tell=told.append)
        assert sum(told) == bytes_to_read(WanFamily(), TINY_WAN, index, 2, layers, with_vae) > 1e6


def test_nothing_is_asked_before_the_first_bytes():
    with LoadingProgress(lambda: 1 / 0, print, True):
        pass
