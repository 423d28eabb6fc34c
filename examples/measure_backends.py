"""The shape of Wan2.1-T2V-1.3B with random weights on one GPU: bfloat16 with each attention backend against float32.

    python examples/measure_backends.py [--backends SDPA,SDPA_FLASH,CUDNN] [--runs 3] [--json FILE]

For each backend: how far its latents are from those of float32 (root mean square, relative), the seconds of a pass (both
guidance branches, all layers; median of the runs) and the peak memory. ``--size tiny`` tries the program itself on a CPU.
"""

import argparse
import json
import os
import statistics
import time

import torch

from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform

enable_host_platform()

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from xfuser import xFuserArgs
from xfuser.core.distributed import get_runtime_state

# DESIGN section 3; "tiny" has as many layers, so that as many roundings add up.
SHAPES = {
    "1.3b": (dict(num_attention_heads=12, num_layers=30, ffn_dim=8960, text_dim=4096), 480, 832),
    "tiny": (dict(num_attention_heads=2, num_layers=30, ffn_dim=128, text_dim=64, attention_head_dim=24), 32, 32),
}
STEPS, NUM_FRAMES = 4, 117  # 30 latent frames: with B = 8 and C = 4 three full blocks and a part of one


def make_pipeline(size, dtype):
    """A one-stage DualParalPipeline with weights from seed 0, on the GPU where there is one."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(**SHAPES[size][0], in_channels=16, out_channels=16).to(dtype)
    for name, parameter in transformer.named_parameters():
        if "norm_q" in name or "norm_k" in name:
            parameter.data.fill_(1.0)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    with torch.device("meta"):
        vae = AutoencoderKLWan()  # for its factors only: nothing is decoded
    wan = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer.eval())
    wan.vae_scale_factor_spatial = vae.config.scale_factor_spatial
    wan.vae_scale_factor_temporal = vae.config.scale_factor_temporal
    engine, _ = xFuserArgs(model=size).create_config()
    return DualParalPipeline(wan, engine, DualParalConfig(block_latents=8, context_latents=4))


def make_latents(pipeline, size):
    """(latents on the CPU in float32, seconds a pass)."""
    shape, height, width = SHAPES[size]
    text = torch.randn(2, 1, 512, shape["text_dim"], generator=torch.Generator().manual_seed(1))
    pipeline.mesh.synchronize()
    start = time.perf_counter()
    output = pipeline(
        prompt_embeds=text[0], negative_prompt_embeds=text[1], height=height, width=width, num_frames=NUM_FRAMES,
        num_inference_steps=STEPS, generator=torch.Generator().manual_seed(2), output_type="latent",
    )
    pipeline.mesh.synchronize()
    passes = STEPS * pipeline.strategy.layout(pipeline.config, 1 + (NUM_FRAMES - 1) // 4).num_blocks
    return output.frames.float().cpu(), (time.perf_counter() - start) / passes


def measure(pipeline, size, backend, expected, runs):
    """What one backend gives, as a dict."""
    get_runtime_state().set_attention_backend(backend)
    make_latents(pipeline, size)  # warms up
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    results = [make_latents(pipeline, size) for _ in range(runs)]
    error = (results[0][0] - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return dict(
        backend=backend, relative_error=error.item(), pass_s=statistics.median(seconds for _, seconds in results),
        peak_bytes=peak,
    )


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="1.3b")
    parser.add_argument("--backends", default="SDPA,SDPA_FLASH,CUDNN")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", help="also write the figures to this file")
    arguments = parser.parse_args()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="localhost", MASTER_PORT="0")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    size = arguments.size
    exact = make_pipeline(size, torch.float32)
    get_runtime_state().set_attention_backend("SDPA")
    expected, seconds = make_latents(exact, size)
    del exact
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, {size}, float32 with SDPA: {seconds:.3f} s a pass", flush=True)
    pipeline, rows = make_pipeline(size, torch.bfloat16), []
    for backend in arguments.backends.split(","):
        rows.append(row := measure(pipeline, size, backend, expected, arguments.runs))
        print(
            f"{row['backend']:10} relative error {row['relative_error']:.4f}   {row['pass_s']:.3f} s a pass   "
            f"peak {row['peak_bytes'] / 2**30:.1f} GiB", flush=True
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(dict(device=device, backends=rows), file, indent=2)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
