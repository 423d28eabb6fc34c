"""One stage alone, with random weights, fed with random hidden states: for measuring what passes take.

Knows: a stage and its run. Must not know: what is measured with it, or other stages. Nothing is sent.
"""

import os

import torch

_SMALLEST = dict(num_attention_heads=2, attention_head_dim=24, ffn_dim=128, text_dim=64)


def start_group():
    """xDiT's groups of this process alone."""
    os.environ.update(dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0") | os.environ)
    from diffusers import UniPCMultistepScheduler, WanPipeline
    from xfuser import xFuserArgs

    from .mesh import Mesh

    engine, _ = xFuserArgs(model="random").create_config()
    parts = dict(tokenizer=None, text_encoder=None, vae=None, scheduler=UniPCMultistepScheduler())
    Mesh(WanPipeline(transformer=random_transformer("cpu", _SMALLEST, 1), **parts), engine)


def random_transformer(device, config, layers, dtype=torch.bfloat16):
    """A WanTransformer3DModel of ``config`` (a dict) with ``layers`` layers, in ``dtype`` but for what diffusers keeps in float32."""
    from diffusers import WanTransformer3DModel

    known = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device(device):
        transformer = WanTransformer3DModel(**dict(in_channels=16, out_channels=16) | known | dict(num_layers=layers)).eval()
    in_float32 = set(transformer._keep_in_fp32_modules)
    for name, weights in transformer.named_parameters():
        if not in_float32.intersection(name.split(".")):
            weights.data = weights.data.to(dtype)
    return transformer


def random_inputs(run, stage, spec, shard, device):
    """What the stage before would send for the pass of ``spec``: latents for the first one, hidden states for the others."""
    if stage.is_first:
        return torch.randn(1, stage.config.in_channels, spec.window_latents, *shard.latent_size, device=device)
    return torch.randn(run.hidden_shape(spec, ""), device=device, dtype=stage.transformers[0].dtype)


def seconds_of(function, device):
    """Until ``function()`` is done on ``device`` (a name)."""
    import time

    wait = torch.cuda.synchronize if str(device).startswith("cuda") else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start
