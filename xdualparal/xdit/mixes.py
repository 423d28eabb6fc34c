"""Which degrees, videos in flight and contexts a command could have on a number of GPUs, and why the others cannot.

Knows: the flags of degrees and of context, the checks, and the memory of a GPU. Must not know: how long a run takes.
"""

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from ..plan.device import DeviceProfile
from ..plan.memory import RankMemory, fullest
from ..plan.placement import GUIDANCE, RING, ULYSSES, Placement
from ..plan.schedule import NO_DECODE
from ..plan.waiting import FLOAT8, HOST, MODEL
from ..strategies.base import Lanes
from ..strategies.dualparal import DualParal
from ..strategies.dualparal_settings import CACHED, RECOMPUTED
from .advice import MOST_VIDEOS
from .checks import check_degrees_together
from .flags import dualparal_config, value_of
from .memory import in_words, is_predicted, plan_of, predicted, readable
from .memory_check import RESERVE
from .prompts import prompts_of
from .savings import coarser_vae, fewest, other_places

DEGREE_FLAGS = ("dualparal_degree", "ulysses_degree", "ring_degree", "data_parallel_degree")
_CONTEXTS = {  # {the context of the command as it is: others, each only where those before it do not fit}
    RECOMPUTED: (
        dict(dualparal_context=CACHED), dict(dualparal_context=CACHED, dualparal_context_dtype=FLOAT8),
        dict(dualparal_context=CACHED, dualparal_context_dtype=FLOAT8, dualparal_context_store=HOST),
    ),
    CACHED: (
        dict(dualparal_context_dtype=FLOAT8), dict(dualparal_context_dtype=FLOAT8, dualparal_context_store=HOST), dict(dualparal_context=RECOMPUTED),
    ),
}
_SHORT = {
    "dualparal_degree": "stages", "ulysses_degree": "ulysses", "ring_degree": "ring", "data_parallel_degree": "replicas",
    "dualparal_videos_in_flight": "videos",
}


_SAVINGS = {  # {a flag that saves memory, see savings.py: what a Mix with it is called}
    "dualparal_decode": "decoding inline", "dualparal_text_encoder": "encoder on the CPU", "dualparal_expert_offload": "an expert at a time",
    "enable_tiling": "tiles", "dualparal_vae_precision": "VAE in bfloat16",
}
_GROUPS = {ULYSSES: "Ulysses", RING: "ring", GUIDANCE: "guidance"}


class Gpus(NamedTuple):
    """``count`` GPUs with the profile ``device``, ``per_node`` in each machine."""

    count: int
    device: DeviceProfile
    per_node: int

    @property
    def nodes(self):
        """How many machines there are."""
        return -(-self.count // self.per_node)

    def placement(self, args):
        """The Placement of the ranks of a command. ``args``: flags with all degrees."""
        stages, ulysses, ring, replicas = (args[name] or 1 for name in DEGREE_FLAGS)
        return Placement(stages, ulysses, ring, 2 if args["use_cfg_parallel"] else 1, replicas, self.per_node if self.nodes > 1 else None)


@dataclass(frozen=True)
class Mix:
    """``flags``: {flag: value} beside the command's own. ``memory``: of the rank that needs most, None where it is not known. ``why_not``: why the
    command cannot be run so, or ""."""

    flags: dict
    memory: RankMemory | None = None
    why_not: str = ""

    @property
    def memory_bytes(self):
        """That a rank needs, with what the libraries take; None where it is not known."""
        return self.memory and self.memory.total + RESERVE

    @property
    def adds_degrees_only(self):
        """Whether all else is as the command has it."""
        return self.flags.keys() <= {*DEGREE_FLAGS, "use_cfg_parallel", "dualparal_videos_in_flight"}

    def __str__(self):
        words = [f"{short} {self.flags[name]}" for name, short in _SHORT.items() if self.flags.get(name, 1) > 1 or name == "dualparal_degree"]
        words += ["cfg 2"] if self.flags.get("use_cfg_parallel") else []
        words += [self.flags["dualparal_context"]] if "dualparal_context" in self.flags else []
        words += ["float8"] if self.flags.get("dualparal_context_dtype") == FLOAT8 else []
        words += ["on the host"] if self.flags.get("dualparal_context_store") == HOST else []
        saved = [word for name, word in _SAVINGS.items() if name in self.flags]
        return " ".join(words) + (f", {', '.join(saved)}" if saved else "")


def mixes_of(args, model, gpus):
    """All Mixes of ``args``, parsed flags of a command, on ``gpus`` (Gpus). A degree that is given stays as it is."""
    found = []
    for degrees in _degrees(args, model, gpus.count):
        mix = _judged(args, model, degrees, gpus)
        others = _other_contexts(args, model, degrees, gpus) if mix.memory else []
        found += [mix, *(other for other in others if not (mix.why_not and other.why_not))]
        if mix.memory and all(one.why_not for one in [mix, *others]):
            found += _with_savings(args, model, degrees, gpus)
    return found


def _degrees(args, model, num_gpus):
    """Yields {flag: value} of degrees whose product is ``num_gpus``."""
    prompts, guided = len(prompts_of(args)), value_of(args, model, "guidance_scale") > 1
    branches = (True,) if args["use_cfg_parallel"] else (False, True) if guided else (False,)
    for use_cfg, replicas, ulysses, ring in product(branches, range(1, prompts + 1), *[_divisors(num_gpus)] * 2):
        stages, left = divmod(num_gpus, ulysses * ring * replicas * (2 if use_cfg else 1))
        degrees = dict(zip(DEGREE_FLAGS, (stages, ulysses, ring, replicas)))
        if left or stages < 1 or any(_is_given(args, name) and args[name] != degrees[name] for name in DEGREE_FLAGS):
            continue
        for videos in _videos(args, -(-prompts // replicas)):
            yield degrees | dict(use_cfg_parallel=use_cfg, dualparal_videos_in_flight=videos)


def _videos(args, most):
    given = args["dualparal_videos_in_flight"]
    is_sharing = args["dualparal_strategy"] == DualParal.name
    return range(1, min(MOST_VIDEOS, most) + 1) if given == 1 and is_sharing else (given,)


def _is_given(args, name):
    return args[name] not in (None, 1) or (name == "dualparal_degree" and args[name] is not None)


def _divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]


def _other_contexts(args, model, flags, gpus):
    """Of the Mixes with ``flags`` and another context the first that fits, or else the last; none where one is given, or there is none."""
    if args["dualparal_strategy"] != DualParal.name or args["dualparal_context"] != MODEL or not args["dualparal_context_latents"]:
        return []
    if plan_of(args | flags, model, Lanes(flags["dualparal_degree"], NO_DECODE, split_guidance=False)).num_blocks == 1:
        return []
    last = None
    for last in (_judged(args, model, flags | context, gpus) for context in _CONTEXTS[dualparal_config(args | flags, model).context]):
        if not last.why_not:
            break
    return [last]


def _with_savings(args, model, degrees, gpus):
    """Of degrees that fit with no context the Mixes with the fewest flags that save memory, and of as few those that cost the least time."""
    flags = sorted([*other_places(args, model), *coarser_vae(args)], key=lambda change: "dualparal_expert_offload" in change.values)

    def fitting(change):
        saved = degrees | change.values
        mixes = _judged(args, model, saved, gpus), *_other_contexts(args, model, saved, gpus)
        return [mix for mix in mixes if not mix.why_not]

    enough = fewest(flags, fitting)
    return fitting(enough) if enough else []


def _judged(args, model, flags, gpus):
    mixed, memory_bytes = args | flags, gpus.device.memory_bytes
    try:
        check_degrees_together(mixed, model)
    except ValueError as error:
        return Mix(flags, why_not=str(error))
    uneven = gpus.placement(mixed).uneven()
    if uneven:
        return Mix(flags, why_not=f"some {_GROUPS[uneven]} groups would be on one machine of {gpus.per_node} GPUs and others on several, or not equally many ranks on each: not planned")
    if not is_predicted(mixed):
        return Mix(flags)
    memory = fullest(predicted(mixed, model, on_host=False))[1]
    if memory.total + RESERVE <= memory_bytes:
        return Mix(flags, memory)
    return Mix(flags, memory, f"a rank needs {in_words(memory)} and {readable(RESERVE)} for libraries, and a GPU has {readable(memory_bytes)}")
