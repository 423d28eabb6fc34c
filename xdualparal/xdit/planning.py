"""What each way of running a command takes: its Mixes with their Prices.

Knows: flags, how a plan is made of them, and a GPU's profile. Must not know: how it is shown.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..engine.progress_bar import ProgressBar
from ..plan.durations import Durations, decode_place
from ..plan.pricing import Price, price_of, trace_of
from ..plan.schedule import AT_END
from ..strategies.base import Lanes
from .flags import dualparal_config, value_of
from .memory import decode_operations_of, plan_of, run_numbers, sizes_of
from .mixes import Mix, mixes_of
from .prompts import prompts_of
from .quantization import quantization_of

FIRST_NODE = "ADDRESS_OF_NODE_0"  # in a command, for people to fill in


@dataclass(frozen=True)
class Way:
    """A Mix that works, its Price for all videos, and the ``command`` that runs it."""

    mix: Mix
    price: Price
    command: str

    def as_json(self):
        """Plain values."""
        across = self.price.network_links
        links = [
            dict(stage=edge[0], to=edge[1], bytes=size, over="network" if edge in across else "device link") for edge, size in self.price.link_bytes.items()
        ]
        memory = self.mix.memory and dict(bytes=self.mix.memory_bytes, phases=self.mix.memory.phases(), parts=self.mix.memory.parts())
        price = asdict(self.price) | dict(link_bytes=links)
        del price["network_links"]
        return dict(flags=self.mix.flags, **price, memory=memory, command=self.command)


def ways_of(args, model, gpus, launch):
    """(the Ways, fastest first; the Mixes that do not work) of ``args``, checked flags, on ``gpus`` (Gpus). ``launch``: the flags as they were typed. Raises
    ValueError where float8 is asked for and the profile has no rate of it."""
    device = gpus.device
    if quantization_of(args) and device.float8_per_s is None:
        raise ValueError(
            f"--gemm_quantization is {quantization_of(args)} and the profile of {device.name} has no rate in float8: leave it out, or give a profile with float8_per_s"
        )
    mixes = mixes_of(args, model, gpus)
    able = [mix for mix in mixes if not mix.why_not]
    ways = [Way(mix, price, _command(launch, args, mix, gpus)) for mix, price in zip(able, _prices(args, model, gpus, able))]
    return sorted(ways, key=lambda way: way.price.seconds), [mix for mix in mixes if mix.why_not]


def simulated(args, model, gpus):
    """The Trace of the first videos that share the stages. ``args``: with the flags of a Mix."""
    videos = min(args["dualparal_videos_in_flight"], len(prompts_of(args)))
    return trace_of(*_planned(args, model, gpus, videos))


def _prices(args, model, gpus, mixes):
    """The Price of each of ``mixes``; those with the same plans one after the other, as plans are remembered. Says on a terminal how far it is."""
    prices = {}
    with ProgressBar(len(mixes), sys.stderr.isatty(), leave=False) as bar:
        for number in sorted(range(len(mixes)), key=lambda number: _plan_of(mixes[number].flags)):
            bar.show(len(prices), f"{len(prices) + 1} of {len(mixes)} mixes: {mixes[number]}")
            prices[number] = _price(args | mixes[number].flags, model, gpus)
    return [prices[number] for number in range(len(mixes))]


def _plan_of(flags):
    """What of a Mix's flags decides its plan."""
    return flags["dualparal_degree"], flags["use_cfg_parallel"], flags.get("dualparal_context", ""), flags["dualparal_videos_in_flight"]


def _price(args, model, gpus):
    """Of all videos: a replica makes its own one group after the other, in which as many as are in flight share the stages."""
    of_replica, at_once = -(-len(prompts_of(args)) // args["data_parallel_degree"]), args["dualparal_videos_in_flight"]
    groups = [at_once] * (of_replica // at_once) + ([of_replica % at_once] if of_replica % at_once else [])
    prices = {videos: price_of(*_planned(args, model, gpus, videos)) for videos in dict.fromkeys(groups)}
    first, all_prices = prices[groups[0]], [prices[videos] for videos in groups]
    seconds = sum(price.seconds for price in all_prices)
    busy = sum(price.seconds * (1 - price.bubble) for price in all_prices)
    links = {edge: sum(price.link_bytes[edge] for price in all_prices) for edge in first.link_bytes}
    sums = (sum(getattr(price, name) for price in all_prices) for name in ("exchanged_bytes", "host_bytes", "network_bytes"))
    return Price(seconds, first.first_frames_s, 1 - busy / seconds, links, *sums, first.network_links)


def _planned(args, model, gpus, videos):
    """(the plan of ``videos`` side by side, its Durations)."""
    config, run = dualparal_config(args, model), run_numbers(args, model, on_host=False)
    decode = AT_END if args["use_parallel_vae"] else decode_place(config.decode, gpus.device)
    guided = value_of(args, model, "guidance_scale") > 1 and not args["use_cfg_parallel"]
    lanes = Lanes(args["dualparal_degree"], decode, split_guidance=guided, swaps_experts=config.expert_offload)
    plan = plan_of(args, model, lanes, _expert_starts(args, model))
    plan = plan if videos == 1 else plan.side_by_side((0,) * videos)
    durations = Durations(
        sizes_of(args, model), run, plan, gpus.device, decode_operations_of(model), bool(args["use_torch_compile"]), gpus.placement(args)
    )
    return plan, durations


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
    return (index.is_file() and json.loads(index.read_text()).get("boundary_ratio")) or model.boundary_ratio


def _command(launch, args, mix, gpus):
    """What runs the mix: what was typed, and behind it the flags of the mix that say something else; on several nodes, the first one's."""
    words = list(launch)
    for name, value in mix.flags.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value and not args[name] else []
        elif value != args[name] and (args[name] is not None or value != 1 or name == "dualparal_degree"):
            words += [f"--{name}", str(value)]
    if gpus.nodes > 1:
        words += ["--nnodes", str(gpus.nodes), "--node_rank", "0", "--master_addr", FIRST_NODE]
    return shlex.join(["xdit-dualparal", *words])
