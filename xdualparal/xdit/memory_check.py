"""Refuses a command whose ranks do not fit in the memory that is free, and says what would fit.

Knows: how much is free on this rank's device or machine. Must not know: how much a rank needs (memory.py), which flags need less (savings.py).

An estimate may be wrong: what is refused can be run with --dualparal_memory_check warn. What is not counted, an accelerator's
libraries and what its allocator cannot use again, is in RESERVE; of that nothing was measured on a GPU yet.
"""

import os
from math import prod
from typing import NamedTuple

import torch

from ..engine.sharding import check_even_split, check_heads
from ..plan.waiting import FLOAT8
from .degrees import num_processes
from .flags import value_of
from .memory import in_words, is_predicted, predicted, readable
from .savings import Change, coarser_vae, context_on_host, fewest, less_context, merged, other_places
from .settings import REFUSE

RESERVE = 500_000_000  # bytes for each rank on an accelerator: NCCL's buffers, cuBLAS's and cuDNN's workspaces, fragments
_MOST_RANKS = 64  # of a proposal


class Place(NamedTuple):
    """A memory: ``free_bytes`` in it for ``ranks``, numbers of processes, this one among them."""

    name: str
    free_bytes: int
    ranks: tuple[int, ...]
    is_host: bool

    def needs(self, memories):
        """Bytes here of ranks with these RankMemory, of one replica after the other."""
        return sum(self._one(memories[rank % len(memories)]) for rank in self.ranks)

    def _one(self, memory):
        return memory.total + (memory.host if self.is_host else RESERVE)


def check_memory(args, model):
    """Checks the memory of this rank's device, or on a machine without accelerator of all its ranks.

    ``args``: flags that were checked, ``model``: their class. Returns a line that warns, or "". Raises ValueError, one line with
    what would fit, where the settings say so.
    """
    if args["dualparal_degree"] is None or not is_predicted(args):
        return ""
    place, memories = place_of_this_rank(int(os.environ["WORLD_SIZE"])), predicted(args, model)
    if place is not None and place.needs(memories) > place.free_bytes:
        line = f"{_what_is_needed(place, memories)}: {_proposal(args, model, place)}"
    elif (line := _of_host(place, memories)) == "":
        return ""
    if args["dualparal_memory_check"] == REFUSE:
        raise ValueError(f"{line}; --dualparal_memory_check warn runs it all the same")
    return line


def fits(args, model):
    """Whether the ranks of another command, with as many processes, would fit where this process is, as far as is known."""
    place = place_of_this_rank(num_processes(args))
    return place is None or _needs(place, predicted(args, model), growth=1) <= place.free_bytes


def _of_host(place, memories):
    """A line where what waits in the host's memory beside an accelerator's does not fit there, or ""."""
    if place is None or place.is_host:
        return ""
    rank, local_rank, here = (int(os.environ.get(name, last)) for name, last in (("RANK", 0), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", len(memories))))
    needed = sum(memories[number % len(memories)].host for number in range(rank - local_rank, rank - local_rank + here))
    free = available_on_host()
    if free is None or needed <= free:
        return ""
    return (
        f"by arithmetic {readable(needed)} of experts' layers and cached context wait in this machine's memory, and {readable(free)} are "
        f"free: give --dualparal_context_dtype {FLOAT8}, fewer --dualparal_context_latents, or leave the offload or the cache out"
    )


def _what_is_needed(place, memories):
    rank = max(place.ranks, key=lambda number: memories[number % len(memories)].total)
    words = f"by arithmetic rank {rank} needs {in_words(memories[rank % len(memories)])}"
    if len(place.ranks) > 1:
        words += f", all {len(place.ranks)} ranks on {place.name} {readable(place.needs(memories))}"
    elif not place.is_host:
        words += f" and {readable(RESERVE)} for libraries"
    return f"{words}, and {place.name} has {readable(place.free_bytes)} free"


def place_of_this_rank(world_size):
    """The Place of this process by its environment, as torchrun and our launcher set it; None where it is not known what is free."""
    local_rank, rank = (int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "RANK"))
    first, here = rank - local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if not torch.accelerator.is_available():
        free = available_on_host()
        return None if free is None else Place("this machine", free, tuple(range(first, first + here)), True)
    count = torch.accelerator.device_count()
    index = local_rank % count  # as xDiT chooses
    free = free_on_device(index)
    same = tuple(range(first + index, first + here, count))
    return None if free is None else Place(f"device {index}", free, same, False)


def available_on_host():
    """Bytes that programs can have without swapping, by Linux; None elsewhere."""
    try:
        with open("/proc/meminfo") as lines:
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        return None
    return found[0] if found else None


def free_on_device(index):
    """Bytes that are free on an accelerator, when this process has its context there; None where torch cannot say."""
    ask = getattr(torch.accelerator, "get_memory_info", torch.cuda.mem_get_info)  # torch 2.10 has the first
    try:
        return ask(index)[0]
    except (RuntimeError, AssertionError, NotImplementedError):
        return None


# What would fit.


def _proposal(args, model, place):
    """In words, the smallest change with which all fits: of the fewest processes, and of these of the fewest other flags."""
    def needs(change):
        changed = args | change.values
        return _needs(place, predicted(changed, model), num_processes(changed) / num_processes(args))

    flags = [*other_places(args, model), *context_on_host(args, model), *coarser_vae(args), *less_context(args, model)]
    for degrees in [Change("", {}), *_degrees(args, model)]:
        enough = fewest(flags, lambda change: needs(merged([degrees, change])) <= place.free_bytes)
        if enough is not None:
            change = merged([degrees, enough])
            return f"{change.text} would fit, with {readable(needs(change))}"
    return "no flag and no degree would be enough: give a smaller --height and --width, or --dualparal_block_latents"


def _needs(place, memories, growth):
    """On a device as many ranks as now, of which each may be the fullest; on a host all, in the same number of machines."""
    if place.is_host:
        return round(sum(memory.total + memory.host for memory in memories) * len(place.ranks) * growth / len(memories))
    return len(place.ranks) * (max(memory.total for memory in memories) + RESERVE)


def _degrees(args, model):
    """Fewer processes first, of equally many more stages."""
    if args["dualparal_stage_layers"] is not None:
        return []
    now = args["dualparal_degree"], args["ulysses_degree"] or 1, 2 if args["use_cfg_parallel"] else 1
    most = _MOST_RANKS * prod(now) // num_processes(args)
    guided = 2 if value_of(args, model, "guidance_scale") > 1 else 1
    degrees = [
        (stages, shards, branches) for stages in range(now[0], model.num_layers + 1) for branches in range(now[2], guided + 1)
        for shards in range(now[1], most // (stages * branches) + 1)
        if (stages, shards, branches) != now and _can_share(args, model, shards)
    ]
    return [_of_degrees(degree, now) for degree in sorted(degrees, key=lambda degree: (prod(degree), -degree[0]))]


def _of_degrees(degrees, now):
    flags = [f"--dualparal_degree {degrees[0]}", f"--ulysses_degree {degrees[1]}", "--use_cfg_parallel"]
    names = "dualparal_degree", "ulysses_degree", "use_cfg_parallel"
    text = " ".join(flag for flag, degree, before in zip(flags, degrees, now) if degree > before)
    return Change(text, dict(zip(names, (*degrees[:2], degrees[2] == 2))))


def _can_share(args, model, ulysses_degree):
    height, width = (value_of(args, model, name) // model.pixels_per_token for name in ("height", "width"))
    try:
        check_heads(model.num_heads, ulysses_degree)
        check_even_split(height * width, ulysses_degree * (args["ring_degree"] or 1))
    except ValueError:
        return False
    return True
