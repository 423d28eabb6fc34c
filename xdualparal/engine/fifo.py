"""Does one rank's part of a queue of latent frames (strategies/fifo.py), iteration by iteration.

Knows: that every lane computes some windows, that all lanes then have all predictions and take all steps, and xDiT's pipeline group. Must not know: the model, which
windows there are, or what is done with a finished block.
"""

import torch
import torch.distributed as dist

from ..plan.actions import FORWARD, Action, Pass
from ..plan.schedule import INLINE, THREAD
from .executor import Edges


class Predictions:
    """What the lanes tell each other after an iteration's passes. ``group``: the pipeline's process group; ``lanes``: how many."""

    def __init__(self, group, lanes):
        self._group, self._lanes = group, lanes
        self.bytes_sent = 0

    def gather(self, own, counts):
        """The predictions of all lanes, in their order, (1, channels, frames, height, width), of ``own`` and as many frames of each lane as ``counts`` says."""
        if self._lanes == 1:
            return own
        most = max(counts)
        padded = torch.nn.functional.pad(own, (0, 0, 0, 0, 0, most - own.shape[2])).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=self._group)
        self.bytes_sent += padded.nbytes * (self._lanes - 1)
        return torch.cat([part[:, :, :count] for part, count in zip(parts, counts)], dim=2)

    def finish(self):
        """Nothing is under way after ``gather``."""


class QueueExecutor:
    """One rank of one run; what executor.Executor is to stages.

    ``run``: session.GroupRun. ``stage_run``: of all layers. ``denoiser`` (blocks.Denoiser): its blocks are single latent frames; each lane has one. ``guide``:
    see executor.Work. ``noise``: yields the latent frames' noise, this rank's part, (1, channels, 1, height, width), once more.
    """

    def __init__(self, run, stage_run, denoiser, guide, noise):
        self._run, self._plan, self._lane = run, run.plan, run.stage.index
        self._stage_run, self._denoiser, self._guide, self._noise = stage_run, denoiser, guide, noise
        self._predictions = Predictions(run.mesh.lanes[0], run.plan.num_stages)
        run.edges = Edges(outgoing={"lanes": self._predictions})
        self._latents = {}  # of latent frames in the queue, and of finished ones that are still seen or not yet given

    def run(self):
        """Does all iterations. Yields after each."""
        for wave in self._run.progress.waves():
            self._run.meter.waits(f"for rank 0 to say whether iteration {wave} is to be done", self._run.at_wave, wave)
            self._draw(wave)
            prediction = self._gathered(wave, [self._predict(one) for one in self._plan.passes_of_lane(self._lane, wave)])
            self._check("prediction", wave, prediction)
            self._run.meter.does(self._plan.step_action(self._lane, wave), self._advance, wave, prediction)
            self._give(wave)
            self._forget(wave)
            yield wave

    def _draw(self, wave):
        """The noise of the latent frame that comes in."""
        for frame in self._plan.in_queue(wave):
            if frame not in self._latents:
                self._latents[frame] = next(self._noise).to(self._run.device)

    def _predict(self, one):
        """Of the latent frames that the window ``one`` predicts, (1, channels, frames, height, width), guidance applied."""
        spec = self._plan.spec(one)
        window = torch.cat([self._latents[frames.one.block] for frames in spec.window], dim=2)
        branches = self._run.meter.does(Action(self._lane, FORWARD, one), self._stage_run.forward, Action(self._lane, FORWARD, one), spec, window)
        return self._guide(one, branches)

    def _gathered(self, wave, own):
        """The prediction of all latent frames in the queue, cleanest first."""
        counts = [sum(len(self._plan.predicted(one)) for one in self._plan.passes_of_lane(lane, wave)) for lane in range(self._plan.num_stages)]
        some = next(iter(self._latents.values()))
        own = torch.cat([part.to(some.dtype) for part in own], dim=2) if own else some.new_empty((*some.shape[:2], 0, *some.shape[3:]))
        return self._run.meter.waits("for the other lanes' windows", self._predictions.gather, own, counts)

    def _advance(self, wave, prediction):
        for number, frame in enumerate(self._plan.in_queue(wave)):
            self._latents[frame] = self._denoiser.advance(Pass(0, frame, wave - frame), prediction[:, :, number:number + 1])
        self._check("latents", wave, *(self._latents[frame] for frame in self._plan.in_queue(wave)))

    def _check(self, what, wave, *tensors):
        """Raises FloatingPointError for a NaN or an infinity."""
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise FloatingPointError(f"the {what} of iteration {wave} of the queue has a NaN or an infinity")

    def _give(self, wave):
        """Hands on the blocks that are finished, on the last lane."""
        for block in self._plan.given(wave) if self._lane == self._plan.num_stages - 1 else ():
            frames = range(self._plan.layout.first_latent(block), self._plan.layout.first_latent(block + 1))
            latents = torch.cat([self._latents[frame] for frame in frames], dim=2)
            whole = self._run.finish(self._plan.decode_action(block).one, latents)
            if self._plan.decode in (INLINE, THREAD):
                self._run.decoder.add(self._plan.decode_action(block), whole)

    def _forget(self, wave):
        """What no later window sees, and no later block has."""
        given = self._plan.layout.first_latent(self._plan.finished(wave + 1))
        first = min(given, max(0, self._plan.in_queue(wave + 1).start - self._plan.lookahead))
        for frame in [frame for frame in self._latents if frame < first]:
            del self._latents[frame]
