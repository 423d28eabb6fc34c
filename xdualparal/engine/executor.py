"""Does one rank's actions in their order, and nothing else.

Knows: for each kind of action, where its inputs come from and where its result goes. Must not know: why the order is as it is,
the model, or what is done with a finished block.
"""

from dataclasses import dataclass, field
from typing import Any, Callable

import torch

from ..plan.actions import BOTH, CONDITIONAL, DECODE, FORWARD, LOAD, RECV, SEND, STEP


@dataclass
class Edges:
    """A stage's ends of its edges, see p2p: ``incoming`` and ``outgoing``, by the other lane. A lane alone has none."""

    incoming: dict[int, Any] = field(default_factory=dict)
    outgoing: dict[int, Any] = field(default_factory=dict)

    @property
    def bytes_sent(self):
        """What has left over all edges."""
        return sum(edge.bytes_sent for edge in self.outgoing.values())


@dataclass
class Work:
    """What a rank works with.

    ``stage_run``: see stage.StageRun. ``edges``: see Edges. ``message_shape(recv)``: (shape, dtype) of a RECV's message.
    ``blocks`` (blocks.BlockStore): on the first stage. ``denoiser`` (blocks.Denoiser), ``guide(one, predictions)``, which makes one prediction of
    the branches', and ``finish(one, latents)``, which takes each finished block and returns what is decoded: on the last one.
    ``decode(block, latents)``: takes that, see output/decoders.
    """

    stage_run: Any
    edges: Edges
    message_shape: Callable
    blocks: Any = None
    denoiser: Any = None
    guide: Callable | None = None
    finish: Callable | None = None
    decode: Callable | None = None


class Executor:
    """One rank of one run.

    ``messages`` (plan.messages.Messages) gives the actions of ``lane``, this rank's stage, in the waves of ``progress``.
    ``meter``: see meter.Meter. ``at_wave(wave)``: is called before each wave.
    """

    def __init__(self, plan, progress, messages, lane, work, meter, at_wave=lambda wave: None):
        self._plan, self._progress, self._messages, self._lane = plan, progress, messages, lane
        self._work, self._meter, self._at_wave = work, meter, at_wave
        self._do = {
            FORWARD: self._forward, LOAD: self._load, STEP: self._step, DECODE: self._hand_over, SEND: self._send, RECV: self._receive,
        }
        self._predictions, self._result, self._finished = [], None, None
        self._feeds_back, self._to_post = {}, {}  # to post: {(peer, message): RECV}, in order

    def run(self):
        """Does the actions of all waves. Yields each STEP and the block's latents after it.

        Raises FloatingPointError when a prediction, or what the scheduler makes of it, has a NaN or an infinity.
        """
        for wave in self._progress.waves():
            self._meter.waits(f"for rank 0 to say whether wave {wave} is to be done", self._at_wave, wave)
            self._feeds_back = self._messages.feeds_back(wave) if self._work.blocks and self._work.denoiser else {}
            for action in self._messages.actions(self._lane, wave):
                self._do[action.kind](action)
                if action.kind == STEP:
                    yield action, self._result
        for edge in self._work.edges.outgoing.values():
            self._meter.waits("for the last messages to leave", edge.finish)

    def _forward(self, action):
        spec = self._plan.spec(action.one)
        inputs = self._hidden(action) if self._work.blocks is None else self._window(action, spec)
        then = self._expert_after(action) if self._plan.swaps_experts else None
        self._result = self._meter.does(action, self._work.stage_run.forward, action, spec, inputs, self._post_all, then)
        if self._work.denoiser is not None:
            self._predictions.append(self._result)

    def _expert_after(self, action):
        is_last = action.branch == self._plan.branches_of(action.one)[-1]
        return self._plan.expert_after(action.one, self._progress) if is_last else None

    def _load(self, action):
        self._meter.does(action, self._work.stage_run.load, self._plan.spec(action.one))

    def _hidden(self, action):
        return self._taken(action.lane - 1, (action.one, action.branch), action)

    def _window(self, action, spec):
        blocks = self._work.blocks
        for frames in spec.window:
            if frames.one.step >= 0 and not blocks.has(frames.one):
                blocks.put(frames.one, self._taken(self._plan.num_stages - 1, (frames.one, BOTH), action))
        window = blocks.window(spec)
        if action.branch != CONDITIONAL:  # the other half pass has the same window
            blocks.free(spec.frees)
        return window

    def _taken(self, peer, message, action):
        while (peer, message) in self._to_post:  # at the start of a run
            self._post_next()
        edge = self._work.edges.incoming[peer]
        return self._meter.waits(f"for rank {edge.peer} to send what {action} needs", edge.take, message)

    def _step(self, action):
        prediction = self._work.guide(action.one, torch.cat(self._predictions))
        self._predictions.clear()
        self._result = self._meter.does(action, self._work.denoiser.advance, action.one, prediction)
        # One question to the device a step, not two.
        if not torch.stack([tensor.isfinite().all() for tensor in (prediction, self._result)]).all():
            raise _not_finite(action, prediction)
        if action.one in self._feeds_back:  # a stage that is the first and the last sends itself nothing
            self._work.blocks.put(action.one, self._result)
        if self._plan.is_last_step(action.one):
            self._finished = self._work.finish(action.one, self._result)

    def _receive(self, action):
        """A RECV before a FORWARD is posted when half of that is done: a receive that NCCL waits for occupies the device."""
        self._to_post[action.peer, (action.one, action.branch)] = action

    def _post_all(self):
        while self._to_post:
            self._post_next()

    def _post_next(self):
        (peer, message), action = next(iter(self._to_post.items()))
        self._work.edges.incoming[peer].post(message, *self._work.message_shape(action))
        del self._to_post[peer, message]

    def _send(self, action):
        """The result of the action just before; a finished block also goes to the decode lane."""
        if action.peer == self._plan.num_stages:
            return self._hand_over(action)
        edge = self._work.edges.outgoing[action.peer]
        self._meter.waits(f"for rank {edge.peer} to take what {action.one} gave", edge.send, self._result)

    def _hand_over(self, action):
        self._work.decode(action.block, self._finished)


def _not_finite(action, prediction):
    if not prediction.isfinite().all():
        return FloatingPointError(f"the prediction of block {action.block} at step {action.step} has a NaN or an infinity")
    return FloatingPointError(
        f"the latents of block {action.block} after step {action.step} have a NaN or an infinity, which the scheduler made of "
        "finite ones"
    )
