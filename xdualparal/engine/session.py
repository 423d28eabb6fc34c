"""A run on one rank, from the noise to the last segments: of one video, or of several side by side.

Knows: when a run begins, gives segments, saves and ends. Must not know: how a pipeline is called, launch flags, files, what is
one video's own (video.py), what a run is made of (assembly.py).
"""

import time
from collections import deque
from contextlib import ExitStack, contextmanager
from itertools import islice

import torch

from ..output.report import make_reports
from ..plan.progress import Progress
from ..plan.schedule import AT_END, NO_DECODE
from .assembly import make_executor
from .decoding import make_decoder
from .executor import Edges
from .progress_bar import RunProgress
from .video import Outcome


class GroupRun:
    """Several videos side by side on one rank. Iterate over it, on every rank: the output rank gets (the video's number,
    segment), the others none. Each video is to the bit what it is alone.

    A run whose loop is left before its end is stopped as by ``stop``, and what is under way is finished, so that the other
    ranks end too; a checkpoint stays as it was last saved.

    ``pipeline``: what the run is made with, see ``pipeline.DualParalPipeline``. ``videos``: Videos with one plan; a
    video's number is its place. ``stop_sign``: see stop.StopSign. Of videos that an earlier run has finished nothing is done; others
    may be resumed from different waves.
    """

    def __init__(self, pipeline, videos, meter, stop_sign):
        self.pipe, self.config, self.mesh, self.stage = pipeline.pipe, pipeline.config, pipeline.mesh, pipeline.stage
        self.texts, self.device, self.vae_on_all_ranks = pipeline.texts, pipeline.device, pipeline.vae_on_all_ranks
        self.videos, self.meter, self._stop_sign = tuple(videos), meter, stop_sign
        for number, video in enumerate(self.videos):
            video.number = number
        self.plan = self.videos[0].plan.side_by_side([video.first_wave for video in self.videos])
        self.progress = Progress(self.plan)
        self.outcome = Outcome.READY if self.videos_to_make else Outcome.ALREADY_FINISHED
        self.edges, self.decoder, self.denoiser, self.passes_done = Edges(), None, None, 0
        self.stage_run = self.kept_state = None
        self.kept_bytes = sum(video.kept_bytes for video in self.videos_to_make)  # of cached K/V in what is saved
        self.first_segment_s, self.started_s = None, time.monotonic()
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
        """How the run stands, as plain values: outcome, what is being done, passes, and for each video its outcome, blocks and
        segments so far."""
        return dict(self._status(), videos=[_status_of(video) for video in self.videos])

    def _status(self):
        return dict(outcome=self.outcome.value, doing=[doing.what for doing in self.meter.activities()], passes=self.passes_done)

    @property
    def videos_to_make(self):
        """The videos that an earlier run has not finished."""
        return [video for video in self.videos if video.is_to_make]

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
        with self._locked():
            self._set_outcome(Outcome.RUNNING)
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
                make_reports(self)
                self.at_end(self)
            except BaseException:
                self._set_outcome(Outcome.FAILED)
                raise
        self._set_outcome(Outcome.STOPPED if self.progress.was_stopped or self._was_left else Outcome.FINISHED)

    @contextmanager
    def _locked(self):
        """While active, no other run has the videos' checkpoints."""
        with ExitStack() as locks:
            for video in self.videos_to_make:
                video.snapshots.lock()
                locks.callback(video.snapshots.release)
            yield

    def _set_outcome(self, outcome):
        self.outcome = outcome
        for video in self.videos_to_make:
            video.outcome = outcome

    def _given(self, made):
        for number, segment in made:
            video, since_start_s = self.videos[number], time.monotonic() - self.started_s
            self.first_segment_s = self.first_segment_s or since_start_s
            video.first_segment_s = video.first_segment_s or since_start_s
            yield self._as_given(number, segment)
            video.segments_given += 1

    def _as_given(self, number, segment):
        return number, segment

    def _made(self, cleanup):
        """Yields (number of the video, segment) as they are there."""
        for video in self.videos_to_make:
            video.draw()
            if video.latents_sink is not None:
                cleanup.enter_context(video.latents_sink)
        self.decoder = make_decoder(self, cleanup)
        self._backlog = iter(self._undecoded() if self.mesh.is_output else ())
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

    # What the executor calls.

    def finish(self, one, latents):
        """Takes a finished block's latents, this rank's part; returns the whole ones that are decoded."""
        self._decode_backlog()
        video = self.videos[one.video]
        joined = self.meter.waits(f"for the other parts of block {one.block}", self.mesh.join_shards, latents)
        whole = video.shard.join(joined)
        self.mesh.synchronize()
        video.finish(one.block, whole)
        whole = video.own(one.block, whole)
        if self.plan.decode in (NO_DECODE, AT_END):  # the plan has no action for that now
            self.decoder.add(self.plan.decode_action(one.block, one.video), whole)
        return whole

    def _undecoded(self):
        return [(video.number, *block_and_latents) for video in self.videos for block_and_latents in video.undecoded()]

    def _decode_backlog(self, blocks=None):
        """Decodes ``blocks`` of those that an earlier run finished and did not decode, or all."""
        for number, block, latents in islice(self._backlog, blocks):
            self.decoder.add(self.plan.decode_action(block, number), self.videos[number].own(block, latents).to(self.device))

    # Ending early and saving.

    def at_wave(self, wave):
        """Called before each wave: hears of the end, and saves the state now and then."""
        last = self._stop_sign.last_wave(wave)
        if last is not None:
            self.progress.stop_after(last)
        done = wave - self.progress.first
        if self.saves and self.config.saves_on_the_way(self.kept_bytes) and done and done % self.config.checkpoint_waves == 0:
            self.drain()
            self._save(wave)

    @property
    def saves(self):
        """Whether states are saved."""
        return any(video.snapshots.is_on for video in self.videos_to_make)

    def _save(self, wave, wait=False):
        """Every rank of the replica gives its kept K/V, those of the last stage the latents."""
        videos = [video for video in self.videos_to_make if video.is_saved_at(wave)]
        keys = [key for video in videos for key in video.live_keys(wave)]
        kept = self.kept_state.gather(keys, self.stage_run.context.kept) if keys else {}
        if self.stage.is_last:
            in_flight = self.denoiser.state()
            for video in videos:
                video.save(wave, in_flight, kept or {}, wait)

    def _end_snapshots(self):
        """Nothing is left to resume when the videos are finished; a run that was stopped can be resumed, and one that was left, whose caller
        has not got all segments, even where all passes were done before it heard of it."""
        if not self.saves:
            return
        self.drain()
        if self.progress.was_stopped or self._was_left:
            self._save(self.progress.end, wait=True)
        elif self.mesh.is_output:
            for video in self.videos_to_make:
                video.end_snapshots()
        self.kept_state.finish()


def _status_of(video):
    return dict(outcome=video.outcome.value, blocks_finished=video.blocks_finished, segments_given=video.segments_given)


def _of_its_video(name):
    return property(lambda run: getattr(run.videos[0], name), doc=f"Its video's {name}.")


class VideoRun(GroupRun):
    """A run of one video: what it gives are segments, and it answers for its video, see video.Video."""

    request, spec, report = map(_of_its_video, ("request", "spec", "report"))
    blocks_kept, blocks_finished, blocks_given = map(_of_its_video, ("blocks_kept", "blocks_finished", "blocks_given"))
    segments_given, frames_given = map(_of_its_video, ("segments_given", "frames_given"))

    def _as_given(self, number, segment):
        return segment

    def status(self):
        """How the run stands, as plain values: outcome, what is being done, passes, blocks and segments so far."""
        return self._status() | _status_of(self.videos[0])
