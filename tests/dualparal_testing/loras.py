"""Small LoRAs with random numbers, in the formats that people have. The names are Wan's and diffusers', written out here."""

import json

import torch
from safetensors.torch import save_file

ALPHA, RANK = 6.0, 4
_OWN = {"self_attn.q": "attn1.to_q", "self_attn.o": "attn1.to_out.0", "cross_attn.k": "attn2.to_k", "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
KOHYA = {  # all that musubi-tuner trains in a block, which diffusers asks for
    **{f"{a}_attn.{m}": f"attn{n}.to_{d}" for a, n in (("self", 1), ("cross", 2)) for m, d in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out.0"))},
    "ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2",
}


def sizes(transformer):
    """{name: shape} of its tensors."""
    return {name: tuple(tensor.shape) for name, tensor in transformer.state_dict().items()}


def pairs(transformer, modules=_OWN, seed=0, rank=RANK):
    """{(block, Wan's own name of a module): (down, up)} for all blocks."""
    generator, shapes = torch.Generator().manual_seed(seed), sizes(transformer)
    made = {}
    for block in range(len(transformer.blocks)):
        for own, theirs in modules.items():
            rows, columns = shapes[f"blocks.{block}.{theirs}.weight"]
            made[block, own] = (torch.randn(rank, columns, generator=generator) / 8, torch.randn(rows, rank, generator=generator) / 8)
    return made


def diffusers_format(made, prefix="transformer.", adapter="", names=KOHYA):
    """As diffusers and PEFT write it."""
    keys = {}
    for (block, own), (down, up) in made.items():
        module = f"{prefix}blocks.{block}.{names[own]}"
        keys |= {f"{module}.lora_A{adapter}.weight": down, f"{module}.lora_B{adapter}.weight": up}
    return keys


def original_format(made, words=("lora_A", "lora_B"), alpha=None, prefix="diffusion_model."):
    """As Wan's own tools and LightX2V write it."""
    keys = {}
    for (block, own), (down, up) in made.items():
        module = f"{prefix}blocks.{block}.{own}"
        keys |= {f"{module}.{words[0]}.weight": down, f"{module}.{words[1]}.weight": up}
        if alpha is not None:
            keys[f"{module}.alpha"] = torch.tensor(alpha)
    return keys


def kohya_format(made, alpha=ALPHA, prefix="lora_unet_"):
    """As kohya's tools and musubi-tuner write it."""
    keys = {}
    for (block, own), (down, up) in made.items():
        module = f"{prefix}blocks_{block}_{own.replace('.', '_')}"
        keys |= {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": torch.tensor(alpha)}
    return keys


def differences(transformer, seed=1):
    """Whole differences that LightX2V's files have beside pairs: of biases, norms, the head, modulations."""
    generator, shapes = torch.Generator().manual_seed(seed), sizes(transformer)
    targets = {
        "blocks.1.self_attn.q.diff_b": "blocks.1.attn1.to_q.bias", "blocks.0.cross_attn.norm_k.diff": "blocks.0.attn2.norm_k.weight",
        "blocks.2.norm3.diff": "blocks.2.norm2.weight", "blocks.2.norm3.diff_b": "blocks.2.norm2.bias",
        "head.head.diff": "proj_out.weight", "head.head.diff_b": "proj_out.bias", "head.diff_m": "scale_shift_table",
        "blocks.3.diff_m": "blocks.3.scale_shift_table", "blocks.2.modulation.diff": "blocks.2.scale_shift_table",
        "patch_embedding.diff": "patch_embedding.weight", "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    }
    return {f"diffusion_model.{key}": (name, torch.randn(shapes[name], generator=generator) / 8) for key, name in targets.items()}


def write(path, keys, metadata=None):
    """A safetensors file; ``metadata``: PEFT settings as diffusers keeps them."""
    save_file({key: tensor.contiguous().clone() for key, tensor in keys.items()}, path, metadata and {"format": "pt", "lora_adapter_metadata": json.dumps(metadata)})
    return path
