"""The video that a command continues: whether it can be, its last latent frames, and the frames that the new ones follow.

Knows: mp4s and files of latents, and the flags that name them. Must not know: what a run does with latents.
"""

import os
from collections import deque
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from ..engine.noise import last_noise, noise_blocks
from ..models.identity import digest_of_parts, part_sums, sample_of
from ..models.wan_vae import encode, memory_latents
from ..output.h264 import encoding_of
from ..output.latents_file import first_facts, read_before, read_latents
from ..output.left_video import frames_in
from ..output.owners import spec_in_latents, spec_in_video
from ..plan.layout import Layout
from ..quality.frames import frames_of
from ..run_spec import short_digest
from ..strategies.dualparal import DualParal
from ..strategies.table import strategy_of
from .flags import value_of
from .settings import fps_of


def check_continued(args, model, config, command):
    """Raises ValueError for files of --dualparal_continue_from and --dualparal_append_to that the command cannot go on from. Reads no
    frame."""
    if command.continue_from is None:
        return
    strategy_of(config).continued_latents(config, 1)
    size = tuple(value_of(args, model, name) for name in ("height", "width"))
    _check_size(command.continue_from, size)
    if command.append_to is not None:
        _check_append(command, size, fps_of(model, command), model.family.facts.frames_per_latent)


def continued_latents(config, command):
    """Latent frames of another video that the command's first block will see, as far as its file's length is not looked at."""
    return 0 if command.continue_from is None else strategy_of(config).continued_latents(config, config.context_latents or 1)


def last_latents(path, vae, context_latents):
    """The last latent frames of the video or file of latents ``path``, float32 on the CPU: as many as ``vae`` looks back to, or as
    a block sees. Raises ValueError for latents of another VAE, and for frames that cannot be encoded."""
    count = max(context_latents, memory_latents(vae))
    if not _is_latents(path):
        return _encoded(path, vae, count)
    made_with, here = spec_in_latents(path).vae, digest_of_parts([part_sums(dict(vae=vae), 0)])["vae"]
    if made_with not in (None, here):
        raise ValueError(f"continue_from {path} has latents of another VAE: give the model that made it, or its mp4")
    blocks, latents = deque(), 0
    for _, block in read_latents(path):
        blocks.append(block)
        latents += block.shape[2]
        while latents - blocks[0].shape[2] >= count:
            latents -= blocks.popleft().shape[2]
    before = [read_before(path)] if latents < count and read_before(path) is not None else []
    return torch.cat([*before, *blocks], dim=2)[:, :, -count:].float()


def last_noise_of(path, facts, latent_shape, count):
    """The noise that the last ``count`` latent frames of the file of latents ``path`` were made of, (1, channels, frames, height, width) float32 on
    the CPU; None for an mp4, whose frames are encoded anew, and where it is not known: of another strategy or of a generator that no seed tells.

    ``facts``: of the family. ``latent_shape``: (channels, height, width).
    """
    spec = spec_in_latents(path) if _is_latents(path) else None
    if spec is None or spec.strategy != DualParal.name or spec.seed is None:
        return None
    generator = torch.Generator().manual_seed(spec.seed)
    if spec.generator != short_digest(generator.get_state().numpy().tobytes()):
        return None
    before = min(read_before(path).shape[2], spec.context_latents) if spec.continued else 0
    latent_frames = facts.latent_frames(spec.num_frames, before) if spec.num_frames else None
    blocks = noise_blocks(Layout(spec.block_latents, spec.context_latents, latent_frames), latent_shape, generator, spec.fresh_noise or 0.0)
    return last_noise(blocks, before + sum(latents.shape[2] for _, latents in read_latents(path)), count)


def _encoded(path, vae, count):
    frames_per_latent = vae.config.scale_factor_temporal
    try:
        return encode(vae, _last_frames(path, 1 + (count - 1) * frames_per_latent, frames_per_latent))
    except FloatingPointError as error:
        raise ValueError(f"continue_from {path} cannot be encoded: {error}") from None


def _last_frames(path, most, frames_per_latent):
    """The last frames, at most so many, of whole latent frames and the one that begins them: (frames, height, width, 3) uint8."""
    frames = deque(frames_of(path), maxlen=most)
    if not frames:
        raise ValueError(f"continue_from {path} has no frame: give a video")
    whole = 1 + (len(frames) - 1) // frames_per_latent * frames_per_latent
    return np.stack(list(frames)[-whole:])


def _is_latents(path):
    return first_facts(path) is not None


def _check_size(path, size):
    if not os.path.isfile(path):
        raise ValueError(f"--dualparal_continue_from {path} is no file: give an mp4, or a file that --dualparal_latents_out wrote")
    there = _size_of(path)
    if there != size:
        raise ValueError(
            f"--dualparal_continue_from {path} has {there[1]} x {there[0]} pixels and the new frames {size[1]} x {size[0]}: give "
            f"--height {there[0]} --width {there[1]}, or another video"
        )


def _size_of(path):
    """(height, width)."""
    if _is_latents(path):
        spec = spec_in_latents(path)
        if spec is None or spec.height is None:
            raise ValueError(f"--dualparal_continue_from {path} does not say which run made it: give another file")
        next(read_latents(path))
        return spec.height, spec.width
    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            return stream.height, stream.width
    except (av.error.FFmpegError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"--dualparal_continue_from {path} is no video ({type(error).__name__}): give an mp4, or a file of latents") from None


def appended_digest(command):
    """A short text that tells the file of --dualparal_append_to from others, by its size and some of its bytes; None without one."""
    return None if command.append_to is None else short_digest(repr(sample_of(Path(command.append_to))).encode())


def _check_append(command, size, fps, frames_per_latent):
    """The new frames must follow the very last one, with one encoding."""
    path = command.append_to
    if not os.path.isfile(path):
        raise ValueError(f"--dualparal_append_to {path} is no file: give the mp4 that is continued, or leave it out")
    if not frames_in(path):
        raise ValueError(f"--dualparal_append_to {path} is no mp4 that xdit-dualparal wrote, whose frames are known to be whole: leave it out, and join the files")
    try:
        with av.open(str(path)) as source:
            there = encoding_of(source)
    except (av.error.FFmpegError, LookupError, StopIteration) as error:
        raise ValueError(f"--dualparal_append_to {path} is damaged ({type(error).__name__}): put a good copy back, or leave it out") from None
    quality = float(there.quality or 0)  # x264 writes none where there is no loss
    for name, given, wanted in (("size", there.size, size), ("fps", there.fps, Fraction(fps)), ("quality", quality, command.quality)):
        if given != wanted:
            raise ValueError(f"--dualparal_append_to {path} has frames of {name} {_shown(given)} and the new ones have {_shown(wanted)}: give the same, or leave it out")
    if os.path.samefile(path, command.continue_from):
        return
    if not _is_latents(command.continue_from):
        raise ValueError(f"--dualparal_append_to {path} is not the video that is continued: give {command.continue_from}, or leave it out")
    _check_same_run(path, command.continue_from, frames_per_latent)


def _check_same_run(path, latents, frames_per_latent):
    spec, of_latents = spec_in_video(path), spec_in_latents(latents)
    if spec is None or spec.of_latents().digest() != of_latents.of_latents().digest():
        raise ValueError(f"--dualparal_append_to {path} and --dualparal_continue_from {latents} are of two runs: give the files of one")
    in_latents = sum(block.shape[2] for _, block in read_latents(latents))
    frames = frames_per_latent * in_latents if spec.continued else 1 + frames_per_latent * (in_latents - 1)
    if spec.num_frames != frames:
        raise ValueError(
            f"--dualparal_append_to {path} shows {spec.num_frames} frames of the run and {latents} holds {frames}, so that some would be left out: "
            f"give --dualparal_continue_from {path}"
        )


def _shown(value):
    return f"{value[1]} x {value[0]}" if isinstance(value, tuple) else f"{float(value):g}"
