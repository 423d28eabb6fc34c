"""What one call asks for, checked before anything is computed.

Knows: the arguments of diffusers' WanPipeline, and what they mean in latents. Must not know: stages,
blocks, processes.
"""

import copy

import torch

from .call_checks import (
    check_embeds, check_generators, check_given_latents, check_image_embeds, check_image_latents, check_last_image, check_prompts, check_text_length,
)
from .limits import FRAMES, GUIDANCE, PIXELS, SIDE, STEPS, TEXT_TOKENS
from .models.schedulers import SHIFT_NAMES, check_scheduler, flow_shift, fresh_scheduler
from .models.wan import TEXT_LENGTH, WanFamily
from .run_spec import short_digest

MAX_SEQUENCE_LENGTH = 512  # by default, as in diffusers' WanPipeline
OUTPUT_TYPES = ("np", "uint8", "pil", "pt", "latent")


class Request:
    """The arguments of one call of ``pipe``, a pipeline of ``family``. Raises ValueError for those that cannot work."""

    def __init__(self, pipe, family=WanFamily, *, prompt=None, negative_prompt=None, height=480, width=832, num_frames=81,
                 num_inference_steps=50, guidance_scale=5.0, guidance_scale_2=None, generator=None, prompt_embeds=None,
                 negative_prompt_embeds=None, max_sequence_length=MAX_SEQUENCE_LENGTH, output_type="np", continue_latents=None, continue_noise=None, image_latents=None,
                 last_image_latents=None, image_embeds=None):
        self.pipe = pipe
        self.prompt, self.negative_prompt = prompt, negative_prompt
        self.height, self.width = SIDE.of("height", height), SIDE.of("width", width)
        self.num_frames = FRAMES.of("num_frames", num_frames)
        self.num_inference_steps = STEPS.of("num_inference_steps", num_inference_steps)
        self.guidance_scale = GUIDANCE.of("guidance_scale", guidance_scale)
        self.guidance_scale_2 = self._second_scale(guidance_scale_2)
        self.prompt_embeds, self.negative_prompt_embeds = prompt_embeds, negative_prompt_embeds
        self.max_sequence_length = TEXT_TOKENS.of("max_sequence_length", max_sequence_length)
        self.output_type, self.image_latents = output_type, image_latents
        self.last_image_latents, self.image_embeds = last_image_latents, image_embeds
        self.continue_latents, self.continue_noise = continue_latents, continue_noise
        self._check(family)
        self.generator = generator if generator is not None else torch.Generator().manual_seed(shared_seed(drawn_seed()))
        check_generators(self.generator, self.num_videos)

    def _check(self, family):
        check_prompts(self.prompt, self.negative_prompt, self.prompt_embeds, self.negative_prompt_embeds)
        check_embeds(self.prompt_embeds, self.negative_prompt_embeds, self.pipe.transformer.config.text_dim)
        check_size(self.height, self.width, self.pixels_per_token)
        family.check_inputs(
            self.pipe, self.prompt, self.negative_prompt, self.height, self.width, self.prompt_embeds, self.negative_prompt_embeds
        )
        self._check_continued()
        self._check_image(family)
        self.scheduler_facts = check_scheduler(self.pipe.scheduler, self.num_inference_steps)
        if self.output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {self.output_type!r}: give one of {', '.join(OUTPUT_TYPES)}")
        if self.branches == 2 and self.prompt_embeds is not None and self.negative_prompt_embeds is None:
            raise ValueError("prompt_embeds come without negative_prompt_embeds: give both, or guidance_scale 1")
        if self.prompt_embeds is None and self.negative_prompt_embeds is not None:
            raise ValueError("negative_prompt_embeds come without prompt_embeds: give both")

    def _check_continued(self):
        for name in ("continue_latents", "continue_noise"):
            if getattr(self, name) is not None:
                check_given_latents(name, getattr(self, name), self.latent_shape)
                setattr(self, name, getattr(self, name).detach().float().cpu())
        if self.continue_noise is not None and self.continue_latents is None:
            raise ValueError("continue_noise comes without continue_latents, the latents that were made of it: give both")

    def _check_image(self, family):
        facts = family.facts
        self._check_image_is_wanted(facts)
        if self.image_latents is None:
            return
        is_continued = self.continue_latents is not None
        if is_continued and not facts.conditioned:
            raise ValueError("an image and continue_latents are given and both are the video's first frames: leave one out")
        latent_frames = None if self.is_endless else facts.latent_frames(self.num_frames)
        frames = condition_frames(self.pipe, family, latent_frames, is_continued) if facts.conditioned else None
        check_image_latents("image_latents", self.image_latents, self.latent_shape, self.num_videos, frames)
        if self.last_image_latents is not None:
            check_last_image(self.num_frames, facts.frames_per_latent, is_continued)
            check_image_latents("last_image_latents", self.last_image_latents, self.latent_shape, self.num_videos)
        if facts.sees_images:
            check_image_embeds(self.image_embeds, self.pipe.transformer.config, self.num_videos)
            check_text_length(self.max_sequence_length, self.prompt_embeds, TEXT_LENGTH)
        for name in ("image_latents", "last_image_latents", "image_embeds"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).detach().float().cpu())

    def _check_image_is_wanted(self, facts):
        if self.image_latents is not None and not facts.takes_images:
            raise ValueError("an image is given and the model makes videos of text alone: leave it out, or take Wan2.2-TI2V or Wan2.2-I2V")
        if self.image_latents is None and facts.conditioned:
            raise ValueError(f"the image is missing: {facts.name} makes a video of an image, give image=")
        if self.last_image_latents is not None and not facts.conditioned:
            raise ValueError(f"a last image is given and {facts.name} takes none: leave it out, or take Wan2.2-I2V")
        if self.image_embeds is not None and not facts.sees_images:
            raise ValueError(f"image_embeds are given and {facts.name} has no use for them: leave them out")

    def _second_scale(self, given):
        """The second expert's guidance scale; None where there is one expert. By default the first one's, as in diffusers."""
        if self._boundary_ratio is None and given is not None:
            raise ValueError(f"guidance_scale_2 is {given}, and it is for models with two transformers and this one has one: give guidance_scale")
        if self._boundary_ratio is None:
            return None
        scale = self.guidance_scale if given is None else GUIDANCE.of("guidance_scale_2", given)
        if self.branches == 1 and scale > 1:
            raise ValueError(
                f"guidance_scale_2 is {scale:g} and guidance_scale is {self.guidance_scale:g}, which is without guidance for both "
                "transformers: leave guidance_scale_2 out, or give a guidance_scale above 1"
            )
        return scale

    @property
    def _boundary_ratio(self):
        """Of two experts; None for one, and of pipelines that know none."""
        return self.pipe.config.get("boundary_ratio")

    @property
    def guidance_scales(self):
        """The guidance scale of each expert."""
        return (self.guidance_scale,) if self.guidance_scale_2 is None else (self.guidance_scale, self.guidance_scale_2)

    @property
    def patch(self):
        """(rows, columns) of latents in a token."""
        return tuple(self.pipe.transformer.config.patch_size[1:])

    @property
    def pixels_per_token(self):
        """(rows, columns) of pixels that one token stands for: the VAE's factor times the patch."""
        return tuple(self.pipe.vae_scale_factor_spatial * size for size in self.patch)

    @property
    def frame_tokens(self):
        """Tokens of a latent frame."""
        return (self.height // self.pixels_per_token[0]) * (self.width // self.pixels_per_token[1])

    @property
    def branches(self):
        """2 with classifier-free guidance, 1 without (guidance_scale of 1 or less, as in diffusers)."""
        return branches_of(self.guidance_scale)

    @property
    def is_endless(self):
        """Whether the video has no end until it is stopped: num_frames is 0."""
        return self.num_frames == 0

    def identity(self):
        """The fields of a RunSpec that the call decides."""
        names = ("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps",
                 "max_sequence_length", "output_type")
        embeds = [rows for rows in (self.prompt_embeds, self.negative_prompt_embeds) if rows is not None]
        scheduler = self.pipe.scheduler
        settings = repr(sorted(
            (name, value) for name, value in scheduler.config.items() if not name.startswith("_") and name not in SHIFT_NAMES
        ))
        return dict(
            {name: getattr(self, name) for name in names}, guidance_scale=float(self.guidance_scale),
            guidance_scale_2=self.guidance_scale_2, boundary_ratio=self._boundary_ratio, seed=self.generator.initial_seed(),
            embeds=tuple(short_digest(rows.float().cpu().numpy().tobytes()) for rows in embeds),
            continued=self._continued(), image=_digest_of(self.image_latents, self.last_image_latents, self.image_embeds),
            generator=short_digest(self.generator.get_state().numpy().tobytes()),
            scheduler=f"{type(scheduler).__name__} {short_digest(settings.encode())}", flow_shift=flow_shift(scheduler),
        )

    def _continued(self):
        """What tells the video that is continued from others. It says that its frames are seen as ``given_noise`` says: runs that were begun before that was a
        setting saw them with each step's noise, and must not be resumed without it."""
        digest = _digest_of(self.continue_latents, self.continue_noise)
        return digest and f"{digest} by given_noise"

    @property
    def latent_shape(self):
        """(channels, height, width) of a latent frame."""
        factor = self.pipe.vae_scale_factor_spatial
        config = self.pipe.transformer.config
        return config.out_channels or config.in_channels, self.height // factor, self.width // factor

    @property
    def has_embeds(self):
        """Whether the caller has encoded the prompt already."""
        return self.prompt_embeds is not None

    @property
    def given_embeds(self):
        """The caller's embeddings, one (1, length, dim) a branch."""
        return [self.prompt_embeds, self.negative_prompt_embeds][:self.branches]

    @property
    def texts(self):
        """See ``texts_of``; of a request for one video."""
        return texts_of(self.prompt, self.negative_prompt, self.branches)

    def make_scheduler(self, device):
        """A fresh scheduler of the pipeline's kind with its timesteps set."""
        return fresh_scheduler(self.pipe.scheduler, self.num_inference_steps, device)

    def check_is_one_video(self):
        """Raises ValueError when several videos are asked for."""
        if self.num_videos > 1:
            raise ValueError(f"{self.num_videos} prompts were given: a stream is one video, give one")

    @property
    def num_videos(self):
        """How many videos are asked for: a prompt, or an embedding, each."""
        if self.has_embeds:
            return self.prompt_embeds.shape[0]
        return len(self.prompt) if isinstance(self.prompt, list) else 1

    def each_video(self):
        """Yields a request for each video."""
        for index in range(self.num_videos):
            one = copy.copy(self)
            one.prompt, one.negative_prompt = _nth(self.prompt, index), _nth(self.negative_prompt, index)
            one.generator = _nth(self.generator, index)
            one.prompt_embeds = _nth_row(self.prompt_embeds, index)
            one.negative_prompt_embeds = _nth_row(self.negative_prompt_embeds, index)
            for name in ("image_latents", "last_image_latents", "image_embeds"):
                setattr(one, name, _nth_row(getattr(self, name), index))
            yield one


def condition_frames(pipe, family, latent_frames, is_continued=False):
    """How many latent frames the image of a ``conditioned`` family is given as. ``latent_frames``: of the video, None: endless. Without a VAE
    that says so, as for a short video; one of empty frames where it ``is_continued``, from another one."""
    return 1 if pipe.vae is None or is_continued else family.condition_latents(pipe.vae, latent_frames)


def _digest_of(*tensors):
    tensors = [one.contiguous().numpy().tobytes() for one in tensors if one is not None]
    return short_digest(b"".join(tensors)) if tensors else None


def branches_of(guidance_scale):
    """2 with classifier-free guidance, 1 without: a scale of 1 or less, as in diffusers."""
    return 2 if guidance_scale > 1 else 1


def texts_of(prompt, negative_prompt, branches):
    """{"prompt" or "negative prompt": the text}, one a branch."""
    return dict([("prompt", prompt), ("negative prompt", negative_prompt or "")][:branches])


def check_size(height, width, pixels_per_token):
    """Raises ValueError unless a frame of ``height`` x ``width`` pixels divides into tokens."""
    for name, size, unit in zip(("height", "width"), (height, width), pixels_per_token):
        if size < unit or size % unit:
            nearest = max(unit, round(size / unit) * unit)
            raise ValueError(f"{name} is {size}: the model needs a multiple of {unit}, for example {nearest}")
    if height * width > PIXELS:
        raise ValueError(
            f"a frame of {height} x {width} pixels has more than {PIXELS} (4096 x 2304): give a smaller height or width"
        )


def drawn_seed():
    """A seed from torch's own generator, which the caller may have seeded: an int of 0 to 2**62 - 1."""
    return int(torch.randint(2**62, (1,)))


def shared_seed(seed):
    """The ``seed`` of rank 0 on all ranks, which must all call it."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        holder = [seed]
        torch.distributed.broadcast_object_list(holder, src=0)
        seed = holder[0]
    return seed


def _nth(values, index):
    return values[index if len(values) > 1 else 0] if isinstance(values, list) else values


def _nth_row(rows, index):
    return None if rows is None else rows[index:index + 1] if len(rows) > 1 else rows
