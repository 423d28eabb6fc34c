"""What the ranks of a test do."""

from dataclasses import dataclass, replace

import torch

from xdualparal import DualParalConfig, DualParalPipeline, initial_noise
from xdualparal.engine.noise import StepNoise
from xdualparal.plan.actions import Pass

from .sequential import sequential_latents
from .small_wan import (
    FEW_STEPS, IMAGE_DIM, IMAGE_TOKENS, SCHEDULERS, STOCHASTIC, second_expert, small_image_pipeline, small_pipeline, small_transformer, texts,
)

SIZE = 32  # pixels; 4 x 4 in latents
SEED = 5


@dataclass(frozen=True)
class Case:
    """A video for the executor and for the sequential program."""

    name: str
    num_frames: int
    num_steps: int
    block: int = 4
    context: int = 2
    guidance_scale: float = 5.0
    scheduler: str = "unipc"
    rope_max_seq_len: int = 1024
    dtype: torch.dtype = torch.float32
    stage_layers: tuple | None = None
    stagger: int = 1
    boundary_ratio: float | None = None
    guidance_scale_2: float | None = None
    expert_offload: bool = False
    context_timestep: str = "own"
    context_noise: int = 0
    cached: bool = False
    context_dtype: str = "model"
    context_store: str = "device"
    continued: int = 0  # latent frames of another video that are given
    given_noise: float = 0.0  # share of each step's noise that they have
    has_image: bool = False
    anchors: int = 0
    has_its_noise: bool = False  # the given latent frames are those of the noise that they were made of

    @property
    def text_length(self):
        """Of the embeddings."""
        return 8

    def config(self):
        """The DualParalConfig of the case."""
        return DualParalConfig(
            self.block, self.context, stage_layers=self.stage_layers, stagger=self.stagger, expert_offload=self.expert_offload,
            context_timestep=self.context_timestep, context="cached" if self.cached else "recomputed",
            context_dtype=self.context_dtype, context_store=self.context_store, context_noise=self.context_noise, given_noise=self.given_noise,
            anchor_latents=self.anchors,
        )

    def pipeline(self):
        """A small pipeline for it."""
        wan = small_pipeline(self.scheduler, self.rope_max_seq_len, self.boundary_ratio, expand_timesteps=self.has_image)
        for transformer in (wan.transformer, wan.transformer_2):
            if transformer is not None:
                transformer.to(self.dtype)
        return wan

    def transformer(self):
        """The first transformer, for the sequential program."""
        return small_transformer()

    def second_transformer(self):
        """The second expert."""
        return second_expert()

    def arguments(self):
        """The arguments of a pipeline call."""
        positive, negative = texts(self.text_length)
        return dict(
            prompt_embeds=positive, negative_prompt_embeds=negative, height=SIZE, width=SIZE, num_frames=self.num_frames,
            num_inference_steps=self.num_steps, guidance_scale=self.guidance_scale, guidance_scale_2=self.guidance_scale_2,
            generator=torch.Generator().manual_seed(SEED), output_type="latent",
            **dict(continue_latents=self.given()) if self.continued else {}, **dict(continue_noise=self.its_noise()) if self.has_its_noise else {},
            **dict(image_latents=self.image()) if self.has_image else {},
        )

    def its_noise(self):
        """The noise of the given latent frames, or None."""
        if not self.has_its_noise:
            return None
        return torch.randn(1, 16, self.continued, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(12))

    def image(self):
        """Latents of an image."""
        return torch.randn(1, 16, 1, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(13))

    def given(self):
        """Another video's last latent frames, or None."""
        if not self.continued:
            return None
        return torch.randn(1, 16, self.continued, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(11))

    def sequential(self, **broken):
        """The sequential program's latents."""
        seen = min(self.continued, self.context)
        latent_frames = seen + -(-self.num_frames // 4) if seen else 1 + -(-(self.num_frames - 1) // 4)
        blocks = 1 + max(0, -(-(latent_frames - self.block - self.context) // self.block))
        generator = torch.Generator().manual_seed(SEED)
        noise = initial_noise(blocks, self.block, self.context, (16, 4, 4), generator, latent_frames)
        branches = texts(self.text_length)[:2 if self.guidance_scale > 1 else 1]
        transformers, scales, boundary = [self.transformer()], self.guidance_scale, None
        if self.boundary_ratio is not None:
            transformers, boundary = [*transformers, self.second_transformer()], self.boundary_ratio * 1000
            scales = self.guidance_scale, self.guidance_scale_2 or self.guidance_scale
        return sequential_latents(
            transformers, (SCHEDULERS | FEW_STEPS | STOCHASTIC)[self.scheduler], self.num_steps, noise, branches, scales,
            self.block, self.context, self.stagger, step_generator=self._step_generator(), boundary=boundary,
            **dict(true_timesteps=self.has_true_timesteps, cached=self.cached, in_float8=self.context_dtype == "float8",
                   context_noise=(self.context_noise, self.noise_of_context), given_noise=self.given_noise, given=self.given()[:, :, -seen:] if seen else None,
                   anchors=self.anchors, its_noise=self.its_noise()[:, :, -seen:] if self.has_its_noise else None,
                   image=self.image() if self.has_image else None, **self.of_condition(latent_frames))
            | broken,
        )

    def of_condition(self, latent_frames):
        """What the sequential program besides gets, of a video of ``latent_frames``."""
        return {}

    @property
    def has_true_timesteps(self):
        """Whether the previous context gets the timestep at which it stands."""
        return self.context_timestep == "true"

    def noise_of_context(self, block, step, count=None):
        """What the context of ``block`` gets at ``step``, when it is finished, or ``count`` latent frames that are given."""
        generator = StepNoise(torch.Generator().manual_seed(SEED), "context ").generator(Pass(0, block, step))
        return torch.randn(1, 16, self.context if count is None else count, SIZE // 8, SIZE // 8, generator=generator)

    def _step_generator(self):
        if self.scheduler not in STOCHASTIC:
            return None
        noise = StepNoise(torch.Generator().manual_seed(SEED))
        return lambda block, step: noise.generator(Pass(0, block, step))


@dataclass(frozen=True)
class ImageCase(Case):
    """A video of an image, by Wan2.2-I2V's form of a model, or Wan2.1-I2V's."""

    sees_images: bool = False
    has_last: bool = False

    @property
    def text_length(self):
        """Where images stand before the text it has a length of its own."""
        return 512 if self.sees_images else 8

    def pipeline(self):
        """A small pipeline for it."""
        return small_image_pipeline(self.scheduler, self.boundary_ratio, self.sees_images)

    def transformer(self):
        """The first transformer, for the sequential program."""
        return self.pipeline().transformer

    def second_transformer(self):
        """The second expert."""
        return self.pipeline().transformer_2

    def image_latents(self):
        """Of the image and the 21 latent frames behind it, which are what the small VAE remembers; of a video that continues another one empty latent frame."""
        return torch.randn(1, 16, 1 if self.continued else 22, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(14))

    def last_image_latents(self):
        """Of the last image."""
        return torch.randn(1, 16, 1, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(15))

    def image_embeds(self):
        """What CLIP says of the image."""
        return torch.randn(1, IMAGE_TOKENS, IMAGE_DIM, generator=torch.Generator().manual_seed(16))

    def arguments(self):
        """The arguments of a pipeline call."""
        return super().arguments() | dict(
            image_latents=self.image_latents(), **dict(last_image_latents=self.last_image_latents()) if self.has_last else {},
            **dict(image_embeds=self.image_embeds()) if self.sees_images else {},
        )

    def of_condition(self, latent_frames):
        """The 20 channels beside the latents, and what CLIP says."""
        latents, mask = self.image_latents()[:, :, :latent_frames], torch.zeros(1, 4, latent_frames, SIZE // 8, SIZE // 8)
        empty = latents[:, :, -1:].repeat(1, 1, latent_frames - latents.shape[2], 1, 1)
        latents, mask[:, :, 0] = torch.cat([latents, empty], dim=2), 0 if self.continued else 1
        if self.has_last:
            latents[:, :, -1:], mask[:, 3, -1] = self.last_image_latents(), 1
        return dict(condition=torch.cat([mask, latents], dim=1), image_embeds=self.image_embeds() if self.sees_images else None)


STOCHASTIC_CASES = [Case(name, num_frames=57, num_steps=4, scheduler=name) for name in STOCHASTIC]
EXPERTS = [
    Case("two experts", num_frames=120, num_steps=4, boundary_ratio=0.875, guidance_scale_2=3.0),
    Case("two experts, one scale, stagger 2", num_frames=77, num_steps=6, boundary_ratio=0.8, stagger=2, scheduler="dpm++"),
    Case("two experts, no guidance", num_frames=77, num_steps=4, boundary_ratio=0.9, guidance_scale=1.0),
    Case("two experts, the first does all steps", num_frames=57, num_steps=3, boundary_ratio=0.1),
    Case("two experts, short last block", num_frames=61, num_steps=6, context=3, boundary_ratio=0.8, scheduler="stochastic euler"),
]
TRUE_TIMESTEPS = [
    Case("true timesteps", num_frames=120, num_steps=3, context_timestep="true"),
    Case("true timesteps, stagger 2, short last block", num_frames=61, num_steps=6, context=3, stagger=2, context_timestep="true"),
    Case("true timesteps, two experts", num_frames=77, num_steps=4, boundary_ratio=0.875, guidance_scale_2=3.0, context_timestep="true"),
]
CACHED = [
    Case("cached context", num_frames=120, num_steps=3, cached=True),
    Case("cached context, more steps than blocks", num_frames=57, num_steps=8, cached=True, scheduler="dpm++"),
    Case("cached context, stagger 2, last block shorter than the context", num_frames=61, num_steps=6, context=3, stagger=2, cached=True),
    Case("cached context as long as a block, no guidance", num_frames=77, num_steps=4, block=3, context=3, guidance_scale=1.0, cached=True),
    Case("cached context, two experts", num_frames=77, num_steps=4, boundary_ratio=0.875, guidance_scale_2=3.0, cached=True),
    Case("cached context in float8, stagger 2", num_frames=77, num_steps=4, stagger=2, cached=True, context_dtype="float8"),
]
CONTINUED = [
    Case("goes on from a video", num_frames=120, num_steps=3, continued=5),
    Case("goes on from a video, cached context, stagger 2", num_frames=60, num_steps=4, cached=True, stagger=2, continued=2),
    Case("goes on from a video of one latent frame, one block, no guidance", num_frames=12, num_steps=4, continued=1, guidance_scale=1.0),
    Case("goes on from a video, with its noise", num_frames=60, num_steps=4, continued=5, has_its_noise=True, given_noise=1.0),
    Case("goes on from a video, half of the noise", num_frames=60, num_steps=4, continued=4, given_noise=0.5, scheduler="dpm++"),
    Case("goes on from a video, two experts", num_frames=77, num_steps=4, boundary_ratio=0.875, continued=4, scheduler="dpm++"),
    Case("goes on from a video, context as long as a block", num_frames=77, num_steps=4, block=3, context=3, continued=3, scheduler="euler"),
]
WITH_IMAGE = [
    Case("an image", num_frames=120, num_steps=3, has_image=True),
    Case("an image, more steps than blocks, no guidance", num_frames=57, num_steps=8, has_image=True, guidance_scale=1.0, scheduler="dpm++"),
    Case("an image, cached context, stagger 2", num_frames=61, num_steps=6, context=3, stagger=2, cached=True, has_image=True),
    Case("an image, true timesteps", num_frames=77, num_steps=4, context_timestep="true", has_image=True, scheduler="euler"),
    Case("an image, one block", num_frames=13, num_steps=4, has_image=True),
]
CONDITIONED = [
    ImageCase("image-to-video", num_frames=120, num_steps=3),
    ImageCase("image-to-video, first and last, cached context, stagger 2", num_frames=61, num_steps=6, context=3, stagger=2, cached=True, has_last=True),
    ImageCase("image-to-video, two experts", num_frames=77, num_steps=4, boundary_ratio=0.9, guidance_scale_2=3.0, scheduler="euler"),
    ImageCase("image-to-video with CLIP", num_frames=77, num_steps=4, sees_images=True),
    ImageCase("image-to-video with CLIP goes on from a video", num_frames=60, num_steps=4, continued=5, sees_images=True),
    ImageCase("image-to-video goes on to a last image, two experts", num_frames=76, num_steps=4, boundary_ratio=0.9, guidance_scale_2=3.0, continued=3, has_last=True),
    ImageCase("image-to-video with CLIP, one block, no guidance", num_frames=13, num_steps=4, sees_images=True, guidance_scale=1.0, has_last=True),
]
ANCHORED = [
    Case("anchors", num_frames=120, num_steps=3, anchors=2),
    Case("anchors, cached context, stagger 2", num_frames=61, num_steps=6, context=3, stagger=2, cached=True, anchors=1),
    Case("anchors in float8, no other context", num_frames=77, num_steps=4, context=0, anchors=3, context_dtype="float8"),
    ImageCase("anchor of an image, two experts", num_frames=77, num_steps=4, boundary_ratio=0.9, guidance_scale_2=3.0, anchors=1),
    Case("anchors of one block, which nothing reads", num_frames=13, num_steps=4, anchors=1),
]
ON_HOST = [replace(case, name=f"{case.name}, on the host", context_store="host") for case in [*CACHED, ANCHORED[0]]]
OFFLOADED = [replace(case, name=f"{case.name}, one at a time on the device", expert_offload=True) for case in EXPERTS]
CASES = [
    *STOCHASTIC_CASES,
    *EXPERTS,
    *TRUE_TIMESTEPS,
    *CACHED,
    *CONTINUED,
    *WITH_IMAGE,
    *CONDITIONED,
    *ANCHORED,
    Case("more blocks than steps", num_frames=120, num_steps=3),
    Case("more steps than blocks", num_frames=57, num_steps=8),
    Case("context as long as a block", num_frames=77, num_steps=4, block=3, context=3),
    Case("no context", num_frames=77, num_steps=4, context=0),
    Case("default sizes", num_frames=100, num_steps=4, block=8, context=4),
    Case("no guidance", num_frames=77, num_steps=4, guidance_scale=1.0),
    Case("dpm++", num_frames=77, num_steps=5, scheduler="dpm++"),
    Case("one block", num_frames=21, num_steps=5),
    Case("one block, not whole", num_frames=13, num_steps=5),
    Case("last block shorter than the context", num_frames=61, num_steps=6, context=3),
    Case("last block of one latent frame, no context", num_frames=45, num_steps=3, context=0),
    Case("last block as long as the context", num_frames=69, num_steps=4, stagger=2),
    Case("more blocks in flight than messages on an edge", num_frames=260, num_steps=13),
    Case("stagger 2", num_frames=77, num_steps=5, stagger=2),
    Case("stagger 3, not a divisor of the steps", num_frames=120, num_steps=4, stagger=3),
    Case("stagger as many as steps", num_frames=57, num_steps=3, stagger=3),
    Case("past the model's table of positions", num_frames=120, num_steps=3, rope_max_seq_len=8),
]

# In this dtype diffusers' Euler gives latents in the prediction's dtype, and UniPC in float32.
BFLOAT16 = [
    Case(f"bfloat16, {scheduler}", num_frames=77, num_steps=3, dtype=torch.bfloat16, scheduler=scheduler) for scheduler in ("unipc", "euler")
]


def engine_config(stages=1, **degrees):
    """xDiT's EngineConfig for ``stages`` stages; starts torch.distributed from the environment."""
    from xfuser import xFuserArgs

    return xFuserArgs(model="small", pipefusion_parallel_degree=stages, **degrees).create_config()[0]


def latents_of_cases(rank, stages, cases, **degrees):
    """The executor's latents of each case by name, as numpy arrays; None off the output rank."""
    engine, latents = engine_config(stages, **degrees), {}
    for case in cases:
        output = DualParalPipeline(case.pipeline(), engine, case.config())(**case.arguments())
        latents[case.name] = None if output is None else output.frames.numpy()
    return latents


def left_after_one(pipeline, arguments):
    """(the segments of a run that is left after the first one and of one that goes on, how many of them were kept). ``arguments()``: of a call."""
    given = []
    for segment in pipeline.stream(**arguments()):
        given.append(segment)
        break
    resumed = pipeline.stream(blocks_kept=1, **arguments())
    return given[:resumed.blocks_kept] + list(resumed), resumed.blocks_kept
