"""Time per pass with cached context and with recomputed context, in pairs in one run.

    python examples/measure_context.py --context 8 --pairs 5
    python examples/measure_context.py --context 4 --heads 12 --head_dim 64 --ffn_dim 2048 --layers 4 --size 256

One process, one thread, random weights of the given size; no text encoder and no decoding. In each pair the same video is made with
both, one after the other, and of each the passes whose windows differ are timed: those of all blocks but the first. A pass
attends to as many keys in both; cached context has B queries in the place of B + C.

Measured on a shared machine with 2 cores (AMD EPYC), other work beside it, --pairs 3 --steps 2 --blocks 3, B = C = 8: 0.293 s
recomputed, 0.146 s cached, 0.50 of it (0.46 to 0.51).
"""

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform

MODES = ("recomputed", "cached")
TEXT_DIM = 64


def parsed():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(
        block=8, context=8, pairs=5, steps=3, blocks=4, size=128, heads=8, head_dim=48, ffn_dim=1536, layers=4
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--dtype", default="float32", help="of the transformer (default: float32)")
    parser.add_argument("--json", help="write the figures to this file, too")
    return parser.parse_args()


def make_pipeline(args):
    """A WanPipeline with a random transformer and the smallest VAE."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=args.heads, attention_head_dim=args.head_dim, text_dim=TEXT_DIM, freq_dim=64, ffn_dim=args.ffn_dim,
        num_layers=args.layers,
    )
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae.eval(), transformer=transformer.eval().to(getattr(torch, args.dtype)),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    )


def pass_seconds(pipeline, config, args, folder):
    """Seconds of each pass of all blocks but the first."""
    pipeline.config = replace(config, trace=str(Path(folder, "trace.json")), overwrite=True)
    latent_frames = args.block + args.context + (args.blocks - 1) * args.block
    run = pipeline.stream(
        prompt_embeds=torch.zeros(1, 16, TEXT_DIM), height=args.size, width=args.size, num_frames=4 * latent_frames - 3,
        num_inference_steps=args.steps, guidance_scale=1.0, generator=torch.Generator().manual_seed(1), output_type="latent",
    )
    for _ in run:
        pass
    return [span.end - span.start for span in run.meter.spans if span.action.kind == "F" and span.action.block]


def main():
    """Prints and writes the figures."""
    args = parsed()
    torch.set_num_threads(1)
    enable_host_platform()
    from xfuser import xFuserArgs

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT=os.environ.get("MASTER_PORT", "29551"))
    engine = xFuserArgs(model="random").create_config()[0]
    configs = {mode: DualParalConfig(args.block, args.context, context=mode) for mode in MODES}
    pipeline = DualParalPipeline(make_pipeline(args), engine, configs[MODES[0]])
    seconds = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(args.pairs + 1):
            for mode in MODES if pair % 2 else reversed(MODES):
                median = statistics.median(pass_seconds(pipeline, configs[mode], args, folder))
                seconds[mode] += [median] if pair else []  # the first pair warms up
    ratios = sorted(cached / recomputed for recomputed, cached in zip(*(seconds[mode] for mode in MODES)))
    figures = dict(seconds_a_pass={mode: statistics.median(seconds[mode]) for mode in MODES}, ratios=ratios, ratio=statistics.median(ratios))
    print(f"B = {args.block}, C = {args.context}: a pass takes {figures['seconds_a_pass']['recomputed']:.3f} s recomputed, "
          f"{figures['seconds_a_pass']['cached']:.3f} s cached: {figures['ratio']:.2f} of it ({ratios[0]:.2f} to {ratios[-1]:.2f} in {args.pairs} pairs)")
    if args.json:
        Path(args.json).write_text(json.dumps(dict(vars(args), **figures), indent=2))


if __name__ == "__main__":
    main()
