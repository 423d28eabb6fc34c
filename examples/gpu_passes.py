"""The time of one pass with recomputed and cached context, eager and compiled, beside the device's matrix peak.

    python examples/gpu_passes.py [--device cuda|cpu] [--layers 4] [--waves 3] [--json FILE]

The shapes of Wan2.1 1.3B and 14B with random weights in bfloat16, 480 x 832 pixels, B = 8, C = 4 and 8, both guidance branches: a stage of a
few layers without embedding and head, fed with random hidden states, in waves in which 4 blocks are in flight. A pass of the whole
model takes as many times longer as it has more layers. TFLOP/s: counted operations (xdualparal/plan/cost.py) over the median pass;
the peak: the fastest of 10 products of 8192 x 8192 matrices. ``--device cpu`` has a tiny shape and tries the program itself.
"""

import argparse
import json
import statistics
from pathlib import Path

import gpu_stages
from gpu_report import matrix_peak, timed

SHAPES = {  # DESIGN section 3: heads, ffn, text; pixels
    "cuda": {
        "1.3B": (dict(num_attention_heads=12, ffn_dim=8960, text_dim=4096), (480, 832)),
        "14B": (dict(num_attention_heads=40, ffn_dim=13824, text_dim=4096), (480, 832)),
    },
    "cpu": {"tiny": (dict(num_attention_heads=2, ffn_dim=128, text_dim=64, attention_head_dim=24), (32, 32))},
}
BLOCK, CONTEXTS, STEPS, TEXT_TOKENS = 8, (4, 8), 4, 512
MODES = [(mode, compiled) for compiled in (False, True) for mode in ("recomputed", "cached")]


def main(argv=None):
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=SHAPES, help="default: cuda where there is one")
    parser.add_argument("--layers", type=int, default=4, help="of the stage (default: 4)")
    parser.add_argument("--waves", type=int, default=3, help="waves that are timed (default: 3)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(argv)
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gpu_stages.start_group()
    peak, rows = matrix_peak(device, torch.bfloat16), []
    print(f"| {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'} | matrix peak {peak / 1e12:.4g} TFLOP/s in bfloat16 |\n|---|---|", flush=True)
    for row in measure(device, arguments.layers, arguments.waves):
        rows.append(row)
        print(f"| {row['what']} | {as_text(row, peak)} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(peak=peak, layers=arguments.layers, rows=rows), indent=1) + "\n")


def as_text(row, peak):
    """The figures of a row."""
    if "error" in row:
        return f"**{row['error']}**"
    return f"{row['seconds'] * 1e3:.4g} ms a pass, {row['operations'] / row['seconds'] / 1e12:.4g} TFLOP/s ({row['operations'] / row['seconds'] / peak:.0%} of the peak)"


def measure(device, layers, waves):
    """Yields a dict for each shape, context and mode."""
    for name, (shape, size) in SHAPES[device].items():
        for context in CONTEXTS:
            for mode, compiled in MODES:
                what = f"{name}, {layers} layers, C = {context}, {mode}, {'compiled' if compiled else 'eager'}"
                try:
                    seconds, operations = pass_of(device, shape, size, layers, context, mode, compiled, waves)
                    yield dict(what=what, seconds=seconds, operations=operations)
                except RuntimeError as error:  # out of memory, say: the next one may fit
                    yield dict(what=what, error=str(error).splitlines()[0][:150])
                gpu_stages.free(device)


def pass_of(device, shape, size, layers, context, mode, compiled, waves):
    """(median seconds of a middle block's pass of both branches, its operations)."""
    import torch

    from xdualparal.engine.lone_stage import random_transformer
    from xdualparal.engine.sharding import SpatialShard
    from xdualparal.engine.stage import Stage, StageRun
    from xdualparal.models import WanFamily
    from xdualparal.plan.layout import Layout
    from xdualparal.strategies.dualparal import DualParalPlan

    stage = Stage(WanFamily(), [random_transformer(device, shape, layers)], 1, 3, range(layers))
    if compiled:
        stage.compile()
    plan = DualParalPlan(None, STEPS, 1, layout=Layout(BLOCK, context), context=mode)
    shard = SpatialShard((size[0] // 8, size[1] // 8), (2, 2), 0, 1)
    text = torch.randn(2, TEXT_TOKENS, shape["text_dim"], device=device, dtype=torch.bfloat16)
    with torch.no_grad():
        run = StageRun(stage, torch.linspace(1000, 250, STEPS, device=device), (0,), {0: text}, shard)
        with run.context.installed():
            seconds = [one for wave in range(2 * STEPS + waves) for one in wave_s(run, stage, plan, shard, wave, device)]
        run.end()
    return statistics.median(seconds), operations_of(stage, plan, shard, layers)


def wave_s(run, stage, plan, shard, wave, device):
    """The seconds of the wave's passes that see both neighbours; of the first waves, which also warm up, none."""
    from xdualparal.engine.lone_stage import random_inputs
    from xdualparal.plan.actions import FORWARD

    seconds = []
    for action in (one for one in plan.actions(0, wave) if one.kind == FORWARD):
        spec = plan.spec(action.one)
        inputs = random_inputs(run, stage, spec, shard, device)
        took = timed(lambda: run.forward(action, spec, inputs), device)
        if wave >= 2 * STEPS and 0 < action.step:
            seconds.append(took)
    return seconds


def operations_of(stage, plan, shard, layers):
    """Of both branches of such a pass."""
    import torch

    from xdualparal.models.numbers import UMT5_XXL, model_numbers
    from xdualparal.plan.actions import Pass
    from xdualparal.plan.cost import StagePart, forward_operations, shape_of
    from xdualparal.plan.memory_numbers import ModelNumbers

    model = ModelNumbers(**model_numbers(stage.family, dict(stage.config), {}, UMT5_XXL, torch.bfloat16, torch.float32))
    return 2 * forward_operations(model, StagePart(layers, False, False), shape_of(plan, Pass(0, 3, 1)), shard.frame_tokens, TEXT_TOKENS).total


if __name__ == "__main__":
    main()
