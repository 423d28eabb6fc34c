"""The actions of a run: small values that print as themselves and parse back.

Knows: lanes, passes, and the kinds of actions. Must not know: which actions a run has, or in which order.

A *pass* takes one block of one video through one step. A *lane* is what does actions one after the other: a stage, or the
decode thread behind the last stage. An action prints as ``<lane><kind><pass>``, where the pass is ``<block>.<step>``, with
``<video>:`` before it for the videos after the first, and a half pass has ``c`` (the prompt's branch) or ``u`` (the negative
prompt's) behind it; a message names the other lane behind ``@``. Examples: ``0F2.5``, ``0F2.5c``, ``1S1:2.5``,
``0>2.5@1`` (lane 0 sends to lane 1), ``1<2.5@0`` (lane 1 posts the receive for it).
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

FORWARD, STEP, DECODE, LOAD, SEND, RECV = "F", "S", "D", "L", ">", "<"
BOTH, CONDITIONAL, UNCONDITIONAL = "", "c", "u"
_ACTION = re.compile(r"(\d+)([FSDL<>])(?:(\d+):)?(\d+)\.(\d+)([cu]?)(?:@(\d+))?")


class Pass(NamedTuple):
    """One block through one step. ``video``, ``block``, ``step``: numbers from 0; step -1 is the block's initial noise."""

    video: int
    block: int
    step: int

    def __str__(self):
        return f"{f'{self.video}:' if self.video else ''}{self.block}.{self.step}"


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One thing that one lane does.

    FORWARD: a stage computes its layers for a pass, or for one guidance branch of it. STEP: the last stage applies guidance
    and the scheduler. DECODE: a block's latents become frames. LOAD: a stage's layers of the pass's expert come to its device,
    in place of another expert's. SEND: the result of the lane's FORWARD or STEP of this pass
    starts on its way to the lane ``peer``. RECV: the receive for a message from the lane ``peer`` is posted; the action that
    needs the message waits for it.
    """

    lane: int
    kind: str
    one: Pass
    branch: str = BOTH
    peer: int | None = None

    @property
    def video(self):
        """The video of the pass."""
        return self.one.video

    @property
    def block(self):
        """The block of the pass."""
        return self.one.block

    @property
    def step(self):
        """The step of the pass."""
        return self.one.step

    def __str__(self):
        return f"{self.lane}{self.kind}{self.one}{self.branch}" + (f"@{self.peer}" if self.is_message else "")

    @property
    def is_message(self):
        """Whether this is one end of a message."""
        return self.kind in (SEND, RECV)

    @property
    def edge(self):
        """(sending lane, receiving lane) of a message."""
        return (self.lane, self.peer) if self.kind == SEND else (self.peer, self.lane)


def parse_action(text):
    """The Action that prints as ``text``. Raises ValueError when none does."""
    match = _ACTION.fullmatch(text)
    if not match or (match[2] in (SEND, RECV)) != (match[7] is not None):
        raise ValueError(
            f"{text!r} is not an action: write <lane>F<block>.<step>[c|u], <lane>S|D|L<block>.<step>, or "
            "<lane><|><block>.<step>[c|u]@<lane>"
        )
    lane, kind, video, block, step, branch, peer = match.groups()
    one = Pass(int(video or 0), int(block), int(step))
    return Action(int(lane), kind, one, branch, None if peer is None else int(peer))
