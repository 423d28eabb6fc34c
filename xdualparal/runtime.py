"""Executes one rank's actions, and nothing else.

Knows: for each kind of action, where its inputs come from and where its result goes. Must not know: the
order of actions (the schedule has it), the model, or what is done with a finished block.
"""

import time
from typing import Any, NamedTuple

import torch

from .schedule import FORWARD, STEP, UNCONDITIONAL
from .simulate import Span


class Edges(NamedTuple):
    """A stage's ends of the edges in its ring (see comm); None where it has none.

    ``hidden_in`` and ``hidden_out``: hidden states from the stage before and to the next one. ``latents_out``:
    on the last stage, to the first one's ``latents_in``.
    """

    hidden_in: Any = None
    hidden_out: Any = None
    latents_in: Any = None
    latents_out: Any = None


class Recorder:
    """Measures every action of a stage. Waits for the device around each, so recording costs some speed."""

    def __init__(self, synchronize):
        self._synchronize = synchronize
        self.spans = []

    def __call__(self, action, function, *args):
        """``function(*args)``, and remembers when it ran: monotonic seconds, one clock in all processes of a host."""
        self._synchronize()
        start = time.monotonic()
        result = function(*args)
        self._synchronize()
        self.spans.append(Span(action, start, time.monotonic()))
        return result


def without_recording(action, function, *args):
    """``function(*args)``."""
    return function(*args)


class Runtime:
    """One rank of one run.

    ``stage_run``: see stage.StageRun. ``windows`` (latents.WindowStore): on the first stage. ``denoise``
    (latents.DenoiseStore): on the last one, with ``guide``, which makes one prediction of the branches'.
    ``measure``: a Recorder, or without_recording.
    """

    def __init__(self, schedule, index, stage_run, edges, windows=None, denoise=None, guide=None,
                 measure=without_recording):
        self.schedule, self.index, self.stage_run, self.edges = schedule, index, stage_run, edges
        self.windows, self.denoise, self.guide = windows, denoise, guide
        self.measure = measure
        self._updates = round_trips(schedule)
        self._window_of_pass = None
        self._predictions = []

    def run(self):
        """Does the stage's actions. Yields (action, result): the block's latents after a STEP, None after a FORWARD."""
        for action in self.schedule.stages[self.index]:
            yield action, (self._forward(action) if action.kind == FORWARD else self._step(action))
        for edge in (self.edges.hidden_out, self.edges.latents_out):
            if edge is not None:
                edge.finish()

    def _forward(self, action):
        inputs = self.edges.hidden_in.receive() if self.windows is None else self._window(action)
        reads = self.schedule.next_context(action)
        keeps = action if self.schedule.gives_context(action) else None
        result = self.measure(action, self.stage_run.forward, action, reads, keeps, inputs)
        if self.edges.hidden_out is None:
            self._predictions.append(result)
        else:
            self.edges.hidden_out.send(result)

    def _window(self, action):
        if action.branch == UNCONDITIONAL:
            return self._window_of_pass  # that of the half pass just before
        needed = [need for need in self.schedule.needs(action) if need.kind == STEP]
        while not all(self.windows.has(need.block, need.step) for need in needed):
            update = next(self._updates)
            self.windows.update(update.block, update.step, self.edges.latents_in.receive())
        self._window_of_pass = self.windows.window(action.block, action.step)
        return self._window_of_pass

    def _step(self, action):
        prediction = self.guide(torch.cat(self._predictions))
        self._predictions.clear()
        latents = self.measure(action, self.denoise.advance, action.block, action.step, prediction)
        if self.schedule.goes_round(action):
            self.edges.latents_out.send(latents)
        return latents


def round_trips(schedule):
    """Yields the STEPs whose latents go from the last stage back to the first, in the order in which they go."""
    return (a for a in schedule.stages[-1] if a.kind == STEP and schedule.goes_round(a))
