"""The pipeline that users call, like diffusers' own.

Knows: how a call becomes runs, and a run's segments a video. Must not know: what a run does, or launch flags.
"""

import logging
from itertools import count, islice

import torch

from .call import check_stream_options, known_options, own_defaults
from .compat.backends import backend_name, backends_in_use, check_backend, check_log_sum_exp
from .compat.backports import complete_xfuser
from .config import DualParalConfig
from .engine.meter import Meter
from .engine.placement import place
from .engine.sharding import check_degrees, check_even_split, check_heads
from .engine.stop import StopSign, waves_to_finish
from .engine.used_weights import UsedWeights
from .engine.video import Video, check_alike
from .images import with_encoded_images
from .models import family_of
from .models.identity import dtype_name, tiling_of
from .output.segments import join_segments, stack_videos
from .plan.schedule import AT_END, NO_DECODE
from .request import Request
from .run_files import check_space, check_trace, checkpoint_of, latents_file, write_trace
from .run_spec import RunSpec
from .strategies.base import Lanes
from .strategies.table import check_refused, lane_layers, strategy_of, with_image
from .texts import LiveEncoder

logger = logging.getLogger(__name__)
_run_numbers = count()  # of this process: all pipelines' stop signs are in one store


class DualParalPipeline:
    """Long videos from a diffusers ``WanPipeline``, one stage of its transformer on each pipeline rank.

    ``wan_pipeline``: of Wan2.1, or of Wan2.2 with two transformers, or diffusers' WanImageToVideoPipeline, or of SkyReels-V2 one of its three diffusion
    forcing pipelines, which are one here, or its SkyReelsV2ImageToVideoPipeline; on every rank, with the same weights; the layers of other stages are dropped
    from it, and the text encoder on all ranks but the first of a replica: it is of no other use afterwards.
    ``engine_config``: xDiT's EngineConfig; its ``parallel_config.pp_degree`` is the number of stages. ``config``: a
    DualParalConfig. ``texts``: what encodes prompts (see texts.py), by default the pipeline's text encoder. ``check_weights``:
    whether to look for NaNs and infinities in the weights.

    Raises ValueError for a pipeline without DualParal support, more stages than layers, tensor parallelism or FSDP, or
    attention heads that Ulysses cannot split, or a weight that is a NaN or an infinity.
    """

    def __init__(self, wan_pipeline, engine_config, config=DualParalConfig(), *, texts=None, check_weights=True):
        complete_xfuser()
        # These import xfuser, which must wait: ``enable_host_platform`` may be called after this module is imported.
        from .engine.mesh import Mesh
        from .engine.stage import Stage

        parallel, runtime = engine_config.parallel_config, engine_config.runtime_config
        self.strategy = strategy_of(config)
        self.pipe, self.family = wan_pipeline, family_of(wan_pipeline)
        self._lanes, self.config = parallel.pp_degree, config
        config = self.config
        if parallel.ring_degree > 1:
            check_refused(config, dict(ring_degree=parallel.ring_degree))
        check_degrees(parallel)
        experts = [getattr(wan_pipeline, name) for name in self.family.facts.experts]
        _check_offload(config, self.family)
        check_heads(experts[0].config.num_attention_heads, parallel.ulysses_degree)
        check_backend(runtime.attention_backend, on_cpu=not torch.accelerator.is_available())
        self.mesh = Mesh(wan_pipeline, engine_config)
        self._backends = backends_in_use(on_cpu=not torch.accelerator.is_available())
        self.device, self.vae_on_all_ranks = self.mesh.device, parallel.use_parallel_vae
        if self.strategy.merges_attention:
            check_log_sum_exp(backend_name())
        index, count_of_stages = self.mesh.stage
        layers = lane_layers(config, experts[0].config.num_layers, count_of_stages)[index]
        self.stage = Stage(self.family, experts, index, count_of_stages, layers, config.expert_offload, self.strategy.splits_layers)
        if config.vae_precision is not None and wan_pipeline.vae is not None:
            # Not diffusers' own ``to``, which warns of parts that must stay in float32 where there are none.
            torch.nn.Module.to(wan_pipeline.vae, getattr(torch, config.vae_precision))
        self.texts = texts or LiveEncoder(wan_pipeline, self.mesh, self.device, config.text_encoder)
        place(wan_pipeline, self.device, self.texts.shares_device, decodes=self.is_output_rank or self.vae_on_all_ranks)
        self._weights = UsedWeights(self.mesh, self._used_parts, self.texts.sums, layers.start)
        if check_weights:
            self._weights.check()
        self.run, self.tell = None, lambda doing: None
        self._warned_latents = 0  # of the longest pass that was warned of, see _warn_of_length
        self.model_name = str(getattr(wan_pipeline.config, "_name_or_path", ""))
        self.trained_latents = self.family.facts.trained_latents  # of the model's clips, where the caller does not know more of it
        self.loras = ()  # for the RunSpec: what the transformer was loaded with, where the caller knows it

    @property
    def config(self):
        """The DualParalConfig, settled for the model and the stages."""
        return self._config

    @config.setter
    def config(self, config):
        self._config = self.strategy.settled(config, self._lanes, self.family.facts)

    @property
    def is_output_rank(self):
        """Whether this rank returns the video: the last one of its replica."""
        return self.mesh.is_output

    @property
    def meter(self):
        """The Meter of the run under way or of the last one, None before the first."""
        return self.run and self.run.meter

    def freeze_weights(self):
        """Says that no weight will be changed any more: they are read once, now, to tell them apart, and not for each video.
        Every rank must call it."""
        self._weights.freeze()

    def quantize(self, name, convert):
        """Freezes the weights, and then quantizes the stage's layers, see ``Stage.quantize``. Every rank must call it, once."""
        self.freeze_weights()
        self.stage.quantize(name, convert, self.device)

    def compile(self, **options):
        """Compiles the stage's blocks, when a video is first made: once for whole windows and once for a short last block's.

        ``options``: torch.compile's, for example ``mode="max-autotune-no-cudagraphs"``. Raises ValueError where the strategy refuses it.
        """
        check_refused(self.config, dict(use_torch_compile=True))
        self.stage.compile(**options)

    def __call__(self, prompt=None, *, output_type="np", return_dict=True, **options):
        """Makes a video for each prompt, ``config.videos_in_flight`` at a time.

        Arguments are those of diffusers' WanPipeline: ``prompt`` and ``negative_prompt`` (str or list of str),
        ``num_frames``, ``height``, ``width`` (pixels), ``num_inference_steps``, ``guidance_scale``, ``guidance_scale_2``
        (of a second transformer), ``generator`` (on the CPU), ``prompt_embeds`` and ``negative_prompt_embeds`` (videos, length, dim), ``max_sequence_length``;
        ``image`` (a PIL image, or a list of one for each prompt; Wan2.2-TI2V, SkyReels-V2-DF, SkyReels-V2-I2V, Wan2.1-I2V, Wan2.2-I2V), the video's first frame, scaled to height x width,
        and for I2V ``last_image``, its last one, or what the model sees of them (images.encode_images): ``image_latents``, ``last_image_latents`` and
        ``image_embeds``; with ``continue_latents`` I2V takes no ``image``, but for what CLIP says of it, where the model asks for that;
        ``continue_latents``: the last latent frames of another video, (1, channels, frames, height, width) before VAE scaling, as
        output_type "latent" gives them: this video goes on from there, and has the frames that follow, ``num_frames`` of them. The last
        ``context_latents`` are what its first block sees; earlier ones, if given, only make the first frames decode as in one video.
        They are seen clean, where ``context_timestep`` is true, as for SkyReels-V2-DF, with their true timestep, or with a share of each step's noise,
        ``given_noise`` of the DualParalConfig; ``continue_noise`` is for that one: the noise that those were made of (``initial_noise`` of that run), of as many last
        frames; else new noise is drawn.
        ``output_type`` is "np" (videos, frames, height, width, 3) in 0..1, "uint8" (the same in 0..255), "pt" (videos, frames, 3, height, width),
        "pil" (a list of images a video) or "latent" (videos, channels, latent frames, height, width) before VAE
        scaling.

        Returns diffusers' WanPipelineOutput on the output rank, or with ``return_dict=False`` a tuple of its frames, and None
        on the others. Raises ValueError for arguments that cannot work, or that only the ordinary pipeline has (call.py).
        """
        from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput

        request = self._request(prompt, output_type, options)
        if request.is_endless or self.config.checkpoint:
            what = "num_frames is 0, for a video without end" if request.is_endless else "a checkpoint is asked for"
            raise ValueError(f"{what}: its frames must be kept as they come, use stream()")
        if self.config.latents_out and request.num_videos > 1:
            raise ValueError(f"latents_out is one file and {request.num_videos} videos are asked for: give one prompt")
        videos = [video for group in self._groups(request) for video in self._made(group, output_type)]
        if not self.is_output_rank:
            return None
        frames = stack_videos(videos, output_type)
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)

    def _groups(self, request):
        """Yields lists of Videos, ``videos_in_flight`` each; the last one may have fewer."""
        requests = request.each_video()
        while group := list(islice(requests, self.config.videos_in_flight)):
            videos = []
            for one in group:
                videos.append(self._video(one, self._spec(one)))
                videos[-1].draw()  # before the next one's identity is known: they may share a generator
            yield videos

    def _made(self, videos, output_type):
        """What ``output_type`` says of each of ``videos``, None off the output rank."""
        segments = [[] for _ in videos]
        for number, segment in self.side_by_side(videos):
            segments[number].append(segment)
        return [join_segments(of_one, output_type) for of_one in segments]

    def stream(self, prompt=None, *, output_type="np", blocks_kept=0, file_spec=None, **options):
        """One video as an engine.session.VideoRun: iterate over it for its frames in order, a segment as soon as its block
        is finished.

        Arguments as for a call, with one prompt. A segment is what ``output_type`` says, without the videos axis.
        Every rank must iterate; only the output rank gets segments. With ``num_frames`` 0 the video has no end until the
        run's ``stop``. Who leaves the loop early stops the run, on all ranks.

        With ``config.checkpoint`` a run that was ended is resumed from what was saved. ``blocks_kept`` is how many segments
        of it the caller still has (on the output rank); the run's ``blocks_kept`` says how many of them come before those
        that are now yielded: all of them where the run was finished. ``file_spec``: what besides decides the caller's file,
        fields of a RunSpec. Raises ValueError for a checkpoint of another run, a ``config.latents_out`` that has not the
        blocks so far, or while another run is under way.
        """
        from .engine.session import VideoRun

        video = self.video(prompt, output_type=output_type, blocks_kept=blocks_kept, file_spec=file_spec, **options)
        return self._run_of(VideoRun, [video])

    def video(self, prompt=None, *, output_type="np", blocks_kept=0, file_spec=None, **options):
        """One video for ``side_by_side``, a engine.video.Video; arguments as for ``stream``. Every rank must call it."""
        check_stream_options(blocks_kept, file_spec)
        request = self._request(prompt, output_type, options)
        request.check_is_one_video()
        one = next(request.each_video())
        return self._video(one, self._spec(one, file_spec), blocks_kept)

    def side_by_side(self, videos):
        """Several ``videos``, made with ``video``, that share the stages, as an engine.session.GroupRun: iterate over it for
        (number in ``videos``, segment), each video's segments in order, to the bit what ``stream`` makes of it.

        Each needs memory of its own: for blocks in flight, text and, unless ``config.decode`` is "end", its decoder. One that an earlier
        run finished gives nothing. Raises ValueError for videos that differ in more than what they show, or were made already.
        """
        from .engine.session import GroupRun

        check_alike(videos)
        return self._run_of(GroupRun, list(videos))

    def run_spec(self, prompt=None, *, output_type="np", file_spec=None, **options):
        """The RunSpec of what ``stream`` with the same arguments makes. Every rank must call it; the generator stays as it
        is."""
        request = self._request(prompt, output_type, options)
        request.check_is_one_video()
        return self._spec(next(request.each_video()), file_spec)

    def layout(self, **arguments):
        """The plan.layout.Layout of what ``stream`` with the same arguments makes."""
        arguments = {name: value for name, value in arguments.items() if name not in ("file_spec", "blocks_kept")}
        output_type = arguments.pop("output_type", "np")
        return self._plan(self._request(arguments.pop("prompt", None), output_type, arguments)).layout

    def stop(self):
        """Ends the run under way soon, see VideoRun.stop; without one it does nothing. From any thread of any rank."""
        run = self.run
        if run is not None:
            run.stop()

    def _request(self, prompt, output_type, options):
        self._check_free()  # before any collective: the ranks that wait for passes would not take part
        options = with_encoded_images(self.pipe, self.family, self.mesh, prompt, own_defaults(self.pipe) | known_options(options))
        request = Request(self.pipe, self.family, prompt=prompt, output_type=output_type, **options)
        check_even_split(request.frame_tokens, self.mesh.shard[1])
        if self.mesh.branch[1] > request.branches:
            raise ValueError(
                f"guidance_scale is {request.guidance_scale}, so there is one branch, and CFG parallelism computes "
                "two: give a guidance_scale above 1, or leave CFG parallelism out"
            )
        if self.config.checkpoint and self.vae_on_all_ranks:
            raise ValueError("the parallel VAE decodes at the end and a checkpoint saves what was decoded: leave one out")
        if request.is_endless and (self.vae_on_all_ranks or self.config.decode == AT_END):
            raise ValueError("num_frames is 0, for a video without end, which cannot be decoded at the end: decode inline")
        self._plan(request)  # refuses what does not suit
        return request

    def _warn_of_length(self, plan):
        """Once, and again for longer passes; replicas make alike videos, so only the first one."""
        seen, trained = plan.layout.seen_latents, self.trained_latents
        if seen > max(trained, self._warned_latents) and self.mesh.has_rank_0 and self.mesh.decides:
            self._warned_latents = seen
            logger.warning(
                "a pass sees %d latent frames and the model was trained on %d: expect worse motion%s", seen, trained,
                ", or lower " + " or ".join(self.strategy.window_settings) if self.strategy.window_settings else "",
            )

    def _plan(self, request):
        decode = AT_END if self.vae_on_all_ranks else self.config.decode
        decode = NO_DECODE if request.output_type == "latent" else decode
        can_split = request.branches == 2 and self.mesh.branch[1] == 1
        lanes = Lanes(self.mesh.stage[1], decode, can_split, self.config.expert_offload)
        continued = 0
        if request.continue_latents is not None:
            continued = self.strategy.continued_latents(self.config, request.continue_latents.shape[2])
        latent_frames = None if request.is_endless else self.family.facts.latent_frames(request.num_frames, continued)
        expert_starts = self.family.expert_starts(self.pipe, request.make_scheduler("cpu").timesteps)
        plan = self.strategy.plan(self.config, latent_frames, request.num_inference_steps, lanes, expert_starts)
        if request.image_latents is not None and not continued:
            return with_image(self.config, plan, self.family.facts)
        if not continued:
            return plan
        plan = plan.continuing(continued)
        _check_noise(plan, request.continue_noise, self.config.given_noise)
        return plan

    def _spec(self, request, file_spec=None):
        pipe = self.pipe
        return RunSpec(
            **request.identity(), **self._weights.digests(), **self.strategy.identity(self.config), **(file_spec or {}),
            model=self.model_name, loras=self.loras, precision=self.stage.precision, compiled=self.stage.is_compiled, compile_options=self.stage.compile_options,
            **self._backends,
            vae_precision=pipe.vae and dtype_name(pipe.vae.dtype), tiling=tiling_of(pipe.vae),
            one_segment=self.vae_on_all_ranks or None, text_encoder_place=None if request.has_embeds else self.texts.place,
        )

    def _used_parts(self):
        vae = self.pipe.vae if self.is_output_rank else None
        return dict(zip(self.family.facts.experts, self.stage.transformers), vae=vae, **self.texts.parts)

    def _video(self, request, spec, blocks_kept=0):
        """The Video of ``request``, which is one video's. Every rank of the replica must call it."""
        self._check_free()
        video = Video(self, request, self._plan(request), spec, checkpoint_of(self.config, spec), blocks_kept)
        video.latents_sink = latents_file(self.mesh, self.config, video)
        return video

    def _run_of(self, kind, videos):
        """A VideoRun or GroupRun of ``videos``."""
        self._check_free()
        check_trace(self.mesh, self.config, videos[0].spec)
        check_space(self.mesh, self.config, sum(video.kept_bytes for video in videos if video.is_to_make))
        self._warn_of_length(videos[0].plan)
        meter = Meter(self.mesh.synchronize, self.config.trace is not None, self.tell)
        run = kind(self, videos, meter, self._stop_sign(videos[0].plan))
        run.at_start, run.at_end = self._begin, self._write_trace
        return run

    def _write_trace(self, run):
        write_trace(self.mesh, self.config, run.videos[0].spec, run.meter.spans)

    def _check_free(self):
        if self.run is not None and not self.run.is_over:
            raise ValueError(
                "a video of this pipeline is still being made: iterate over its stream to the end, or call its close(), before the next"
            )
        if self.run is not None and self.run.has_failed and self.mesh.is_shared:
            raise ValueError(
                "a video of this pipeline failed, and messages of it may still be under way between the processes: start new "
                "ones for the next"
            )

    def _begin(self, run):
        self._check_free()
        self.run = run

    def _stop_sign(self, plan):
        store = torch.distributed.distributed_c10d._get_default_store()  # torch has no public way to it
        name = f"dualparal {self.mesh.replica_name} run {next(_run_numbers)}"
        return StopSign(store, name, self.mesh.decides, waves_to_finish(plan.num_steps, plan.num_stages), self.mesh.has_rank_0)


def _check_noise(plan, noise, share):
    """Raises ValueError for the ``noise``, (1, channels, frames, height, width) or None, of another video's frames that ``plan`` does not suit, and where they are seen
    with none: a ``share`` of 0."""
    if noise is None:
        return
    if plan.clean_latents or not share:
        raise ValueError("continue_noise is given and the frames of continue_latents are seen clean: leave it out, or give given_noise")
    if noise.shape[2] < plan.layout.continued_latents:
        raise ValueError(f"continue_noise has {noise.shape[2]} latent frames and {plan.layout.continued_latents} are seen: give the noise of as many")


def _check_offload(config, family):
    if config.expert_offload and len(family.facts.experts) == 1:
        raise ValueError(
            f"expert_offload is for models with two transformers and {family.facts.name} has one: leave it out, or take more stages"
        )
