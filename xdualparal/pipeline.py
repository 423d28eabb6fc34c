"""The pipeline that users call, like diffusers' own.

Knows: how a call becomes runs, and a run's segments a video. Must not know: what a run does, or launch flags.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from .compat.backends import check_backend
from .output.checkpoint import Checkpoint
from .config import DualParalConfig
from .output.latents_file import LatentsFile
from .engine.meter import Meter
from .models import family_of
from .plan.render import chrome_trace
from .output.report import make_report
from .request import Request, digest
from .engine.session import Run, make_plan
from .plan.schedule import whole_schedule
from .engine.sharding import check_even_split, check_heads
from .engine.stop import StopSign, waves_to_go
from .output.trace import gather_trace
from .compat.backports import complete_xfuser
from .plan.validate import check_schedule

logger = logging.getLogger(__name__)
CHECKED_BLOCKS = 64  # a plan repeats itself; so many blocks show whether it can be carried out


class DualParalPipeline:
    """Long videos from a diffusers ``WanPipeline``, one stage of its transformer on each pipeline rank.

    ``wan_pipeline``: on every rank, with the same weights; the layers of other stages are dropped from it, so it
    is of no other use afterwards. ``engine_config``: xDiT's EngineConfig; its ``parallel_config.pp_degree`` is the
    number of stages. ``config``: a DualParalConfig.

    Raises ValueError for a pipeline without DualParal support, more stages than layers, tensor parallelism or FSDP, or
    attention heads that Ulysses cannot split.
    """

    def __init__(self, wan_pipeline, engine_config, config=DualParalConfig()):
        complete_xfuser()
        # These import xfuser, which must wait: ``enable_host_platform`` may be called after this module is imported.
        from .engine.mesh import Groups
        from .engine.stage import Stage

        self.pipe, self.config = wan_pipeline, config
        self.family = family_of(wan_pipeline)
        parallel = engine_config.parallel_config
        _check_degrees(parallel)
        check_heads(wan_pipeline.transformer.config.num_attention_heads, parallel.ulysses_degree)
        check_backend(engine_config.runtime_config.attention_backend, on_cpu=not torch.accelerator.is_available())
        self.groups = Groups(wan_pipeline, engine_config)
        self.device, self.vae_on_all_ranks = self.groups.device, parallel.use_parallel_vae
        self.stage = Stage(self.family, wan_pipeline.transformer, *self.groups.stage, config)
        self._place()
        self.meter = self.report = self._stop_sign = None
        self.blocks_kept, self.tell = 0, lambda text: None
        self.label = ""  # goes with kept latents, for the file that is made of them
        self.model_name = str(getattr(wan_pipeline.config, "_name_or_path", ""))
        self.was_stopped = self.was_finished = self._stop_is_asked = False
        self._run_numbers = count()
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
        if self.pipe.vae is not None and (self.is_output_rank or self.vae_on_all_ranks):
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
        if request.is_endless or self.config.checkpoint:
            what = "num_frames is 0, for a video without end" if request.is_endless else "a checkpoint is asked for"
            raise ValueError(f"{what}: its frames must be kept as they come, use stream()")
        videos = [_join(list(self._stream(one)), output_type) for one in request.each_video()]
        return WanPipelineOutput(frames=_stack(videos, output_type)) if self.is_output_rank else None

    def stream(self, prompt=None, *, output_type="np", blocks_kept=0, **options):
        """Makes one video and yields its frames in order, a segment as soon as its block is finished.

        Arguments as for a call, with one prompt. A segment is what ``output_type`` says, without the videos axis.
        Every rank must iterate to the end; only the output rank gets segments. ``num_frames`` 0 goes on until ``stop``.

        With ``config.checkpoint`` a run that was ended goes on from what was saved. ``blocks_kept`` is how many segments
        of it the caller still has (on the output rank); when this returns, the attribute ``blocks_kept`` says how many
        of them come before those that are now yielded: all of them where the run was finished. Raises ValueError for a
        checkpoint of another run, or a ``config.latents_out`` that has not the blocks so far.
        """
        request = self._request(prompt, output_type, options)
        request.check_is_one_video()
        return self._stream(next(request.each_video()), blocks_kept)

    def stop(self):
        """Ends the run under way soon: blocks that are nearly done are finished. From any thread of any rank."""
        self._stop_is_asked, sign = True, self._stop_sign
        if sign is not None:
            sign.ask()

    def _request(self, prompt, output_type, options):
        request = Request(self.pipe, prompt=prompt, output_type=output_type, **options)
        check_even_split(request.frame_tokens, self.groups.shard[1])
        if self.groups.branch[1] > request.branches:
            raise ValueError(
                f"guidance_scale is {request.guidance_scale}, so there is one branch, and CFG parallelism computes "
                "two: give a guidance_scale above 1, or leave CFG parallelism out"
            )
        if self.config.checkpoint and self.vae_on_all_ranks:
            raise ValueError("the parallel VAE decodes at the end and a checkpoint saves what was decoded: leave one out")
        if request.is_endless and (self.vae_on_all_ranks or self.config.decode == "end"):
            raise ValueError("num_frames is 0, for a video without end, which cannot be decoded at the end: decode inline")
        check_schedule(whole_schedule(_short(make_plan(request, self))))
        return request

    def _stream(self, request, blocks_kept=0):
        meter = self.meter = Meter(self.groups.synchronize, self.config.trace is not None, self.tell)
        run = Run(self, request, meter, self._new_stop_sign(request), self._checkpoint(request), blocks_kept)
        self.blocks_kept, self.was_finished = run.segments_given, run.was_finished
        return self._segments(run, self._latents_file(run))

    def _segments(self, run, latents_file):
        with latents_file or nullcontext() as file:
            yield from run.segments(file and file.append)
        self._stop_sign, self._stop_is_asked, self.was_stopped = None, False, run.course.was_stopped
        if not run.was_finished:
            self._report(run)

    def _report(self, run):
        self.report = make_report(run)
        if self.config.trace and self.groups.in_last_pipeline:
            trace = gather_trace(run.meter.spans, self.groups.pipeline)
            if trace is not None:
                Path(self.config.trace).write_text(chrome_trace(trace))

    def _latents_file(self, run):
        """What takes each finished block's latents, or None. Every rank of the replica must call it, and raises
        ValueError when the file cannot be gone on with."""
        if self.config.latents_out is None:
            return None
        file, error = None, None
        if self.is_output_rank:
            own = digest(repr(sorted(run.request.settings().items())).encode())
            facts = dict(model=self.model_name, num_frames=str(run.request.num_frames), run=own, label=self.label)
            try:
                file = LatentsFile(self.config.latents_out, facts, run.blocks_finished)
            except (ValueError, OSError) as problem:
                error = str(problem)
        error = self.groups.share_object(error)
        if error is not None:
            raise ValueError(error)
        return file

    def _new_stop_sign(self, request):
        store = torch.distributed.distributed_c10d._get_default_store()  # torch has no public way to it
        name = f"dualparal {self.groups.replica_name} run {next(self._run_numbers)}"
        self._stop_sign = StopSign(store, name, self.groups.decides, waves_to_go(make_plan(request, self)))
        if self._stop_is_asked:
            self._stop_sign.ask()
        return self._stop_sign

    def _checkpoint(self, request):
        if self.config.checkpoint is None:
            return None
        own = {name: getattr(self.config, name) for name in ("block_latents", "context_latents", "stagger")}
        own |= dict(model_name=self.model_name, model=self._model_digest())
        own["tiling"] = self.pipe.vae is not None and self.pipe.vae.use_tiling
        return Checkpoint(self.config.checkpoint, request.settings() | own)

    def _model_digest(self):
        """Tells models and their fine-tuned versions apart, by what every stage has of them."""
        transformer = self.pipe.transformer
        table = transformer.scale_shift_table.detach().float().cpu().numpy().tobytes()
        return digest(repr(sorted(transformer.config.items(), key=lambda item: item[0])).encode() + table)


def _short(plan):
    blocks = CHECKED_BLOCKS if plan.num_blocks is None else min(plan.num_blocks, CHECKED_BLOCKS)
    return replace(plan, num_blocks=blocks)


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
