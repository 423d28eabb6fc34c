"""The pipeline that users call, like diffusers' own.

Knows: how a call becomes a run, and a run a video. Must not know: what a stage computes, or launch flags.
"""

import logging
from collections import deque
from contextlib import ExitStack
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist

from .comm import Loop, Receiver, Sender, make_edge_groups
from .config import DualParalConfig
from .decode import StreamingDecoder
from .latents import DenoiseStore, WindowStore
from .models import family_of
from .noise import noise_blocks
from .request import Request
from .runtime import Edges, Recorder, Runtime, round_trips, without_recording
from .schedule import STEP, build_schedule
from .tracing import write_trace
from .validate import check_schedule

logger = logging.getLogger(__name__)


class DualParalPipeline:
    """Long videos from a diffusers ``WanPipeline``, one stage of its transformer on each pipeline rank.

    ``wan_pipeline``: on every rank, with the same weights; the layers of other stages are dropped from it, so it
    is of no other use afterwards. ``engine_config``: xDiT's EngineConfig; its ``parallel_config.pp_degree`` is the
    number of stages. ``config``: a DualParalConfig.

    Raises ValueError for a pipeline without DualParal support, more stages than layers, or other parallel
    degrees, which are not supported yet.
    """

    def __init__(self, wan_pipeline, engine_config, config=DualParalConfig()):
        # Imports xfuser, which must wait: ``enable_host_platform`` may be called after this module is imported.
        from .stage import Stage

        self.pipe, self.config = wan_pipeline, config
        self.family = family_of(wan_pipeline)
        _check_degrees(engine_config.parallel_config)
        self._pp = _pipeline_group(wan_pipeline, engine_config)
        self.device = self._pp.device
        self.stage = Stage(self.family, wan_pipeline.transformer, self._pp.rank_in_group, self._pp.world_size)
        self._groups = make_edge_groups([self._pp.ranks], dist.get_backend())
        wan_pipeline.transformer.to(self.device)
        if self.stage.is_first and wan_pipeline.text_encoder is not None:
            wan_pipeline.text_encoder.to(self.device)
        if self.is_output_rank and wan_pipeline.vae is not None:
            wan_pipeline.vae.to(self.device)
        if config.seen_latents > self.family.trained_latents:
            logger.warning(
                "a pass sees block_latents + 2 * context_latents = %d latent frames, the model was trained on %d: "
                "expect worse motion, or choose smaller ones", config.seen_latents, self.family.trained_latents,
            )

    @property
    def is_output_rank(self):
        """Whether this rank returns the video: the last stage's."""
        return self.stage.is_last

    def __call__(self, prompt=None, *, output_type="np", **options):
        """Makes a video for each prompt.

        Arguments are those of diffusers' WanPipeline: ``prompt`` and ``negative_prompt`` (str or list of str),
        ``num_frames``, ``height``, ``width`` (pixels), ``num_inference_steps``, ``guidance_scale``, ``generator`` (on the CPU),
        ``prompt_embeds`` and ``negative_prompt_embeds`` (videos, length, dim), ``max_sequence_length``;
        ``output_type`` is "np" (videos, frames, height, width, 3) in 0..1, "pt" (videos, frames, 3, height, width), "pil" (a
        list of images a video) or "latent" (videos, channels, latent frames, height, width) before VAE scaling, all whole blocks.

        Returns diffusers' WanPipelineOutput on the output rank, None on the others. Raises ValueError for
        arguments that cannot work.
        """
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        request = Request(self.pipe, prompt=prompt, output_type=output_type, **options)
        videos = [_join(list(self._stream(one)), output_type) for one in request.each_video()]
        return WanPipelineOutput(frames=_stack(videos, output_type)) if self.is_output_rank else None

    def stream(self, prompt=None, *, output_type="np", **options):
        """Makes one video and yields its frames in order, a segment as soon as its block is finished.

        Arguments as for a call, with one prompt. A segment is what ``output_type`` says, without the videos axis.
        Every rank must iterate to the end; only the output rank gets segments.
        """
        request = Request(self.pipe, prompt=prompt, output_type=output_type, **options)
        request.check_is_one_video()
        return self._stream(request)

    @torch.no_grad()
    def _stream(self, request):
        num_blocks = self.config.num_blocks(request.latent_frames)
        schedule = check_schedule(build_schedule(num_blocks, request.num_inference_steps, self._pp.world_size))
        recorder = Recorder(self._synchronize) if self.config.trace else without_recording
        with ExitStack() as cleanup:
            runtime = self._make_runtime(request, schedule, recorder, cleanup)
            blocks = self._finished_blocks(runtime, schedule, cleanup)
            yield from self._decoded(blocks, request) if self.is_output_rank else blocks
        if self.config.trace:
            write_trace(self.config.trace, recorder.spans, self._pp)

    def _make_runtime(self, request, schedule, measure, cleanup):
        text = self._text(request)
        timesteps = request.make_scheduler(self.device).timesteps
        stage_run = self.stage.begin(self.config, timesteps, text, request.latent_shape[1:])
        cleanup.callback(stage_run.end)
        cleanup.enter_context(stage_run.cache.installed())
        windows = denoise = None
        if self.stage.is_first:
            noise = self._noise(request, request.generator.clone_state())
            windows = WindowStore(self.config, len(timesteps), noise, self.device)
        if self.stage.is_last:
            noise = self._noise(request, request.generator.clone_state())
            denoise = DenoiseStore(lambda: request.make_scheduler(self.device), timesteps, noise, self.device)
        # The stages draw when they need to, from copies; the user's own generator goes on as if it had drawn all.
        deque(islice(self._noise(request, request.generator), schedule.num_blocks), maxlen=0)
        edges = self._edges(schedule, stage_run, request)
        return Runtime(
            schedule, self.stage.index, stage_run, edges, windows, denoise, request.guidance_scale, measure
        )

    def _noise(self, request, generator):
        return noise_blocks(
            self.config.block_latents, self.config.context_latents, request.latent_shape, generator
        )

    def _text(self, request):
        """Prompt embeddings (branches, length, dim), encoded on the first stage and sent to the others."""
        dtype, group = self.pipe.transformer.dtype, self._pp
        if request.has_embeds or group.world_size == 1:
            return request.encode(self.device, dtype)
        if self.stage.is_first:
            text = request.encode(self.device, dtype).contiguous()
        else:
            text = torch.empty(request.text_shape, dtype=dtype, device=self.device)
        dist.broadcast(text, src=group.ranks[0], group=group.device_group)
        return text

    def _edges(self, schedule, stage_run, request):
        ranks, me = self._pp.ranks, self.stage.index
        if len(ranks) == 1:
            loop = Loop()
            return Edges(latents_in=loop, latents_out=loop)
        before, after = ranks[me - 1], ranks[(me + 1) % len(ranks)]
        sender = Sender(self._groups[ranks[me], after], after)
        if self.stage.is_first:
            shapes, dtype = self._latents_shapes(schedule, request), torch.float32
        else:
            passes = schedule.num_blocks * schedule.num_steps
            shapes, dtype = (stage_run.hidden_shape for _ in range(passes)), stage_run.dtype
        receiver = Receiver(self._groups[before, ranks[me]], before, shapes, dtype, self.device)
        return Edges(
            hidden_in=None if self.stage.is_first else receiver, hidden_out=None if self.stage.is_last else sender,
            latents_in=receiver if self.stage.is_first else None, latents_out=sender if self.stage.is_last else None,
        )

    def _latents_shapes(self, schedule, request):
        channels, height, width = request.latent_shape
        for step in round_trips(schedule):
            yield (1, channels, self.config.own_latents(step.block), height, width)

    def _finished_blocks(self, runtime, schedule, cleanup):
        progress = None
        if self.is_output_rank:
            passes = schedule.num_blocks * schedule.num_steps
            progress = cleanup.enter_context(self.pipe.progress_bar(total=passes))
        for action, latents in runtime.run():
            if action.kind == STEP:
                progress.update()
                if action.step == schedule.num_steps - 1:
                    yield latents

    def _decoded(self, blocks, request):
        if request.output_type == "latent":
            yield from blocks
            return
        decoder, missing = StreamingDecoder(self.pipe.vae), request.num_frames
        for latents in blocks:
            frames = decoder.decode(latents)[:, :, :missing]
            missing -= frames.shape[2]
            if frames.shape[2]:
                yield self.pipe.video_processor.postprocess_video(frames, output_type=request.output_type)[0]
        decoder.close()

    def _synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _check_degrees(parallel):
    others = {
        "ulysses": parallel.ulysses_degree, "ring": parallel.ring_degree, "cfg": parallel.cfg_degree,
        "data_parallel": parallel.dp_degree, "tensor_parallel": parallel.tp_degree,
        "fully_shard": parallel.fs_degree,
    }
    for name, degree in others.items():
        if degree > 1:
            raise ValueError(f"{name} degree {degree} does not go with DualParal yet: give 1")


def _pipeline_group(wan_pipeline, engine_config):
    """xDiT's pipeline group, made if the caller has not made xDiT's groups yet."""
    from xfuser.core.distributed import (
        get_pp_group,
        get_runtime_state,
        init_distributed_environment,
        initialize_runtime_state,
    )
    from xfuser.core.distributed.runtime_state import runtime_state_is_initialized

    init_distributed_environment()  # a caller may have started torch.distributed, which xDiT does not notice
    if not runtime_state_is_initialized():
        initialize_runtime_state(wan_pipeline, engine_config)
    # More than one patch would wake PipeFusion's stale K/V paths, which are not ours (DESIGN section 3).
    get_runtime_state().num_pipeline_patch = 1
    return get_pp_group()


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
