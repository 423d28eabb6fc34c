"""One video of a run on its rank: what it has of its own, alone or beside others.

Knows: a video's request, noise and saved state, and how far it is. Must not know: the videos beside it, stages, when something
is done.
"""

from collections import deque
from enum import Enum
from itertools import islice

import torch

from ..plan.schedule import NO_DECODE
from ..plan.waiting import FLOAT8
from .context_noise import ContextNoise
from .given import GivenFrames
from .noise import StepNoise, noise_blocks, whole_noise
from .sharding import SpatialShard
from .snapshot import Snapshots


class Outcome(Enum):
    """How a video or a run stands or has ended."""

    READY = "ready"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # before the plan's end: by stop(), or because its segments were no longer asked for
    ALREADY_FINISHED = "already finished"  # by an earlier run with the same checkpoint; nothing was done
    FAILED = "failed"


class Video:
    """A video that a run can make, see session.GroupRun.

    ``pipeline``: what it is made with, see ``pipeline.DualParalPipeline``. ``request``: see request.Request. ``plan``: its
    passes, alone. ``spec``: its RunSpec. ``checkpoint``: see output/checkpoint, or None. ``blocks_kept``: how many blocks'
    segments the caller has from an earlier run that is resumed; they are not given again. Every rank of the replica must make
    it; raises ValueError for a checkpoint that cannot be resumed.
    """

    def __init__(self, pipeline, request, plan, spec, checkpoint=None, blocks_kept=0):
        self.config, self.mesh, self.device, self._family = pipeline.config, pipeline.mesh, pipeline.device, pipeline.family
        self.vae_on_all_ranks, self.frames_per_latent = pipeline.vae_on_all_ranks, pipeline.pipe.vae_scale_factor_temporal
        self.request, self.plan, self.spec, self.number = request, plan, spec, 0  # the number is its run's to give
        self.shard = SpatialShard(request.latent_shape[1:], request.patch, *self.mesh.shard)
        self._memory_latents = pipeline.family.decoder_memory_latents(pipeline.pipe.vae) if plan.decode != NO_DECODE else 0
        self.snapshots = Snapshots(checkpoint, self.mesh, self.shard, plan, self._memory_latents, blocks_kept)
        self.first_wave = self.snapshots.first_wave
        self.blocks_finished = plan.finished(self.first_wave)
        self.segments_given = min(blocks_kept, self.blocks_finished)
        self.blocks_kept = self.segments_given  # how many come before those that are given now
        self.outcome = Outcome.ALREADY_FINISHED if self.snapshots.was_finished else Outcome.READY
        self.kept_bytes = _kept_bytes(plan, request, pipeline.stage, pipeline.config)
        self.report = self.first_segment_s = self._generator = None
        self.latents_sink = None  # a context with ``append(block, latents)`` for finished blocks, on the output rank

    @property
    def is_to_make(self):
        """Whether something of it is to be made: an earlier run has not finished it."""
        return self.outcome is not Outcome.ALREADY_FINISHED

    @property
    def frames_given(self):
        """Video frames in the segments that the caller has."""
        return self.plan.layout.frames_of(self.blocks_given, self.request.num_frames, self.frames_per_latent)

    @property
    def blocks_given(self):
        """A segment is a block, but the parallel VAE's is all of them."""
        return self.blocks_finished if self.vae_on_all_ranks and self.segments_given else self.segments_given

    # Noise.

    def draw(self):
        """Takes its noise from the user's generator: leaves it as if it had drawn that of all blocks, where their number is known.
        Once; whoever comes next draws from what is left."""
        if self._generator is None:
            self._generator = self.request.generator.clone_state()
            if self.plan.num_blocks is not None:
                deque(self._noise_of(self.request.generator), maxlen=0)

    def noise(self):
        """The noise of the blocks that start from now on."""
        noise = self._noise_of(self._generator.clone_state())
        deque(islice(noise, self.plan.started(self.first_wave)), maxlen=0)
        return noise

    def step_noise(self):
        """The noise that the scheduler adds in its steps, None for one that adds none."""
        return StepNoise(self._generator) if self.request.scheduler_facts.draws_noise else None

    def context_noise(self):
        """A ContextNoise where finished blocks are shown with some noise, else None."""
        if not self.config.context_noise:
            return None
        noise = StepNoise(self._generator, "context ")
        return ContextNoise(self.config.context_noise, self.plan.num_steps, noise, self.request.latent_shape, self.shard)

    def condition(self):
        """The channels beside this rank's part of the latents, see base.Family.image_condition; None for a model without."""
        if not self._family.facts.conditioned:
            return None
        first, last = (given if given is None else self.shard.take(given).to(self.device) for given in (self.request.image_latents, self.request.last_image_latents))
        return self._family.image_condition(first, last, self.plan.layout.latent_frames, is_continued=self.request.continue_latents is not None)

    def given_frames(self):
        """GivenFrames where block 0 begins with another video's last latent frames or with an image, else None."""
        count, given = self._given()
        if not count:
            return None
        if self.request.continue_noise is not None:
            noise = self.shard.take(self.request.continue_noise[:, :, -count:])
        else:
            noise = next(self._noise_of(self._generator.clone_state()))[:, :, :count]
        latents = self.shard.take(given[:, :, -count:]).float()
        scheduler = self.request.make_scheduler(self.device)
        sigmas = torch.as_tensor(scheduler.sigmas)[:self.plan.num_steps].tolist()
        return GivenFrames(latents.to(self.device), noise.to(self.device), sigmas, self.config.given_noise)

    def _given(self):
        """(how many latent frames are given, the latents that end with them)."""
        if self.plan.image_latents:
            return self.plan.image_latents, self.request.image_latents
        return self.plan.layout.continued_latents, self.request.continue_latents

    def _noise_of(self, generator):
        what = self.plan.layout, self.request.latent_shape, generator
        return map(self.shard.take, whole_noise(*what) if self.plan.noise_is_whole else noise_blocks(*what, self.plan.fresh_noise))

    # What is finished, and what is saved. A state says nothing of the videos beside this one: all is as if it were alone.

    def finish(self, block, latents):
        """Takes a finished block's whole latents."""
        self.blocks_finished = block + 1
        if self.mesh.is_output:
            if self.latents_sink is not None:
                self.latents_sink.append(block, self.own(block, latents), None if block else self.request.continue_latents)
            self.snapshots.remember(block, latents)

    def own(self, block, latents):
        """Of a finished ``block``'s whole latents those that are not another video's."""
        return latents if block else latents[:, :, self.plan.layout.continued_latents:]

    def latents_before(self):
        """What a decoder looks back to before the segments that are given now, (1, channels, frames, height, width); None at the start of a
        video that continues no other."""
        parts, given = [], self.request.continue_latents
        if self.blocks_kept:
            parts = [self.snapshots.latents_before(self.blocks_kept)]
        if given is not None:  # block 0 has the last of them, too
            parts.insert(0, given[:, :, :-self.plan.layout.continued_latents] if parts else given)
        return torch.cat(parts, dim=2)[:, :, -self._memory_latents:] if parts else None

    def live_latents(self):
        """See Snapshots.live_latents."""
        return {one._replace(video=self.number): latents for one, latents in self.snapshots.live_latents().items()}

    def in_flight(self):
        """See Snapshots.in_flight."""
        return {(self.number, *one): rest for (_, *one), rest in self.snapshots.in_flight().items()}

    def undecoded(self):
        """[(block, latents)] of blocks that an earlier run finished and whose segments the caller has not got."""
        return self.snapshots.undecoded(self.segments_given) if self.is_to_make else []

    def is_saved_at(self, wave):
        """Whether its state before ``wave`` is to be saved: later than what it began with."""
        return self.snapshots.is_on and self.is_to_make and wave > self.first_wave

    def live_keys(self, wave):
        """The K/V that its passes from ``wave`` on need of earlier waves, as the run numbers its videos."""
        return [self._in_run(key) for key in self.plan.live(wave).keys]

    def _in_run(self, key):
        return key._replace(one=key.one._replace(video=self.number))

    def kept(self):
        """See Snapshots.kept."""
        return {self._in_run(key): whole for key, whole in self.snapshots.kept().items()}

    def save(self, wave, in_flight, kept, wait=False):
        """Saves the state before ``wave``. ``in_flight``, ``kept``: see Snapshots.save, of all videos of the run."""
        own = {(0, *one): rest for (video, *one), rest in in_flight.items() if video == self.number}
        own_kept = {key._replace(one=key.one._replace(video=0)): whole for key, whole in kept.items() if key.one.video == self.number}
        self.snapshots.save(wave, own, self.segments_given, own_kept, wait)

    def end_snapshots(self):
        """The video is finished: nothing is left to resume. On the output rank."""
        if self.snapshots.is_on and self.is_to_make:
            self.snapshots.end()


def _kept_bytes(plan, request, stage, config):
    """The most that its saved state has of cached K/V and anchors, of all stages and branches."""
    number = 1 if config.context_dtype == FLOAT8 else stage.dtype.itemsize
    dim = stage.config.num_attention_heads * stage.config.attention_head_dim
    a_frame = request.branches * stage.config.num_layers * 2 * request.frame_tokens * dim * number
    frames = plan.most_kept * plan.layout.context_latents if plan.most_kept else 0
    return (frames + plan.num_steps * plan.anchor_latents * (plan.num_blocks != 1)) * a_frame


# Of a RunSpec, what videos side by side need not have in common.
_OWN = ("prompt", "negative_prompt", "embeds", "seed", "generator", "image", "guidance_scale", "guidance_scale_2", "output_type", "quality", "fps")


def check_alike(videos):
    """Raises ValueError unless ``videos``, Videos, can share the stages: their passes have the same shapes."""
    if not videos:
        raise ValueError("there is no video: give one or more")
    if len(set(map(id, videos))) < len(videos) or not all(video.outcome in (Outcome.READY, Outcome.ALREADY_FINISHED) for video in videos):
        raise ValueError("a video was given twice or made already: each is made once, so make another one with video()")
    first = _shared_facts(videos[0])
    for number, video in enumerate(videos[1:], start=1):
        for name, value in _shared_facts(video).items():
            if value != first[name]:
                raise ValueError(f"{name} is {first[name]!r} of video 0 and {value!r} of video {number}: give all the same")
    for name in ("checkpoint", "latents_out"):
        paths = [getattr(video.config, name) for video in videos if getattr(video.config, name)]
        if len(set(map(str, paths))) < len(paths):
            raise ValueError(f"{name} is {paths[0]} of several videos: give each its own, or one video")


def _shared_facts(video):
    request, spec = video.request, video.spec.as_json()
    return dict(
        {name: value for name, value in spec.items() if name not in _OWN}, decode=video.plan.decode, image_latents=video.plan.image_latents, guidance_branches=request.branches,
        text_tokens=request.prompt_embeds.shape[1] if request.has_embeds else request.max_sequence_length,
    )
