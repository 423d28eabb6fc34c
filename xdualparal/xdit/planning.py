"""What each way of running a command takes: its Mixes with their Prices.

Knows: flags, how a plan is made of them, and a GPU's profile. Must not know: how it is shown.
"""

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from ..plan.durations import Durations, decode_place
from ..plan.pricing import Price, price_of, trace_of
from ..plan.schedule import AT_END
from ..strategies.base import Lanes
from .flags import dualparal_config, value_of
from .memory import decode_operations_of, plan_of, run_numbers, sizes_of
from .mixes import Mix, mixes_of
from .prompts import prompts_of
from .quantization import quantization_of

# The share of the trained timesteps from which Wan2.2's first expert works: model_index.json of Wan-AI/Wan2.2-T2V-A14B-Diffusers.
_BOUNDARY = 0.875


@dataclass(frozen=True)
class Way:
    """A Mix that works, its Price for all videos, and the ``command`` that runs it."""

    mix: Mix
    price: Price
    command: str

    def as_json(self):
        """Plain values."""
        links = [dict(stage=edge[0], to=edge[1], bytes=size) for edge, size in self.price.link_bytes.items()]
        memory = self.mix.memory and dict(bytes=self.mix.memory_bytes, phases=self.mix.memory.phases(), parts=self.mix.memory.parts())
        return dict(flags=self.mix.flags, **asdict(self.price) | dict(link_bytes=links), memory=memory, command=self.command)


def ways_of(args, model, num_gpus, device, launch):
    """(the Ways, fastest first; the Mixes that do not work) of ``args``, checked flags, on ``num_gpus`` GPUs with the profile ``device``. ``launch``: the
    flags as they were typed. Raises ValueError where float8 is asked for and the profile has no rate of it."""
    if quantization_of(args) and device.float8_per_s is None:
        raise ValueError(
            f"--gemm_quantization is {quantization_of(args)} and the profile of {device.name} has no rate in float8: leave it out, or give a profile with float8_per_s"
        )
    mixes = mixes_of(args, model, num_gpus, device.memory_bytes)
    ways = [Way(mix, _price(args | mix.flags, model, device), _command(launch, args, mix)) for mix in mixes if not mix.why_not]
    return sorted(ways, key=lambda way: way.price.seconds), [mix for mix in mixes if mix.why_not]


def simulated(args, model, device):
    """The Trace of the first videos that share the stages. ``args``: with the flags of a Mix."""
    videos = min(args["dualparal_videos_in_flight"], len(prompts_of(args)))
    return trace_of(*_planned(args, model, device, videos))


def _price(args, model, device):
    """Of all videos: a replica makes its own one group after the other, in which as many as are in flight share the stages."""
    of_replica, at_once = -(-len(prompts_of(args)) // args["data_parallel_degree"]), args["dualparal_videos_in_flight"]
    groups = [at_once] * (of_replica // at_once) + ([of_replica % at_once] if of_replica % at_once else [])
    prices = {videos: price_of(*_planned(args, model, device, videos)) for videos in set(groups)}
    seconds = sum(prices[videos].seconds for videos in groups)
    busy = sum(prices[videos].seconds * (1 - prices[videos].bubble) for videos in groups)
    links = {edge: sum(prices[videos].link_bytes[edge] for videos in groups) for edge in prices[groups[0]].link_bytes}
    exchanged, copied = (sum(getattr(prices[videos], name) for videos in groups) for name in ("exchanged_bytes", "host_bytes"))
    return Price(seconds, prices[groups[0]].first_frames_s, 1 - busy / seconds, links, exchanged, copied)


def _planned(args, model, device, videos):
    """(the plan of ``videos`` side by side, its Durations)."""
    config, run = dualparal_config(args, model), run_numbers(args, model, on_host=False)
    decode = AT_END if args["use_parallel_vae"] else decode_place(config.decode, device)
    guided = value_of(args, model, "guidance_scale") > 1 and not args["use_cfg_parallel"]
    lanes = Lanes(args["dualparal_degree"], decode, split_guidance=guided, swaps_experts=config.expert_offload)
    plan = plan_of(args, model, lanes, _expert_starts(args, model))
    plan = plan if videos == 1 else plan.side_by_side((0,) * videos)
    return plan, Durations(sizes_of(args, model), run, plan, device, decode_operations_of(model), bool(args["use_torch_compile"]))


def _expert_starts(args, model):
    """The step with which each expert begins: the noise level after the flow shift, of evenly spaced steps (diffusers 0.42.1, UniPC with flow
    sigmas and FlowMatchEuler), falls below the boundary."""
    if len(model.family.facts.experts) == 1:
        return (0,)
    steps = value_of(args, model, "num_inference_steps")
    shift = value_of(args, model, "flow_shift") or model.usual_shift or 5.0
    levels = [1 - n / steps for n in range(steps)]
    return 0, sum(shift * level / (1 + (shift - 1) * level) >= _boundary(model) for level in levels)


def _boundary(model):
    index = Path(model.settings.model_name, "model_index.json")
    return (index.is_file() and json.loads(index.read_text()).get("boundary_ratio")) or _BOUNDARY


def _command(launch, args, mix):
    """What runs the mix: what was typed, and behind it the flags of the mix that say something else."""
    words = list(launch)
    for name, value in mix.flags.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value and not args[name] else []
        elif value != args[name] and (args[name] is not None or value != 1 or name == "dualparal_degree"):
            words += [f"--{name}", str(value)]
    return shlex.join(["xdit-dualparal", *words])
