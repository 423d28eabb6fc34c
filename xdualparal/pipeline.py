"""The pipeline that users call, like diffusers' own.

Knows: how a call becomes a run, and a run a video. Must not know: what a stage computes, or launch flags.
"""

import logging
from collections import deque
from contextlib import ExitStack
from itertools import islice

import numpy as np
import torch
from tqdm.auto import tqdm

from .attention import check_backend
from .comm import Loop, Receiver, Sender
from .config import DualParalConfig
from .decode import StreamingDecoder, decode_at_once
from .latents import DenoiseStore, WindowStore, apply_guidance
from .models import family_of
from .noise import noise_blocks
from .request import Request
from .runtime import Edges, Recorder, Runtime, round_trips, without_recording
from .schedule import FORWARD, STEP, build_schedule
from .sharding import SpatialShard, check_even_split, check_heads
from .tracing import write_trace
from .validate import check_schedule

logger = logging.getLogger(__name__)


class DualParalPipeline:
    """Long videos from a diffusers ``WanPipeline``, one stage of its transformer on each pipeline rank.

    ``wan_pipeline``: on every rank, with the same weights; the layers of other stages are dropped from it, so it
    is of no other use afterwards. ``engine_config``: xDiT's EngineConfig; its ``parallel_config.pp_degree`` is the
    number of stages. ``config``: a DualParalConfig.

    Raises ValueError for a pipeline without DualParal support, more stages than layers, tensor parallelism or FSDP, or
    attention heads that Ulysses cannot split.
    """

    def __init__(self, wan_pipeline, engine_config, config=DualParalConfig()):
        # These import xfuser, which must wait: ``enable_host_platform`` may be called after this module is imported.
        from .groups import Groups
        from .stage import Stage

        self.pipe, self.config = wan_pipeline, config
        self.family = family_of(wan_pipeline)
        parallel = engine_config.parallel_config
        _check_degrees(parallel)
        check_heads(wan_pipeline.transformer.config.num_attention_heads, parallel.ulysses_degree)
        check_backend(engine_config.runtime_config.attention_backend, on_cpu=not torch.accelerator.is_available())
        self.groups = Groups(wan_pipeline, engine_config)
        self.device, self._vae_on_all_ranks = self.groups.device, parallel.use_parallel_vae
        self.stage = Stage(self.family, wan_pipeline.transformer, *self.groups.stage, config)
        self._place()
        if config.seen_latents > self.family.trained_latents:
            logger.warning(
                "a pass sees block_latents + 2 * context_latents = %d latent frames, the model was trained on %d: "
                "expect worse motion, or choose smaller ones", config.seen_latents, self.family.trained_latents,
            )

    def _place(self):
        """Moves what this rank uses to its device."""
        self.pipe.transformer.to(self.device)
        if self.stage.is_first and self.pipe.text_encoder is not None:
            self.pipe.text_encoder.to(self.device)
        if self.pipe.vae is not None and (self.is_output_rank or self._vae_on_all_ranks):
            self.pipe.vae.to(self.device)

    @property
    def is_output_rank(self):
        """Whether this rank returns the video: the last one of its replica."""
        return self.groups.is_output

    def compile(self, **options):
        """Compiles the stage's blocks, when a video is first made: one compilation serves all windows of a video size.

        ``options``: torch.compile's, for example ``mode="max-autotune-no-cudagraphs"``.
        """
        self.stage.compile(**options)

    def __call__(self, prompt=None, *, output_type="np", **options):
        """Makes a video for each prompt.

        Arguments are those of diffusers' WanPipeline: ``prompt`` and ``negative_prompt`` (str or list of str),
        ``num_frames``, ``height``, ``width`` (pixels), ``num_inference_steps``, ``guidance_scale``, ``generator`` (on
        the CPU), ``prompt_embeds`` and ``negative_prompt_embeds`` (videos, length, dim), ``max_sequence_length``;
        ``output_type`` is "np" (videos, frames, height, width, 3) in 0..1, "pt" (videos, frames, 3, height, width),
        "pil" (a list of images a video) or "latent" (videos, channels, latent frames, height, width) before VAE
        scaling, all whole blocks.

        Returns diffusers' WanPipelineOutput on the output rank, None on the others. Raises ValueError for
        arguments that cannot work.
        """
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        request = self._request(prompt, output_type, options)
        videos = [_join(list(self._stream(one)), output_type) for one in request.each_video()]
        return WanPipelineOutput(frames=_stack(videos, output_type)) if self.is_output_rank else None

    def stream(self, prompt=None, *, output_type="np", **options):
        """Makes one video and yields its frames in order, a segment as soon as its block is finished.

        Arguments as for a call, with one prompt. A segment is what ``output_type`` says, without the videos axis.
        Every rank must iterate to the end; only the output rank gets segments.
        """
        request = self._request(prompt, output_type, options)
        request.check_is_one_video()
        return self._stream(next(request.each_video()))

    def _request(self, prompt, output_type, options):
        request = Request(self.pipe, prompt=prompt, output_type=output_type, **options)
        check_even_split(request.frame_tokens, self.groups.shard[1])
        if self.groups.branch[1] > request.branches:
            raise ValueError(
                f"guidance_scale is {request.guidance_scale}, so there is one branch, and CFG parallelism computes "
                "two: give a guidance_scale above 1, or leave CFG parallelism out"
            )
        return request

    @torch.no_grad()
    def _stream(self, request):
        num_blocks = self.config.num_blocks(request.latent_frames)
        stages, can_split = self.groups.stage[1], request.branches == 2 and self.groups.branch[1] == 1
        schedule = check_schedule(build_schedule(num_blocks, request.num_inference_steps, stages, can_split))
        recorder = Recorder(self.groups.synchronize) if self.config.trace else without_recording
        shard = SpatialShard(request.latent_shape[1:], request.patch, *self.groups.shard)
        with ExitStack() as cleanup:
            runtime = self._make_runtime(request, schedule, shard, recorder, cleanup)
            blocks = self._finished_blocks(runtime, schedule, shard, cleanup)
            yield from self._frames(blocks, request, schedule.num_blocks)
        if self.config.trace and self.groups.in_last_pipeline:
            write_trace(self.config.trace, recorder.spans, self.groups.pipeline)

    def _make_runtime(self, request, schedule, shard, measure, cleanup):
        timesteps = request.make_scheduler(self.device).timesteps
        stage_run = self.stage.begin(self.config, timesteps, self._text(request), shard)
        cleanup.callback(stage_run.end)
        cleanup.enter_context(stage_run.cache.installed())
        windows = denoise = None
        if self.stage.is_first:
            noise = self._noise(request, request.generator.clone_state(), shard)
            windows = WindowStore(self.config, len(timesteps), noise, self.device)
        if self.stage.is_last:
            noise = self._noise(request, request.generator.clone_state(), shard)
            denoise = DenoiseStore(lambda: request.make_scheduler(self.device), timesteps, noise, self.device)
        # The stages draw when they need to, from copies; the user's own generator goes on as if it had drawn all.
        deque(islice(self._noise(request, request.generator, shard), schedule.num_blocks), maxlen=0)
        return Runtime(
            schedule, self.stage.index, stage_run, self._edges(schedule, stage_run, request, shard), windows, denoise,
            self._guide(request), measure,
        )

    def _noise(self, request, generator, shard):
        sizes = self.config.block_latents, self.config.context_latents
        return map(shard.take, noise_blocks(*sizes, request.latent_shape, generator))

    def _guide(self, request):
        return lambda prediction: apply_guidance(self.groups.join_branches(prediction), request.guidance_scale)

    def _text(self, request):
        """Prompt embeddings (branches, length, dim), encoded on the first stage and sent to the others."""
        dtype = self.pipe.transformer.dtype
        if request.has_embeds or self.stage.is_first:
            text = request.encode(self.device, dtype).contiguous()
        else:
            text = torch.empty(request.text_shape, dtype=dtype, device=self.device)
        if not request.has_embeds:
            self.groups.share_along_pipeline(text)
        branch, ranks = self.groups.branch
        return text if ranks == 1 else text[branch:branch + 1]

    def _edges(self, schedule, stage_run, request, shard):
        if self.stage.is_first and self.stage.is_last:
            loop = Loop()
            return Edges(latents_in=loop, latents_out=loop)
        sender = Sender(*self.groups.edge_out())
        if self.stage.is_first:
            shapes, dtype = self._latents_shapes(schedule, request, shard), torch.float32
        else:
            passes = (action for action in schedule.stages[self.stage.index] if action.kind == FORWARD)
            shapes, dtype = map(stage_run.hidden_shape, passes), stage_run.dtype
        receiver = Receiver(*self.groups.edge_in(), shapes, dtype, self.device)
        return Edges(
            hidden_in=None if self.stage.is_first else receiver, hidden_out=None if self.stage.is_last else sender,
            latents_in=receiver if self.stage.is_first else None, latents_out=sender if self.stage.is_last else None,
        )

    def _latents_shapes(self, schedule, request, shard):
        for step in round_trips(schedule):
            yield (1, request.latent_shape[0], self.config.own_latents(step.block), *shard.latent_size)

    def _finished_blocks(self, runtime, schedule, shard, cleanup):
        """Yields the whole latents of block after block, on every rank of the last stage."""
        progress = cleanup.enter_context(self._progress_bar(schedule.num_blocks * schedule.num_steps))
        for action, latents in runtime.run():
            if action.kind != STEP:
                continue
            progress.update()
            if action.step == schedule.num_steps - 1:
                yield shard.join(self.groups.join_shards(latents))

    def _progress_bar(self, passes):
        """The pipeline's own as configured, but on the last process, which prints in xDiT; diffusers' is on the first."""
        own = dict(getattr(self.pipe, "_progress_bar_config", {}))
        elsewhere = not (self.is_output_rank and self.groups.is_last_of_all)
        return tqdm(total=passes, unit="pass", disable=own.pop("disable", False) or elsewhere, **own)

    def _frames(self, blocks, request, num_blocks):
        """Yields what the caller gets, on the output rank."""
        if request.output_type != "latent" and (self._vae_on_all_ranks or _changed(self.pipe.vae)):
            yield from self._decoded_at_once(blocks, request, num_blocks)
        elif not self.is_output_rank:
            deque(blocks, maxlen=0)
        elif request.output_type == "latent":
            yield from blocks
        else:
            yield from self._decoded(blocks, request)

    def _decoded(self, blocks, request):
        decoder, missing = StreamingDecoder(self.pipe.vae), request.num_frames
        for latents in blocks:
            frames = decoder.decode(latents)[:, :, :missing]
            missing -= frames.shape[2]
            if frames.shape[2]:
                yield self._as_asked(frames, request)
        decoder.close()

    def _decoded_at_once(self, blocks, request, num_blocks):
        """For a VAE that ``vae.decode`` must be called of: one segment, when all blocks are finished."""
        parts = list(blocks)
        if self.is_output_rank:
            latents = torch.cat(parts, dim=2)
        else:
            frames = self.config.window_latents + (num_blocks - 1) * self.config.block_latents
            channels, height, width = request.latent_shape
            latents = torch.empty(1, channels, frames, height, width, device=self.device)
        if self._vae_on_all_ranks:
            latents = self.groups.share_in_replica(latents)
        if self._vae_on_all_ranks or self.is_output_rank:
            frames = decode_at_once(self.pipe.vae, latents)[:, :, :request.num_frames]
        if self.is_output_rank:
            yield self._as_asked(frames, request)

    def _as_asked(self, frames, request):
        return self.pipe.video_processor.postprocess_video(frames, output_type=request.output_type)[0]


def _changed(vae):
    """Whether ``vae`` decodes in tiles or slices, which happens in ``vae.decode``."""
    return vae.use_tiling or vae.use_slicing


def _check_degrees(parallel):
    others = {"tensor_parallel_degree": parallel.tp_degree, "fully_shard_degree": parallel.fs_degree}
    for name, degree in others.items():
        if degree > 1:
            raise ValueError(
                f"{name} is {degree}: DualParal splits the weights over its stages already, give 1 and more stages"
            )


def _join(segments, output_type):
    if not segments:
        return None
    if output_type == "pil":
        return [image for segment in segments for image in segment]
    if output_type == "latent":
        return torch.cat(segments, dim=2)[0]
    return torch.cat(segments) if output_type == "pt" else np.concatenate(segments)


def _stack(videos, output_type):
    if output_type == "pil":
        return videos
    return np.stack(videos) if output_type == "np" else torch.stack(videos)
