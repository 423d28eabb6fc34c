"""Executes one rank's actions, and nothing else.

Knows: for each kind of action, where its inputs come from and where its result goes. Must not know: the
order of actions (the schedule has it), the model, or what is done with a finished block, decoding included.
"""

from typing import Any, NamedTuple

import torch

from ..plan.schedule import FORWARD, STEP, UNCONDITIONAL


class Edges(NamedTuple):
    """A stage's ends of the edges in its ring (see comm); None where it has none.

    ``hidden_in`` and ``hidden_out``: hidden states from the stage before and to the next one. ``latents_out``:
    on the last stage, to the first one's ``latents_in``.
    """

    hidden_in: Any = None
    hidden_out: Any = None
    latents_in: Any = None
    latents_out: Any = None


class Runtime:
    """One rank of one run.

    ``course``: a course.Course. ``stage_run``: see stage.StageRun. ``windows`` (latents.WindowStore): on the first
    stage. ``denoise`` (latents.DenoiseStore): on the last one, with ``guide``, which makes one prediction of the
    branches'. ``meter``: see meter.Meter. ``at_wave``: is called with each wave before it starts.
    """

    def __init__(self, course, index, stage_run, edges, meter, windows=None, denoise=None, guide=None,
                 at_wave=lambda wave: None):
        self.course, self.plan, self.index = course, course.plan, index
        self.stage_run, self.edges, self.meter = stage_run, edges, meter
        self.windows, self.denoise, self.guide = windows, denoise, guide
        self.at_wave = at_wave
        self._updates = course.round_trips()
        self._window_of_pass = None
        self._predictions = []

    def run(self):
        """Does the stage's FORWARDs and STEPs. Yields each STEP and the block's latents after it.

        Raises FloatingPointError when a prediction has a NaN or an infinity.
        """
        for wave in self.course.waves():
            self.meter.waits(f"for rank 0 to say whether wave {wave} is to be done", self.at_wave, wave)
            for action in self.plan.wave_actions(self.index, wave):
                if action.kind == FORWARD:
                    self._forward(action)
                elif action.kind == STEP:
                    yield action, self._step(action)
        for edge in (self.edges.hidden_out, self.edges.latents_out):
            if edge is not None:
                self.meter.waits("for the last messages to leave", edge.finish)

    def _forward(self, action):
        if self.windows is None:
            inputs = self.meter.waits(f"for rank {self.edges.hidden_in.peer} to send what {action} needs", self.edges.hidden_in.receive)
        else:
            inputs = self._window(action)
        reads = self.plan.next_context(action)
        keeps = action if self.plan.gives_context(action) else None
        result = self.meter.does(action, self.stage_run.forward, action, reads, keeps, inputs)
        if self.edges.hidden_out is None:
            self._predictions.append(result)
        else:
            self.meter.waits(f"for rank {self.edges.hidden_out.peer} to take what {action} gave", self.edges.hidden_out.send, result)

    def _window(self, action):
        if action.branch == UNCONDITIONAL:
            return self._window_of_pass  # that of the half pass just before
        needed = [need for need in self.plan.needs(action) if need.kind == STEP]
        while not all(self.windows.has(need.block, need.step) for need in needed):
            update = next(self._updates)
            latents = self.meter.waits(f"for rank {self.edges.latents_in.peer} to send what {update} gave", self.edges.latents_in.receive)
            self.windows.update(update.block, update.step, latents)
        self._window_of_pass = self.windows.window(action.block, action.step)
        return self._window_of_pass

    def _step(self, action):
        prediction = self.guide(torch.cat(self._predictions))
        self._predictions.clear()
        if not prediction.isfinite().all():
            raise FloatingPointError(f"the prediction of block {action.block} at step {action.step} has a NaN or an infinity")
        latents = self.meter.does(action, self.denoise.advance, action.block, action.step, prediction)
        if self.course.goes_round(action):
            self.meter.waits(f"for rank {self.edges.latents_out.peer} to take what {action} gave", self.edges.latents_out.send, latents)
        return latents
