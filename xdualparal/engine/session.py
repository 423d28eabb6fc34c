"""One video on one rank, from the noise to the last segment.

Knows: how plan, stage, stores, edges, decoding and snapshots make a run. Must not know: how a pipeline is called, launch
flags, files other than the checkpoint's.
"""

import time
from collections import deque
from contextlib import ExitStack
from enum import Enum
from itertools import islice

import torch

from ..output.report import make_report
from ..plan.progress import Progress
from ..plan.schedule import AT_END, NO_DECODE
from .assembly import make_executor
from .decoding import make_decoder
from .executor import Edges
from .progress_bar import RunProgress
from .sharding import SpatialShard
from .snapshot import Snapshots


class Outcome(Enum):
    """How a run stands or has ended."""

    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # before the plan's end: by stop(), or because its segments were no longer asked for
    ALREADY_FINISHED = "already finished"  # by an earlier run with the same checkpoint; nothing was done
    FAILED = "failed"


class VideoRun:
    """One video on one rank. Iterate over it, on every rank: the output rank gets the segments, the others none.

    A run whose loop is left before its end is stopped as by ``stop``, and what is under way is finished, so that the other
    ranks end too; a checkpoint stays as it was last saved.

    ``pipeline``: what the run is made with, see ``pipeline.DualParalPipeline``. ``request``: see request.Request. ``plan``: its
    passes. ``spec``: its RunSpec. ``stop_sign``: see stop.StopSign. ``checkpoint``: see output/checkpoint, or None.
    ``blocks_kept``: how many blocks' segments the caller has from an earlier run that this one resumes; they are not given
    again. Raises ValueError for a checkpoint that this run cannot resume.
    """

    def __init__(self, pipeline, request, plan, spec, meter, stop_sign, checkpoint=None, blocks_kept=0):
        self.pipe, self.config, self.mesh, self.stage = pipeline.pipe, pipeline.config, pipeline.mesh, pipeline.stage
        self.texts, self.device, self.vae_on_all_ranks = pipeline.texts, pipeline.device, pipeline.vae_on_all_ranks
        self.request, self.plan, self.spec, self.meter, self._stop_sign = request, plan, spec, meter, stop_sign
        self.shard = SpatialShard(request.latent_shape[1:], request.patch, *self.mesh.shard)
        memory = self.stage.family.decoder_memory_latents(self.pipe.vae) if plan.decode != NO_DECODE else 0
        self.snapshots = Snapshots(checkpoint, self.mesh, self.shard, plan, memory, blocks_kept)
        self.progress = Progress(plan, self.snapshots.first_wave)
        self.blocks_finished = plan.finished(self.progress.first)
        self.segments_given = min(blocks_kept, self.blocks_finished)
        self.blocks_kept = self.segments_given  # how many come before those that are given now
        self.outcome = Outcome.ALREADY_FINISHED if self.snapshots.was_finished else Outcome.READY
        self.report, self.edges, self.decoder, self.denoiser, self.passes_done = None, Edges(), None, None, 0
        self.first_segment_s, self.started_s = None, time.monotonic()
        self.latents_sink = None  # a context with ``append(block, latents)`` for finished blocks, on the output rank
        self.drain = lambda: None  # waits until the segments given are stored, before a snapshot says so
        self.at_start = self.at_end = lambda run: None  # called on every rank; what the first raises ends the run
        self._was_left = False
        self._segments = self._run()

    def __iter__(self):
        try:
            yield from self._segments
        finally:  # also when the loop is left, which drops this iterator
            self.close()

    def close(self):
        """Ends a run under way as if its loop had been left; elsewhere it does nothing."""
        self._segments.close()

    def stop(self):
        """Ends the run soon: blocks that are nearly done are finished (stop.waves_to_finish). From any thread of any rank;
        after the end it does nothing."""
        self._stop_sign.ask()

    def status(self):
        """How the run stands, as plain values: outcome, what is being done, passes, blocks and segments so far."""
        return dict(
            outcome=self.outcome.value, doing=[doing.what for doing in self.meter.activities()], passes=self.passes_done,
            blocks_finished=self.blocks_finished, segments_given=self.segments_given,
        )

    @property
    def is_over(self):
        """Whether nothing is to come."""
        return self.outcome not in (Outcome.READY, Outcome.RUNNING)

    @property
    def has_failed(self):
        """Whether an error has ended the run."""
        return self.outcome is Outcome.FAILED

    def _run(self):
        if self.is_over:
            return
        self.at_start(self)
        self.snapshots.lock()
        self.outcome = Outcome.RUNNING
        try:
            with torch.no_grad(), ExitStack() as cleanup:
                made = self._made(cleanup)
                try:
                    yield from self._given(made)
                except GeneratorExit:  # the caller asks for no more: the other ranks must end, too
                    self._was_left = True
                    self.stop()
                    deque(made, maxlen=0)
                self._end_snapshots()
            self.report = make_report(self)
            self.at_end(self)
        except BaseException:
            self.outcome = Outcome.FAILED
            raise
        finally:
            self.snapshots.release()
        self.outcome = Outcome.STOPPED if self.progress.was_stopped or self._was_left else Outcome.FINISHED

    def _given(self, made):
        for segment in made:
            self.first_segment_s = self.first_segment_s or time.monotonic() - self.started_s
            yield segment
            self.segments_given += 1

    def _made(self, cleanup):
        """Yields the segments as they are there."""
        if self.latents_sink is not None:
            cleanup.enter_context(self.latents_sink)
        self.decoder = make_decoder(self, cleanup)
        self._backlog = iter(self.snapshots.undecoded(self.segments_given) if self.mesh.is_output else ())
        executor = make_executor(self, cleanup)
        on_screen = cleanup.enter_context(RunProgress(self))
        for _ in executor.run():
            self.passes_done += 1
            # Blocks that an earlier run left: one a pass, lest the ranks that wait meanwhile take it for a hang.
            self._decode_backlog(1)
            yield from self.decoder.ready()
            on_screen.pass_is_done()
        self._decode_backlog()
        for segment in self.decoder.rest():
            yield segment
            on_screen.show("decoding")
        on_screen.show("stopped" if self.progress.was_stopped else "")

    @property
    def frames_given(self):
        """Video frames in the segments that the caller has."""
        return self.plan.layout.frames_of(self.blocks_given, self.request.num_frames, self.pipe.vae_scale_factor_temporal)

    @property
    def blocks_given(self):
        """A segment is a block, but the parallel VAE's is all of them."""
        return self.blocks_finished if self.vae_on_all_ranks and self.segments_given else self.segments_given

    # What the executor calls.

    def finish(self, one, latents):
        """Takes a finished block's latents, this rank's part; returns the whole ones."""
        self._decode_backlog()
        joined = self.meter.waits(f"for the other parts of block {one.block}", self.mesh.join_shards, latents)
        whole = self.shard.join(joined)
        self.mesh.synchronize()
        self.blocks_finished = one.block + 1
        if self.mesh.is_output:
            if self.latents_sink is not None:
                self.latents_sink.append(one.block, whole)
            self.snapshots.remember(one.block, whole)
        if self.plan.decode in (NO_DECODE, AT_END):  # the plan has no action for that now
            self.decoder.add(one.block, whole)
        return whole

    def _decode_backlog(self, blocks=None):
        """Decodes ``blocks`` of those that an earlier run finished and did not decode, or all."""
        for block, latents in islice(self._backlog, blocks):
            self.decoder.add(block, latents.to(self.device))

    # Ending early and saving.

    def at_wave(self, wave):
        """Called before each wave: hears of the end, and saves the state now and then."""
        last = self._stop_sign.last_wave(wave)
        if last is not None:
            self.progress.stop_after(last)
        done = wave - self.progress.first
        if self.snapshots.is_on and self.stage.is_last and done and done % self.config.checkpoint_waves == 0:
            self.drain()
            self.snapshots.save(wave, self.denoiser.state(), self.segments_given)

    def _end_snapshots(self):
        """Nothing is left to resume when the video is finished; a run that was stopped can be resumed."""
        if not self.snapshots.is_on or not self.stage.is_last:
            return
        self.drain()
        if self.progress.was_stopped:
            self.snapshots.save(self.progress.end, self.denoiser.state(), self.segments_given, wait=True)
        elif self.mesh.is_output and not self._was_left:  # else the caller has not got all segments
            self.snapshots.end()
