"""A Wan model in xDiT's terms: how xDiT's runner loads it, runs it and keeps its videos, with DualParal.

Knows: xDiT's model class and what DualParal changes in it. Must not know: launching, which models there are (wan_models.py), or
how a file is written (video_files.py).
"""

import math
import secrets
import sys
from collections import deque
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from xfuser.model_executor.models.runner_models.base_model import (
    DiffusionOutput,
)
from xfuser.model_executor.models.runner_models.wan import xFuserWan21T2VModel
from xfuser.core.utils.runner_utils import log

from ..config import DualParalConfig
from ..pipeline import DualParalPipeline
from ..engine.placement import HOST
from ..engine.replica import Replica
from ..engine.video import Outcome
from ..images import described, encode_images
from ..limits import RANDOM_SEED
from ..output.report import resident_bytes
from ..request import shared_seed
from ..strategies.table import lane_layers, strategy_of
from ..launch.errors import Refused, refuse
from .continuing import appended_digest, last_latents, last_noise_of
from .encoding import encode_prompts
from .experts import files_of_experts
from .flags import value_of
from .images import images_of, last_images_of
from .loras import lines_on_loras, lora_changes, loras_identity
from .memory import memory_report
from .loading import LoadingProgress
from .outputs import video_paths
from .quantization import converter, quantization_of
from .prompts import NumberedPrompt, as_list, many_prompts_line, not_begun_line, prompts_of
from .resume import pair_prompts
from .screen import start_text
from .settings import CommandSettings, fps_of
from .video_files import VideoFile, open_all, write_videos
from ..models.checkpoint_files import Weights
from ..models.schedulers import flow_shift, fresh_scheduler, with_flow_shift
from ..models.wan import WanFamily
from ..models.weights import bytes_to_read, checkpoint_folder, load_image_encoder, load_stage


class DualParalWanModel(xFuserWan21T2VModel):
    """Wan2.1 text-to-video with DualParal: xDiT's model, split into stages and streamed to its mp4."""

    capabilities = replace(
        xFuserWan21T2VModel.capabilities,
        pipefusion_parallel_degree=True, use_cfg_parallel=True, fully_shard_degree=False,
        use_fp4_gemms=False, use_fp6_gemms=False, use_hybrid_attn_schedule=False,
        supports_sparge_attention_backends=False, supports_step_caching=False,
    )
    family = WanFamily()
    pixels_per_token = 16  # DESIGN section 3: VAE factor 8, patch 2
    image_size = None  # (height, width) where the images of the command decide the frames' size, see images.py
    transformer_config, vae_config = {}, {}  # of the hub's model, as far as they are not those of diffusers' classes
    dtype = torch.bfloat16
    needs_last_image = False  # whether a first image alone is too little
    needs_distilled = False  # whether its experts' weights are given apart, see experts.py
    has_fixed_steps = False  # whether its weights are distilled for fixed steps
    trained_latents = None  # latent frames of the clips that it was trained on, where they are not those of its family's others
    usual_shift = None  # of a model in a folder, whose scheduler has its own
    dualparal_config, command = DualParalConfig(), CommandSettings()
    watchdog, was_stopped = None, False  # see launch/watchdog; whether the last video was stopped before its end

    @classmethod
    def facts(cls):
        """The family's Facts, with what is this model's own."""
        family = cls.family.facts
        return replace(family, few_steps=cls.has_fixed_steps, trained_latents=cls.trained_latents or family.trained_latents)

    @classmethod
    def pixel_multiple(cls):
        """Of which a frame's height and width are multiples. diffusers' WanPipeline.check_inputs asks for 16 whatever the VAE and the patch are."""
        return math.lcm(16, cls.pixels_per_token)

    @classmethod
    def configured(cls, xfuser_args, config, command, watchdog):
        """The model for xDiT's ``xfuser_args``, with a DualParalConfig, CommandSettings and a Watchdog."""
        model = cls(xfuser_args)
        model.dualparal_config, model.command, model.watchdog = config, command, watchdog
        watchdog.begin_phase("loads the weights")
        return model

    def _customize_settings(self, config):
        super()._customize_settings(config)
        if (config.ring_degree or 1) > 1 and not torch.accelerator.is_available():
            # On the CPU only this one returns the log-sum-exp that ring attention needs, see compat/host.py.
            self.settings.default_attention_backend = "SDPA_FLASH"

    def preprocess_args(self, input_args):
        """xDiT's, with the prompts numbered, each with its negative prompt."""
        scale = value_of(input_args, type(self), "guidance_scale_2")
        size = {name: value_of(input_args, type(self), name) for name in ("height", "width")}
        args = super().preprocess_args(dict(input_args, prompt=prompts_of(input_args), dataset_path=None, guidance_scale_2=scale, **size))
        if line := many_prompts_line(input_args):
            log(line)
        pairs = pair_prompts(as_list(args["prompt"]), args["negative_prompt"])
        args["prompt"] = [NumberedPrompt(prompt, number, negative) for number, (prompt, negative) in enumerate(pairs)]
        self._flags, self._args = dict(input_args), args
        self.paths = self._video_paths(input_args["seed"])
        return args

    def _preprocess_args_images(self, input_args):
        """Images are read when the VAE is there, see _encode_images."""
        self._validate_args(input_args)
        return input_args

    def _video_paths(self, seed):
        return video_paths(dict(self._flags, seed=seed), type(self), self.dualparal_config, self.command)

    def _load_model(self):
        self._bytes_before = resident_bytes()
        parallel = self.engine_config.parallel_config
        self._replica = Replica(parallel)
        # xDiT numbers ranks in the order tp-sp-pp-cfg-dp (xfuser/core/distributed/parallel_state.py).
        stage = torch.distributed.get_rank() // parallel.sp_degree % parallel.pp_degree
        layers = lane_layers(self.dualparal_config, self.num_layers, parallel.pp_degree)[stage]
        with_vae = stage == parallel.pp_degree - 1 or parallel.use_parallel_vae
        try:
            weights = self._weights = Weights(checkpoint_folder(self.settings.model_name), files_of_experts(vars(self.config)))
            for line in lines_on_loras(self, self.command):
                log(line)
            changes = lora_changes(self, self.command, weights)
            self._encode_prompts(weights)
            log(f"loading the weights of {self.settings.model_name}")
            # Two experts of which one is on the device at a time stay on the host, see engine/residency.py.
            device = HOST if self.dualparal_config.expert_offload else self._replica.device
            is_whole = not strategy_of(self.dualparal_config).splits_layers
            part = self.family, weights, *((0, 1) if is_whole else (stage, parallel.pp_degree)), layers
            is_last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1  # which prints in xDiT
            with LoadingProgress(lambda: bytes_to_read(*part, with_vae), self._begin_phase, is_last) as progress:
                return load_stage(*part, self.dtype, with_vae, device, changes, progress.tell)
        except ValueError as error:
            raise Refused(error) from error

    def _encode_prompts(self, weights):
        """Before a transformer is there. The others wait for the first rank."""
        self._begin_phase("encodes the prompts" if self._replica.decides else "waits for the prompts")
        self._texts = encode_prompts(self._args, self._replica, self.family, weights, self.dtype, self.dualparal_config.text_encoder)
        self._begin_phase("loads the weights")

    def _begin_phase(self, phase):
        if self.watchdog is not None:
            self.watchdog.begin_phase(phase)

    def _post_load_and_state_initialization(self, input_args):
        """Instead of xDiT's placement, which moves a whole pipeline to each device."""
        if input_args["seed"] == RANDOM_SEED:
            input_args["seed"] = shared_seed(secrets.randbelow(2**62))  # xDiT hands on this very dict when it runs the model
            log(f"--seed {input_args['seed']} was drawn at random")
            self.paths = self._video_paths(input_args["seed"])
        self.pipe.scheduler = self.scheduler(self.pipe.scheduler, input_args.get("flow_shift"))
        if input_args.get("flow_shift") is None and self.usual_shift not in (None, flow_shift(self.pipe.scheduler)):
            log(f"the folder's scheduler has a flow shift of {flow_shift(self.pipe.scheduler):g}; usual is --flow_shift {self.usual_shift:g}")
        self.dualparal = DualParalPipeline(
            self.pipe, self.engine_config, self.dualparal_config, texts=self._texts, check_weights=False  # load_stage has
        )
        if quantization := quantization_of(vars(self.config)):
            self.dualparal.quantize(quantization, converter(self.loader))
        self.dualparal.freeze_weights()
        self.dualparal.model_name, self.dualparal.loras = self.config.model, loras_identity(self, self.command)
        self.dualparal.trained_latents = self.facts().trained_latents
        # The adapter (patches/0008) has the degree as xDiT's own.
        flags = dict(self._flags, dualparal_degree=self.engine_config.parallel_config.pp_degree)
        self._memory = memory_report(flags, type(self), self.dualparal.mesh.gather_objects(self._bytes_before))
        self._continued = self._last_latents()
        self._images = self._encode_images()
        self._made = set()  # the prompts whose videos this process has made
        if self.watchdog is not None:
            self.watchdog.observe(self.dualparal)

    def _last_latents(self):
        """Of the video that is continued, with the noise that they were made of where it is known, on every rank, as arguments of a call."""
        if self.command.continue_from is None:
            return {}
        self._begin_phase("reads the video that is continued")
        mesh = self.dualparal.mesh
        return mesh.share_object(self._or_refuse(lambda: mesh.on_output_rank(self._read_last_latents)))

    def _read_last_latents(self):
        path, count = self.command.continue_from, self.dualparal_config.context_latents
        latents = last_latents(path, self.pipe.vae, count)
        if not self.dualparal_config.given_noise:
            return dict(continue_latents=latents)
        noise = last_noise_of(path, self.family.facts, (latents.shape[1], *latents.shape[3:]), count)
        return dict(continue_latents=latents, continue_noise=noise)

    def _encode_images(self):
        """{number of a prompt of this replica: what the model sees of its images, as arguments of a call}, on every rank; empty without images."""
        if self.image_size is None and not self.family.facts.conditioned:
            return {}
        self._begin_phase("encodes the images")
        mesh = self.dualparal.mesh
        return mesh.share_object(self._or_refuse(lambda: mesh.on_output_rank(self._encoded_images)))

    def _encoded_images(self):
        numbers = [prompt.number for prompt in self._args["prompt"]][self._replica.number::self._replica.count]
        given = self._flags, type(self), numbers
        first, last, describe, num_frames = images_of(*given), last_images_of(*given), None, self._args["num_frames"]
        if self.family.facts.sees_images:
            describe = partial(described, *load_image_encoder(self._weights))
        latent_frames = self.family.facts.latent_frames(num_frames) if num_frames else None
        size, is_continued = (self._args["height"], self._args["width"]), bool(self._continued)
        of = lambda images, number: [images[number]] if images else None  # noqa: E731
        return {
            number: encode_images(self.pipe, self.family, of(first, number), *size, latent_frames, of(last, number), describe, is_continued)
            for number in numbers
        }

    @classmethod
    def scheduler(cls, stored, shift=None):
        """The scheduler of a run: the ``stored`` one, of the model's folder, with another ``shift`` unless it is None. Raises
        ValueError where a shift would have no effect."""
        return stored if shift is None else with_flow_shift(stored, shift)

    def _compile_model(self, input_args):
        """Compiles the stage's blocks and makes a short video with windows of all sizes, which needs all that is compiled."""
        log("compiling: makes a short video first, which may take minutes")
        self.dualparal.compile(mode=self._get_compile_mode())
        config = replace(self.dualparal_config, checkpoint=None, latents_out=None, trace=None)
        warm_up = dict(input_args, num_frames=self._warm_up_frames(input_args), num_inference_steps=self._warm_up_steps(input_args))
        self.dualparal.config = config
        deque(self.dualparal.stream(**self._arguments(input_args["prompt"][0], warm_up), output_type="latent"), maxlen=0)

    def _warm_up_frames(self, input_args):
        layout = self.dualparal.layout(**self._arguments(input_args["prompt"][0], input_args)).shortest_alike()
        return layout.frames_of(layout.num_blocks, 0, self.family.facts.frames_per_latent)

    def _warm_up_steps(self, input_args):
        """As few steps as use all experts that the video itself uses: each is compiled."""
        steps = input_args["num_inference_steps"]
        if self.has_fixed_steps:  # has no fewer
            return steps
        return next(n for n in range(self.dualparal_config.stagger, steps + 1) if self._experts_in(n) == self._experts_in(steps))

    def _experts_in(self, num_steps):
        starts = self.family.expert_starts(self.pipe, fresh_scheduler(self.pipe.scheduler, num_steps).timesteps)
        return [first < after for first, after in zip(starts, (*starts[1:], num_steps))]

    def _run_pipe(self, input_args):
        paths, prompts = [], deque(input_args["prompt"])
        while prompts and not self._is_to_stop():
            files = self._next_files(prompts, input_args)
            self._make_videos(files, input_args)
            paths += [str(file.path) for file in files if file.video.blocks_finished]
        # Every rank of the last stage names the files: xDiT gathers from the first rank of a replica's last groups.
        return DiffusionOutput(videos=paths if self.dualparal.stage.is_last else [], pipe_args=input_args)

    def _is_to_stop(self):
        """Whether the user has asked for a stop, also where that came too late for the last video: no other one is begun. The same on all
        ranks of the replica."""
        is_asked = self.watchdog is not None and self.watchdog.stop_is_asked
        self.was_stopped |= self.dualparal.mesh.share_object(is_asked)
        return self.was_stopped

    def _gather_dp_outputs(self, output):
        """xDiT's, of the outputs of all replicas, when all are there. Says on the last process which prompts a stop has kept from
        being begun."""
        begun = self._replica.gather_from_all_replicas(self._made)
        if line := not_begun_line(self._args["prompt"], set().union(*begun)):
            log(line)
        return super()._gather_dp_outputs(output)

    def _next_files(self, prompts, input_args):
        """The VideoFiles of the next videos that share the stages, whose ``prompts`` (a deque) are taken; those that earlier runs have
        finished come along. Every prompt starts from the same seed."""
        files, to_make = [], 0
        while prompts and to_make < self.dualparal_config.videos_in_flight:
            prompt = prompts.popleft()
            files.append(self._or_refuse(lambda: self._file_of(prompt, input_args)))
            to_make += files[-1].video.is_to_make
        return files

    def _file_of(self, prompt, input_args):
        """A prompt's VideoFile. What the file has of the video already is kept, where there is a checkpoint."""
        arguments = dict(self._arguments(prompt, input_args), output_type="uint8")
        config = self.dualparal.config = self._config_of(prompt)
        spec, layout = self.dualparal.run_spec(**arguments), self.dualparal.layout(**arguments)
        after = self.command.append_to and Path(self.command.append_to)
        file = VideoFile(self.paths[prompt.number], spec, config, self.family.facts.frames_per_latent, layout, after)
        kept = self.dualparal.mesh.on_output_rank(lambda: file.blocks_kept(input_args["num_frames"]))
        file.video = self.dualparal.video(blocks_kept=kept or 0, **arguments)
        self._made.add(prompt.number)
        return file

    def _make_videos(self, files, input_args):
        """Makes the videos of ``files``, which the output rank writes."""
        run = self._or_refuse(lambda: self.dualparal.side_by_side([file.video for file in files]))
        writers = self._or_refuse(lambda: self.dualparal.mesh.on_output_rank(lambda: open_all(files)))
        if self.dualparal.is_output_rank:
            for file in files:
                log(start_text(file.video, file.path), log_from_all_processes=True)
        if self.dualparal.is_output_rank and not run.is_over:
            write_videos(writers, run, input_args, self._memory, self.watchdog)
        else:
            deque(run, maxlen=0)
        self.was_stopped = run.outcome is Outcome.STOPPED

    def _or_refuse(self, function):
        """What ``function()`` gives. A ValueError, which all ranks of the replica raise, ends the process."""
        try:
            return function()
        except ValueError as error:
            if self.dualparal.mesh.decides:
                refuse(error)
            sys.exit(2)

    def _config_of(self, prompt):
        """With a folder of its own for each video's checkpoint, and none where it is made again: warming up, say."""
        folder = self.dualparal_config.checkpoint
        folder = None if prompt.number in self._made else folder
        return replace(self.dualparal_config, checkpoint=folder and str(Path(folder, str(prompt.number))))

    def _arguments(self, prompt, input_args):
        """The arguments of DualParalPipeline.video."""
        names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2")
        arguments = {name: input_args[name] for name in names}
        if input_args.get("max_sequence_length"):
            arguments["max_sequence_length"] = input_args["max_sequence_length"]
        return dict(
            arguments, prompt=prompt, negative_prompt=prompt.negative_prompt,
            generator=torch.Generator().manual_seed(input_args["seed"]), **self._continued, **self._images.get(prompt.number, {}),
            file_spec=dict(quality=self.command.quality, fps=fps_of(self, self.command), appended_to=appended_digest(self.command)),
        )

    def save_timings(self, timings):
        """Writes no file, unlike xDiT, whose timings.json of one run would replace another's: the report has the seconds."""

    def save_profile(self, profile):
        """xDiT's, beside the first video and with its name, so that it replaces no other run's."""
        file = self.paths[0].with_suffix(f".profile_rank_{torch.distributed.get_rank()}.json.gz")
        profile.export_chrome_trace(str(file))
        log(f"profile saved to {file}", log_from_all_processes=True)

    def save_output(self, output):
        """Prints the paths of the videos that have frames on stdout, where nothing else is: they were written as they came."""
        for path in output.videos:
            print(path, flush=True)
