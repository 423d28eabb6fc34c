"""Says before a run how much of the time stages will wait, which degrees of the same processes wait less, and which settings do nothing.

Knows: the flags of degrees. Must not know: how waiting (plan/advice.py) and memory (memory_check.py) are computed.
"""

from ..plan.advice import WORTH_SAYING, Degrees, Job
from ..plan.schedule import NO_DECODE
from ..strategies.base import Lanes
from ..strategies.dualparal import DualParal
from ..strategies.fifo import Fifo
from ..strategies.table import strategy_of
from .flags import dualparal_config, value_of
from .memory import plan_of
from .memory_check import fits
from .prompts import prompts_of
from .support import is_given

MOST_VIDEOS = 4  # side by side that are advised: each needs memory of its own


def waiting_line(args, model):
    """A line, or "" where stages wait too little to say so, or another strategy's do. ``args``: checked flags. ``model``: their
    model class."""
    if args["dualparal_degree"] is None or args["dualparal_strategy"] not in (DualParal.name, Fifo.name):
        return ""
    if args["dualparal_strategy"] == Fifo.name:
        return _idle_line(args, model)
    given, job = _degrees(args), _job(args, model)
    share = job.waiting(given)
    if share < WORTH_SAYING:
        return ""
    line = f"stages will wait {share:.0%} of the time ({value_of(args, model, 'num_inference_steps')} steps, {given.stages} stages)"
    better = job.better(given)
    if better is None:
        return line
    degrees, less = better
    weights = given.stages / degrees.stages
    price = f", with {weights:.3g} times the weights on each process and what is exchanged not counted" if weights > 1 else ""
    return f"{line}: {_as_flags(given, degrees)} waits {less:.0%}{price}"


def without_effect_line(args, model):
    """A line on settings that are given and do nothing, since the video is one block, or "". They are not refused: a script may give one
    set of flags for videos of any length. ``args``, ``model``: see ``waiting_line``."""
    if args["dualparal_degree"] is None:
        return ""
    strategy = strategy_of(dualparal_config(args))
    given = [f"--dualparal_{name}" for name in strategy.between_blocks if is_given(args, f"dualparal_{name}")]
    if not given or plan_of(args, model, Lanes(args["dualparal_degree"], NO_DECODE, split_guidance=False)).num_blocks != 1:
        return ""
    return f"warning: {' and '.join(given)} will do nothing: the video is one block"


def _idle_line(args, model):
    """Where FIFO has fewer windows than processes."""
    degree = args["dualparal_degree"]
    windows = plan_of(args, model, Lanes(degree, NO_DECODE, split_guidance=False)).most_windows
    if degree <= windows:
        return ""
    return (
        f"{degree - windows} of {degree} processes will have nothing to do (the queue of {value_of(args, model, 'num_inference_steps')} steps has "
        f"{windows} window{'s' * (windows > 1)}): --dualparal_degree {windows} is as fast"
    )


def _degrees(args):
    return Degrees(
        args["dualparal_degree"], args["ulysses_degree"] or 1, 2 if args["use_cfg_parallel"] else 1, args["data_parallel_degree"] or 1,
        dualparal_config(args).videos_in_flight,
    )


def _job(args, model):
    def plan_on(stages, split_guidance, videos):
        return plan_of(args, model, Lanes(stages, NO_DECODE, split_guidance)).side_by_side((0,) * videos)

    return Job(
        plan_on, prompts=len(prompts_of(args)), guided=value_of(args, model, "guidance_scale") > 1,
        most_stages=model.num_layers, most_videos=MOST_VIDEOS, shards=_shards(args, model),
        allows=lambda degrees: _is_possible(args, model, degrees),
    )


def _is_possible(args, model, degrees):
    """Layers that were given by the stage are for as many stages, and fewer stages may not fit in memory."""
    if args["dualparal_stage_layers"] is not None and degrees.stages != args["dualparal_degree"]:
        return False
    flags = dict(
        dualparal_degree=degrees.stages, ulysses_degree=degrees.shards, use_cfg_parallel=degrees.branches == 2,
        data_parallel_degree=degrees.replicas, dualparal_videos_in_flight=degrees.videos,
    )
    return fits(args | flags, model)


def _shards(args, model):
    """The Ulysses degrees that divide the attention heads and, with the ring degree, the tokens of a frame."""
    height, width = (value_of(args, model, name) // model.pixels_per_token for name in ("height", "width"))
    ring = args["ring_degree"] or 1
    return tuple(n for n in range(1, model.num_heads + 1) if model.num_heads % n == 0 and height * width % (n * ring) == 0)


def _as_flags(given, degrees):
    """The flags of ``degrees`` that differ from those of ``given``."""
    flags = {
        "stages": f"--dualparal_degree {degrees.stages}", "shards": f"--ulysses_degree {degrees.shards}",
        "branches": "--use_cfg_parallel" if degrees.branches == 2 else "no --use_cfg_parallel",
        "replicas": f"--data_parallel_degree {degrees.replicas}", "videos": f"--dualparal_videos_in_flight {degrees.videos}",
    }
    return " ".join(flag for name, flag in flags.items() if getattr(degrees, name) != getattr(given, name))
