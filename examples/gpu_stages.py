"""One stage alone, fed with random hidden states: memory, the time of a pass, and what it costs that experts change places.

    python examples/gpu_stages.py [--device cuda|cpu] [--stages 4,8] [--waves N]

The shapes of Wan 14B and Wan2.2-A14B with random weights in bfloat16, 480 x 832 pixels, B = 8, C = 4, 4 steps without guidance: the
first, a middle and the last of so many stages, one after the other. A stage does the passes of waves in which 4 blocks are in
flight, as in a run; nothing is sent. ``--device cpu`` has a tiny shape and tries the program itself.
"""

import argparse
import gc
import time

SHAPES = {  # DESIGN section 3: heads, ffn, text, layers; pixels
    "cuda": (dict(num_attention_heads=40, ffn_dim=13824, text_dim=4096), 40, (480, 832)),
    "cpu": (dict(num_attention_heads=2, ffn_dim=128, text_dim=64, attention_head_dim=24), 8, (32, 32)),
}
MODELS = {"14B": (1, False), "A14B, both experts on the device": (2, False), "A14B, one at a time": (2, True)}  # experts, swapped
STEPS, BOUNDARY = 4, 2
TEXT_TOKENS = 512


def main(argv=None):
    """Prints a table: a row for each model and stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=SHAPES, help="default: cuda where there is one")
    parser.add_argument("--stages", default="4,8", help="numbers of stages (default: 4,8)")
    parser.add_argument("--waves", type=int, default=3, help="waves that are timed (default: 3)")
    arguments = parser.parse_args(argv)
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    for what, figure in measure(device, [int(count) for count in arguments.stages.split(",")], arguments.waves):
        print(f"| {what} | {figure} |", flush=True)


def measure(device, counts, waves):
    """Yields (which model and stage, the figures)."""
    start_group()
    for count in counts:
        for place, index in (("first", 0), ("middle", count // 2), ("last", count - 1)):
            for model, (experts, swapped) in MODELS.items():
                name = f"{model}, {count} stages, {place}"
                try:
                    yield name, figures(device, experts, swapped, index, count, waves)
                except RuntimeError as error:  # out of memory, say: the next one may fit
                    yield name, f"**{str(error).splitlines()[0][:150]}**"
                free(device)


def start_group():
    """xDiT's groups of this process alone."""
    from xdualparal import enable_host_platform

    enable_host_platform()
    from xdualparal.compat.backports import complete_xfuser
    from xdualparal.engine import lone_stage

    complete_xfuser()
    lone_stage.start_group()


def figures(device, experts, swapped, index, count, waves):
    """Seconds of a pass and peak memory of a stage, as text."""
    import torch

    from xdualparal.engine.lone_stage import random_transformer
    from xdualparal.engine.sharding import SpatialShard
    from xdualparal.engine.stage import Stage, StageRun
    from xdualparal.models import Wan22Family, WanFamily
    from xdualparal.strategies.dualparal import DualParalPlan

    shape, layers, (height, width) = SHAPES[device]
    own = layers // count
    transformers = [random_transformer("cpu" if swapped else device, shape, own) for _ in range(experts)]
    stage = Stage((WanFamily, Wan22Family)[experts - 1](), transformers, index, count, range(own), swapped)
    for transformer in transformers:
        transformer.to(device)
    starts = (0, BOUNDARY)[:experts]
    plan = DualParalPlan(None, STEPS, 1, expert_starts=starts, swaps_experts=swapped)
    shard = SpatialShard((height // 8, width // 8), (2, 2), 0, 1)
    timesteps = torch.linspace(1000, 250, STEPS, device=device)
    text = torch.randn(1, TEXT_TOKENS, shape["text_dim"], device=device, dtype=torch.bfloat16)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        run = StageRun(stage, timesteps, starts, {0: text}, shard)
        with run.context.installed():
            seconds = [wave_s(run, stage, plan, shard, wave, device) for wave in range(STEPS + waves)][STEPS:]
        run.end()
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
    return f"{sorted(seconds)[len(seconds) // 2] / STEPS:.3g} s a pass{peak}"


def wave_s(run, stage, plan, shard, wave, device):
    """The seconds of a wave's passes."""
    import torch

    from xdualparal.engine.lone_stage import random_inputs
    from xdualparal.plan.actions import FORWARD, LOAD
    from xdualparal.plan.progress import Progress

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    actions, seconds = [action for action in plan.actions(0, wave) if action.kind in (FORWARD, LOAD)], 0.0
    for action in actions:
        spec = plan.spec(action.one)
        inputs = None if action.kind == LOAD else random_inputs(run, stage, spec, shard, device)
        wait()
        start = time.perf_counter()
        if action.kind == LOAD:
            run.load(spec)
        else:
            then = plan.expert_after(action.one, Progress(plan)) if plan.swaps_experts else None
            run.forward(action, spec, inputs, then=then)
        wait()
        seconds += time.perf_counter() - start
    return seconds


def free(device):
    """Gives the memory of what is gone back to the device."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
