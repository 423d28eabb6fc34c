"""One video on one rank, from the noise to the last segment.

Knows: how stages, stores, edges, decoding and checkpoints make a run. Must not know: how a pipeline is called, launch
flags, files other than the checkpoint's.
"""

import time
from collections import deque
from contextlib import ExitStack
from itertools import islice

import torch
from tqdm.auto import tqdm

from .p2p import IN_FLIGHT, Loop, Receiver, Sender
from ..plan.progress import Course
from ..models.wan_vae import StreamingDecoder, decode_at_once, memory_latents
from ..output.decoders import AsTheyAre, AtEnd, Inline, InThread, Nowhere, Together
from .blocks import DenoiseStore, WindowStore, apply_guidance
from .noise import noise_blocks
from .executor import Edges, Runtime
from .snapshot import Saving
from ..plan.schedule import AT_END, FORWARD, INLINE, NO_DECODE, THREAD, Plan
from .sharding import SpatialShard


def make_plan(request, pipeline):
    """The Plan of the video that ``request`` asks for."""
    config, groups = pipeline.config, pipeline.groups
    num_blocks = None if request.is_endless else config.num_blocks(request.latent_frames)
    can_split = request.branches == 2 and groups.branch[1] == 1
    decode = AT_END if pipeline.vae_on_all_ranks else config.decode
    decode = NO_DECODE if request.output_type == "latent" else decode
    return Plan(num_blocks, request.num_inference_steps, groups.stage[1], config.stagger, can_split, decode)


class Run:
    """One video on one rank. Iterate over ``segments`` to the end, on every rank.

    ``pipeline``: the DualParalPipeline. ``stop_sign``: see stopping.StopSign. ``checkpoint``: see checkpoint.Checkpoint,
    or None. ``blocks_kept``: how many blocks' segments the caller has from an earlier run that this one goes on from;
    they are not given again. Raises ValueError for a checkpoint that this run cannot go on from.
    """

    def __init__(self, pipeline, request, meter, stop_sign, checkpoint=None, blocks_kept=0):
        self.pipe, self.config, self.groups, self.stage = pipeline.pipe, pipeline.config, pipeline.groups, pipeline.stage
        self.device, self.vae_on_all_ranks = pipeline.device, pipeline.vae_on_all_ranks
        self.request, self.meter, self.stop_sign = request, meter, stop_sign
        self.plan = make_plan(request, pipeline)
        self.shard = SpatialShard(request.latent_shape[1:], request.patch, *self.groups.shard)
        self.edges, self.passes_done = Edges(), 0
        memory = memory_latents(self.pipe.vae) if self.plan.decode != NO_DECODE else 0
        self._is_saved = checkpoint is not None
        self._saving = Saving(checkpoint, self.groups, self.shard, self.plan, self.config, memory, blocks_kept)
        self.course = Course(self.plan, self._saving.first_wave)
        self.blocks_finished = self.plan.finished(self.course.first_wave)
        self.segments_given = min(blocks_kept, self.blocks_finished)
        self.was_finished = self._saving.is_finished
        self.first_segment_s = None
        self.started_s = time.monotonic()

    def segments(self, keep_latents=None):
        """Yields the segments, on the output rank; the other ranks get none. Nothing is left of a run that was finished.

        ``keep_latents``: is called with each finished block and its latents, on the output rank.
        """
        self._keep_latents = keep_latents
        if self.was_finished:
            return
        with torch.no_grad(), ExitStack() as cleanup:
            runtime = self._runtime(cleanup)
            place = self._decoding_place(cleanup)
            for segment in self._made(runtime, place, cleanup):
                self.first_segment_s = self.first_segment_s or time.monotonic() - self.started_s
                yield segment
                self.segments_given += 1
            self._end_saving()

    def _made(self, runtime, place, cleanup):
        backlog = iter(self._saving.undecoded(self.segments_given) if self.groups.is_output else ())
        progress = cleanup.enter_context(self._progress_bar())
        for action, latents in runtime.run():
            progress.update()
            self.passes_done += 1
            is_finished = self.plan.is_last_step(action)
            # Blocks that an earlier run left: one a pass, lest the ranks that wait meanwhile take it for a hang.
            self._decode(islice(backlog, None if is_finished else 1), place)
            if is_finished:
                self._finish(action.block, latents, place)
            yield from place.ready()
            progress.set_postfix_str(f"{self.blocks_finished} blocks, {self._frames_given()} frames", refresh=False)
        self._decode(backlog, place)
        yield from place.rest()

    def _decode(self, blocks, place):
        for block, latents in blocks:
            place.add(block, latents.to(self.device))

    def _frames_given(self):
        per_latent = self.pipe.vae_scale_factor_temporal
        return self.config.frames_of(self.segments_given, self.request.num_frames, per_latent)

    def _finish(self, block, latents, place):
        joined = self.meter.waits(f"for the other parts of block {block}", self.groups.join_shards, latents)
        whole = self.shard.join(joined)
        self.groups.synchronize()
        self.blocks_finished = block + 1
        if self.groups.is_output:
            if self._keep_latents is not None:
                self._keep_latents(block, whole)
            self._saving.remember(block, whole)
        place.add(block, whole)

    # What a run is made of.

    def _runtime(self, cleanup):
        timesteps = self.request.make_scheduler(self.device).timesteps
        stage_run = self.stage.begin(self.config, timesteps, self._text(), self.shard)
        cleanup.callback(stage_run.end)
        cleanup.enter_context(stage_run.cache.installed())
        windows = denoise = None
        if self.stage.is_first:
            windows = WindowStore(self.config, self.plan, self._noise(), self.device, self._saving.standing())
        if self.stage.is_last:
            self._denoise = denoise = DenoiseStore(
                lambda: self.request.make_scheduler(self.device), timesteps, self._noise(), self.device,
                self._saving.in_flight(),
            )
        self._draw_all_noise()
        self.edges = self._edges(stage_run)
        return Runtime(
            self.course, self.stage.index, stage_run, self.edges, self.meter, windows, denoise, self._guide, self._at_wave
        )

    def _noise(self):
        """The noise of the blocks that start from now on, drawn from a copy of the user's generator."""
        noise = self._noise_of(self.request.generator.clone_state())
        deque(islice(noise, self.plan.started(self.course.first_wave)), maxlen=0)
        return noise

    def _noise_of(self, generator):
        sizes = self.config.block_latents, self.config.context_latents
        return map(self.shard.take, noise_blocks(*sizes, self.request.latent_shape, generator))

    def _draw_all_noise(self):
        """The user's own generator goes on as if it had drawn the noise of all blocks, where that has an end."""
        if self.plan.num_blocks is not None:
            deque(islice(self._noise_of(self.request.generator), self.plan.num_blocks), maxlen=0)

    def _guide(self, prediction):
        both = self.meter.waits("for the other guidance branch", self.groups.join_branches, prediction)
        return apply_guidance(both, self.request.guidance_scale)

    def _text(self):
        """Prompt embeddings (branches, length, dim), encoded on the first stage and sent to the others."""
        request, dtype = self.request, self.pipe.transformer.dtype
        if request.has_embeds or self.stage.is_first:
            text = request.encode(self.device, dtype).contiguous()
        else:
            text = torch.empty(request.text_shape, dtype=dtype, device=self.device)
        if not request.has_embeds:
            self.groups.share_along_pipeline(text)
        branch, ranks = self.groups.branch
        return text if ranks == 1 else text[branch:branch + 1]

    def _edges(self, stage_run):
        if self.stage.is_first and self.stage.is_last:
            loop = Loop()
            return Edges(latents_in=loop, latents_out=loop)
        sender = Sender(*self.groups.edge_out())
        if self.stage.is_first:
            shapes, dtype = map(self._latents_shape, self.course.round_trips()), torch.float32
            ahead = self.plan.messages_ahead
        else:
            passes = (action for action in self.course.actions(self.stage.index) if action.kind == FORWARD)
            shapes, dtype, ahead = map(stage_run.hidden_shape, passes), stage_run.dtype, IN_FLIGHT
        receiver = Receiver(*self.groups.edge_in(), shapes, dtype, self.device, ahead)
        return Edges(
            hidden_in=None if self.stage.is_first else receiver, hidden_out=None if self.stage.is_last else sender,
            latents_in=receiver if self.stage.is_first else None, latents_out=sender if self.stage.is_last else None,
        )

    def _latents_shape(self, step):
        return 1, self.request.latent_shape[0], self.config.own_latents(step.block), *self.shard.latent_size

    def _progress_bar(self):
        """The pipeline's own as configured, but on the last process, which prints in xDiT; diffusers' is on the first."""
        own = dict(getattr(self.pipe, "_progress_bar_config", {}))
        elsewhere = not (self.groups.is_output and self.groups.is_last_of_all)
        total = None if self.plan.num_blocks is None else self.plan.num_blocks * self.plan.num_steps
        done = sum(len(self.plan.passes(wave)) for wave in range(self.course.first_wave))
        return tqdm(
            total=total, initial=done, unit="pass", disable=own.pop("disable", False) or elsewhere, **own
        )

    # Where finished blocks go.

    def _decoding_place(self, cleanup):
        if self.request.output_type != "latent" and self.vae_on_all_ranks:
            return Together(self._decode_together)
        if not self.groups.is_output:
            return Nowhere()
        if self.request.output_type == "latent":
            return AsTheyAre()
        make = self._segment_maker(cleanup)
        if self.plan.decode == THREAD:
            place = InThread(make, self.plan, self.meter, self.device)
            cleanup.callback(place.close)
            return place
        return {INLINE: Inline, AT_END: AtEnd}[self.plan.decode](make, self.plan, self.meter)

    def _segment_maker(self, cleanup):
        """The function that makes a block's latents a segment; the decoder goes on where the caller's segments end."""
        decoder, missing = StreamingDecoder(self.pipe.vae), self.request.num_frames
        cleanup.callback(decoder.close)
        seen = self._saving.latents_before(self.segments_given) if self.segments_given else None
        missing -= self._frames_given() if self.segments_given else 0

        def make(latents):
            nonlocal missing, seen
            if seen is not None:  # here, and not before the passes: it takes as long as decoding them
                decoder.warm_up(seen.to(self.device))
                seen = None
            frames = decoder.decode(latents)
            if not self.request.is_endless:
                frames = frames[:, :, :missing]
                missing -= frames.shape[2]
            return self._as_asked(frames)

        return make

    def _decode_together(self, latents):
        """All frames, on every rank of the replica; ``latents``: those of the output rank count. The segment there."""
        if not self.plan.finished(self.course.end):
            return None
        if not self.groups.is_output:
            frames = self.config.first_latent(self.plan.finished(self.course.end))
            channels, height, width = self.request.latent_shape
            latents = torch.empty(1, channels, frames, height, width, device=self.device)
        frames = decode_at_once(self.pipe.vae, self.groups.share_in_replica(latents))
        return self._as_asked(frames[:, :, :self.request.num_frames]) if self.groups.is_output else None

    def _as_asked(self, frames):
        return self.pipe.video_processor.postprocess_video(frames, output_type=self.request.output_type)[0]

    # Ending early and saving.

    def _at_wave(self, wave):
        last = self.stop_sign.last_wave(wave)
        if last is not None:
            self.course.stop_after(last)
        done = wave - self.course.first_wave
        if self._is_saved and self.stage.is_last and done and done % self.config.checkpoint_waves == 0:
            self._saving.save(wave, self._denoise.state(), self.segments_given)

    def _end_saving(self):
        """Nothing is left to go on from when the video is finished; a run that was ended early can be gone on with."""
        if not self._is_saved or not self.stage.is_last:
            return
        if self.course.was_stopped:
            self._saving.save(self.course.end, self._denoise.state(), self.segments_given, wait=True)
        elif self.groups.is_output:
            self._saving.end()
