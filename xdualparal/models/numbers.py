"""The numbers of a model that its memory depends on, from its configurations alone.

Knows: diffusers' and transformers' classes of a model's parts. Must not know: runs, stages' processes, how memory follows from the
numbers (plan/memory.py). Loads no weight: the parts are made on the meta device.
"""

import torch
from transformers import UMT5Config, UMT5EncoderModel

from .wan_vae import decoder_operations, decoder_sizes

_STORED_BYTES = 4  # of a number in the hub's files, which are in float32

# Wan's text encoder, google/umt5-xxl: its 5.7 billion numbers are 11.4 GB in bfloat16 (DESIGN section 5).
UMT5_XXL = dict(
    d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=256384, feed_forward_proj="gated-gelu"
)


def model_numbers(family, transformer_config, vae_config, encoder_config, dtype, vae_dtype):
    """The fields of a plan.memory_numbers.ModelNumbers, as a dict, of a model of ``family`` with these configurations (dicts; what they
    lack is as in the classes), the transformer and the text encoder in ``dtype``, the VAE in ``vae_dtype``."""
    with torch.device("meta"):
        vae = family.classes().vae.from_config(vae_config)
        encoder = UMT5EncoderModel(UMT5Config.from_dict(encoder_config))
    numbers, sizes = _of_transformer(family, transformer_config, dtype), decoder_sizes(vae)
    return numbers | dict(
        pixels_per_token=vae.config.scale_factor_spatial * numbers.pop("patch"),
        pixels_per_latent=vae.config.scale_factor_spatial, frames_per_latent=family.facts.frames_per_latent,
        experts=len(family.facts.experts), text_encoder_bytes=_bytes(encoder, dtype), vae_bytes=_bytes(vae, vae_dtype),
        vae_memory_bytes=sizes.remembered * vae_dtype.itemsize, vae_work_bytes=sizes.held * vae_dtype.itemsize,
        vae_small_work_bytes=sizes.held_if_small * vae_dtype.itemsize,
        condition_latents=family.condition_latents(vae, None) if family.facts.conditioned else 0,
        vae_small_rows=sizes.small_rows if vae_dtype == torch.float32 else 0, vae_number_bytes=vae_dtype.itemsize,
    )


def decode_operations(family, vae_config):
    """Operations of decoding a latent frame for each pixel, see wan_vae.decoder_operations."""
    with torch.device("meta"):
        return decoder_operations(family.classes().vae.from_config(vae_config))


def _of_transformer(family, config, dtype):
    def stage(is_first, is_last):
        with torch.device("meta"):
            transformer = family.classes().transformer.from_config(dict(config, num_layers=1))
        family.keep_stage(transformer, range(1), is_first, is_last)
        return transformer

    first, middle, last = stage(True, False), stage(False, False), stage(False, True)
    sizes, inner = middle.config, _bytes(middle, dtype)
    layer = _bytes(middle, dtype, of="blocks")
    return dict(
        layers=config["num_layers"], heads=sizes.num_attention_heads, head_dim=sizes.attention_head_dim, ffn_dim=sizes.ffn_dim,
        channels=_latent_channels(sizes), condition_channels=sizes.in_channels - _latent_channels(sizes), patch=sizes.patch_size[1], number_bytes=dtype.itemsize, layer_bytes=layer,
        shared_bytes=inner - layer, embedding_bytes=_bytes(first, dtype) - inner, head_bytes=_bytes(last, dtype) - inner,
        largest_bytes=max(weight.numel() for weight in middle.parameters()) * _STORED_BYTES,
    )


def _latent_channels(config):
    return config.out_channels or config.in_channels


def _bytes(module, dtype, of=None):
    """Of the weights of ``module``, or of its part ``of``, in ``dtype``, but in float32 those that diffusers keeps so."""
    in_float32 = set(getattr(module, "_keep_in_fp32_modules", None) or ()) if hasattr(module, "load_config") else set()
    return sum(
        weight.numel() * (4 if in_float32.intersection(name.split(".")) else dtype.itemsize)
        for name, weight in module.named_parameters() if of in (None, name.split(".")[0])
    )
