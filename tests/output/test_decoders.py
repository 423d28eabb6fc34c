"""The places where blocks become frames; decoding itself is only written down here."""

import threading
import time
from dataclasses import replace

import pytest
import torch

from xdualparal.output.decoders import PassThrough, DeferredDecoder, InlineDecoder, ThreadedDecoder, NullDecoder, ParallelVaeDecoder
from xdualparal.engine.meter import Meter
from xdualparal.plan.messages import MAX_PENDING_SENDS as WAITING_BLOCKS
from xdualparal.strategies.dualparal import DualParalPlan

CPU = torch.device("cpu")


def meter():
    """One that remembers what it measured."""
    return Meter(lambda: None, keeps_spans=True)


PLAN = DualParalPlan(3, 2, 2)


def decode_of(block, video=0, place="inline"):
    """The DECODE of a block on two stages."""
    return replace(PLAN, decode=place).decode_action(block, video)


def place_of(kind, make, measured):
    """A place of ``kind``. ``make``: of the latents alone."""
    return kind(lambda action, latents: make(latents), measured, *([CPU] if kind is ThreadedDecoder else []))


@pytest.mark.parametrize("kind, early", [(InlineDecoder, [0, 10, 20]), (DeferredDecoder, [])])
def test_all_blocks_in_order(kind, early):
    measured = meter()
    place, given = place_of(kind, lambda latents: latents * 10, measured), []
    for block in range(3):
        place.add(decode_of(block), block)
        given += place.ready()
    assert given == [(0, one) for one in early]
    assert given + list(place.rest()) == [(0, 0), (0, 10), (0, 20)]
    assert [str(span.action) for span in measured.spans] == ["1D0.1", "1D1.1", "1D2.1"]
    assert measured.waited_for_decode_s > 0


def test_a_thread_decodes_beside_and_in_order():
    measured, begun = meter(), threading.Event()

    def make(latents):
        begun.wait(10)
        return latents * 10, threading.current_thread().name

    place = place_of(ThreadedDecoder, make, measured)
    place.add(decode_of(0, place="thread"), 0), place.add(decode_of(1, 1, "thread"), 1)
    assert list(place.ready()) == []
    begun.set()
    assert list(place.rest()) == [(0, (0, "decode")), (1, (10, "decode"))]
    place.close()
    assert [str(span.action) for span in measured.spans] == ["2D0.1", "2D1:1.1"]


def test_what_the_thread_raises_is_raised_here():
    def make(latents):
        raise OSError("no memory")

    place = place_of(ThreadedDecoder, make, meter())
    place.add(decode_of(0), 0)
    with pytest.raises(OSError, match="no memory"):
        list(place.rest())
    place.close()


class OnAnAccelerator(torch.Tensor):
    """A tensor that says so, and remembers which streams use it."""

    device = torch.device("cuda", 1)

    def record_stream(self, stream):
        """Remembers it."""
        self.streams = [*getattr(self, "streams", []), stream]


def test_tensors_are_recorded_on_the_callers_stream(monkeypatch):
    """The decode stream's allocator must not reuse their memory before the caller's stream has read them."""
    monkeypatch.setattr("torch.accelerator.current_stream", lambda device: ("stream of", threading.get_ident(), device))
    place = place_of(ThreadedDecoder, lambda latents: torch.zeros(2).as_subclass(OnAnAccelerator), meter())
    place.add(decode_of(0), 0)
    [(_, segment)] = place.rest()
    assert segment.streams == [("stream of", threading.get_ident(), torch.device("cuda", 1))]
    place.close()


def test_blocks_do_not_pile_up_before_a_slow_decoder():
    """One is decoded, so many wait, and the next one waits to be handed over."""
    go_on, handed = threading.Event(), []
    place = place_of(ThreadedDecoder, lambda latents: go_on.wait(10), meter())

    def hand_over():
        for block in range(WAITING_BLOCKS + 2):
            place.add(decode_of(block), block)
            handed.append(block)

    thread = threading.Thread(target=hand_over, daemon=True)
    thread.start()
    time.sleep(0.5)
    assert len(handed) == WAITING_BLOCKS + 1
    go_on.set()
    thread.join(10)
    assert len(list(place.rest())) == WAITING_BLOCKS + 2
    place.close()


def test_latents_as_they_are_and_nothing():
    place = PassThrough()
    place.add(decode_of(0), "a"), place.add(decode_of(0, 1), "b")
    assert list(place.ready()) == [(0, "a"), (1, "b")] and list(place.rest()) == []
    NullDecoder().add(decode_of(0), "a")
    assert list(NullDecoder().ready()) == list(NullDecoder().rest()) == []


def test_at_the_end_videos_are_decoded_in_turns():
    """And each decoder's memory is given back before the next one's comes."""
    log = []
    place = DeferredDecoder(lambda action, latents: log.append(str(action)) or latents, meter(), lambda video: log.append(video))
    for block in range(2):
        place.add(decode_of(block, 1, "end"), f"b{block}"), place.add(decode_of(block, 0, "end"), f"a{block}")
    assert list(place.ready()) == [] and list(place.rest()) == [(0, "a0"), (0, "a1"), (1, "b0"), (1, "b1")]
    assert log == ["1D0.1", "1D1.1", 0, "1D1:0.1", "1D1:1.1", 1]


def test_together_is_one_segment_a_video_where_there_is_one():
    place = ParallelVaeDecoder(lambda video, latents: None if latents is None else latents.shape[2], [0, 2])
    assert list(place.rest()) == []
    place.add(decode_of(0), torch.zeros(1, 1, 3, 1, 1)), place.add(decode_of(0, 2), torch.zeros(1, 1, 2, 1, 1))
    place.add(decode_of(1), torch.zeros(1, 1, 2, 1, 1))
    assert list(place.ready()) == [] and list(place.rest()) == [(0, 5), (2, 2)]
