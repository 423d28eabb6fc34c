"""Flags with which a command needs less memory.

Knows: the flags, and which of them change a video. Must not know: how much memory there is, or is needed.
"""

from itertools import combinations
from typing import NamedTuple

import torch

from ..plan.schedule import INLINE, THREAD
from ..plan.waiting import DEVICE as ON_DEVICE, FLOAT8, HOST, MODEL
from ..strategies.dualparal_settings import CACHED, RECOMPUTED
from ..text_settings import CPU, DEVICE
from .flags import dualparal_config
from .quantization import quantization_of


class Change(NamedTuple):
    """Other values of flags, as one would type them, and {flag: value}."""

    text: str
    values: dict


def merged(changes):
    """All of ``changes`` as one Change."""
    text = " ".join(change.text for change in changes if change.text)
    return Change(text, {name: value for change in changes for name, value in change.values.items()})


def fewest(changes, is_enough):
    """The first Change of as few of ``changes`` as can be for which ``is_enough`` answers yes, or None. Tiles make decoding's work smaller and what the VAE
    remembers larger, so all of them may need more memory than all but those."""
    without_tiles = [change for change in changes if "enable_tiling" not in change.values]
    if not any(is_enough(merged(most)) for most in (changes, without_tiles)):
        return None
    chosen = (merged(chosen) for number in range(len(changes) + 1) for chosen in combinations(changes, number))
    return next(change for change in chosen if is_enough(change))


def other_places(args, model):
    """Yields the Changes that change no bit of a video, only when and where something is done. ``args``: checked flags. ``model``: their class."""
    if args["dualparal_decode"] == THREAD and not args["use_parallel_vae"]:
        yield Change(f"--dualparal_decode {INLINE}", dict(dualparal_decode=INLINE))
    if args["dualparal_text_encoder"] == DEVICE:
        yield Change(f"--dualparal_text_encoder {CPU}", dict(dualparal_text_encoder=CPU))
    if len(model.family.facts.experts) > 1 and not args["dualparal_expert_offload"] and not quantization_of(args):
        yield Change("--dualparal_expert_offload", dict(dualparal_expert_offload=True))


def context_on_host(args, model):
    """Yields the Change of cached context to the host's memory, which changes no bit either, where there is another one."""
    if _is_cached(args, model) and args["dualparal_context_store"] == ON_DEVICE and torch.accelerator.is_available():
        yield Change(f"--dualparal_context_store {HOST}", dict(dualparal_context_store=HOST))


def coarser_vae(args):
    """Yields the Changes of decoding: a video is the same but for what tiles' rims and fewer digits do to its pixels."""
    if not args["enable_tiling"]:
        yield Change("--enable_tiling", dict(enable_tiling=True))
    if args["dualparal_vae_precision"] in (None, "float32"):
        yield Change("--dualparal_vae_precision bfloat16", dict(dualparal_vae_precision="bfloat16"))


def less_context(args, model):
    """Yields the Changes of cached context to less of it: another video."""
    if not _is_cached(args, model):
        return
    if args["dualparal_context_dtype"] != FLOAT8:
        yield Change(f"--dualparal_context_dtype {FLOAT8}", dict(dualparal_context_dtype=FLOAT8))
    if args["dualparal_context_latents"] > 1:
        half = args["dualparal_context_latents"] // 2
        yield Change(f"--dualparal_context_latents {half}", dict(dualparal_context_latents=half))
    yield Change(
        f"--dualparal_context {RECOMPUTED}",
        dict(dualparal_context=RECOMPUTED, dualparal_context_dtype=MODEL, dualparal_context_store=ON_DEVICE),
    )


def _is_cached(args, model):
    return dualparal_config(args, model).context == CACHED
