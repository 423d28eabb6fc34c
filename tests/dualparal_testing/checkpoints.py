"""Checkpoints of Wan models in the real file format, small: the published configurations with less depth and width.

As on the hub: model_index.json, sharded safetensors with an index, config.json with the names and versions that the authors wrote.
The configurations are those of huggingface.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers, Wan2.1-T2V-14B-Diffusers,
Wan2.2-T2V-A14B-Diffusers and Wan2.2-TI2V-5B-Diffusers (but the latter's means and deviations of latents), of Wan2.1-I2V-14B-720P-Diffusers,
Wan2.1-FLF2V-14B-720P-diffusers and Wan2.2-I2V-A14B-Diffusers (diffusers' scripts/convert_wan_to_diffusers.py makes them), and of
Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers and -14B- (diffusers' scripts/convert_skyreelsv2_to_diffusers.py makes them; SkyReels-V2-I2V's are Wan2.1-I2V's of
these sizes, and its CLIP is of another class). The
tokenizer and the text encoder (UMT5) are the demo model's.
"""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer, CLIPVisionModel, CLIPVisionModelWithProjection

import xdualparal

from .small_wan import small_image_encoder

DEMO = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"
_TRANSFORMER = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0", "added_kv_proj_dim": None, "attention_head_dim": 128,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "image_dim": None, "in_channels": 16,
    "num_attention_heads": 40, "num_layers": 40, "out_channels": 16, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 4096,
}
_OF_WAN22 = {"_diffusers_version": "0.35.0.dev0", "pos_embed_seq_len": None}
TRANSFORMERS = {  # {model, as xDiT and we name it: {part: its config.json}}, full size
    "Wan2.1-T2V-1.3B": dict(transformer=_TRANSFORMER | dict(ffn_dim=8960, num_attention_heads=12, num_layers=30)),
    "Wan2.1-T2V": dict(transformer=_TRANSFORMER),
    "Wan2.2-T2V": dict(transformer=_TRANSFORMER | _OF_WAN22, transformer_2=_TRANSFORMER | _OF_WAN22),
    "Wan2.2-TI2V": dict(transformer=_TRANSFORMER | _OF_WAN22 | dict(
        ffn_dim=14336, in_channels=48, num_attention_heads=24, num_layers=30, out_channels=48,
    )),
}
_OF_IMAGES = dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120)
IMAGE_TO_VIDEO = {
    "Wan2.1-I2V": dict(transformer=_TRANSFORMER | _OF_IMAGES),
    "Wan2.1-FLF2V": dict(transformer=_TRANSFORMER | _OF_IMAGES | dict(pos_embed_seq_len=514)),
    "Wan2.2-I2V": dict(transformer=_TRANSFORMER | _OF_WAN22 | dict(in_channels=36), transformer_2=_TRANSFORMER | _OF_WAN22 | dict(in_channels=36)),
}
_SKYREELS = dict(_TRANSFORMER, _class_name="SkyReelsV2Transformer3DModel", _diffusers_version="0.34.0.dev0", num_frame_per_block=1,
                 pos_embed_seq_len=None)
SKYREELS = {
    "SkyReels-V2-DF-1.3B": dict(transformer=_SKYREELS | dict(ffn_dim=8960, num_attention_heads=12, num_layers=30, inject_sample_info=True)),
    "SkyReels-V2-DF-14B": dict(transformer=_SKYREELS | dict(inject_sample_info=False)),
}
SKYREELS_IMAGES = {
    "SkyReels-V2-I2V-1.3B": dict(transformer=_SKYREELS | dict(ffn_dim=8960, num_attention_heads=12, num_layers=30, inject_sample_info=False) | _OF_IMAGES
                                 | dict(added_kv_proj_dim=1536)),
    "SkyReels-V2-I2V-14B": dict(transformer=_SKYREELS | dict(inject_sample_info=False) | _OF_IMAGES),
}
_PIPELINES = {"WanTransformer3DModel": "WanPipeline", "SkyReelsV2Transformer3DModel": "SkyReelsV2DiffusionForcingPipeline"}
VAE = {
    "_class_name": "AutoencoderKLWan", "_diffusers_version": "0.33.0.dev0", "attn_scales": [], "base_dim": 96, "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922,
                     -0.9497, 0.2503, -0.2921],
    "latents_std": [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253,
                    2.8251, 1.916],
    "num_res_blocks": 2, "temperal_downsample": [False, True, True], "z_dim": 16,
}
VAE_OF_TI2V = VAE | dict(
    _diffusers_version="0.35.0.dev0", base_dim=160, decoder_base_dim=256, in_channels=12, is_residual=True, out_channels=12,
    patch_size=2, scale_factor_spatial=16, scale_factor_temporal=4, z_dim=48, latents_mean=[n / 48 - 0.5 for n in range(48)],
    latents_std=[0.5 + n / 64 for n in range(48)],
)
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0.dev0", "beta_end": 0.02, "beta_schedule": "linear",
    "beta_start": 0.0001, "disable_corrector": [], "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero", "flow_shift": 3.0,
    "lower_order_final": True, "num_train_timesteps": 1000, "predict_x0": True, "prediction_type": "flow_prediction",
    "rescale_betas_zero_snr": False, "sample_max_value": 1.0, "solver_order": 2, "solver_p": None, "solver_type": "bh2",
    "steps_offset": 0, "thresholding": False, "timestep_spacing": "linspace", "trained_betas": None, "use_beta_sigmas": False,
    "use_exponential_sigmas": False, "use_flow_sigmas": True, "use_karras_sigmas": False,
}
_SMALL = dict(num_attention_heads=4, attention_head_dim=12, ffn_dim=64, num_layers=5, text_dim=64)
_SMALL_IMAGES = dict(image_dim=24, added_kv_proj_dim=48)  # of 28 x 28 pixels, 5 tokens
_SMALL_VAE = dict(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
_SMALL_VAE_OF_TI2V = dict(base_dim=8, decoder_base_dim=8, num_res_blocks=1)


def write_checkpoint(folder, model, scheduler=SCHEDULER, shard_size="100KB", first_seed=0, **smaller):
    """Writes a small checkpoint of ``model``, a name of TRANSFORMERS, IMAGE_TO_VIDEO, SKYREELS or SKYREELS_IMAGES, to ``folder``; returns the folder. Every transformer has
    weights of its own.

    ``scheduler``: its configuration. ``first_seed``: of the first transformer's weights. ``smaller``: settings of the transformers
    beside _SMALL.
    """
    folder = Path(folder)
    configs = {part: _small(config) | smaller for part, config in (TRANSFORMERS | IMAGE_TO_VIDEO | SKYREELS | SKYREELS_IMAGES)[model].items()}
    for seed, (part, config) in enumerate(configs.items(), first_seed):
        small_transformer(config, seed).save_pretrained(folder / part, max_shard_size=shard_size)
    vae = VAE_OF_TI2V | _SMALL_VAE_OF_TI2V if model == "Wan2.2-TI2V" else VAE | _SMALL_VAE
    torch.manual_seed(9)
    AutoencoderKLWan.from_config(vae).eval().save_pretrained(folder / "vae")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(DEMO / part, folder / part)
    sees_images = configs["transformer"]["image_dim"] is not None
    if sees_images:
        _write_image_encoder(folder, model)
    for part, config in (configs | dict(vae=vae)).items():
        _write(folder / part / "config.json", config)
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    _write(folder / "model_index.json", _index(model, configs, scheduler["_class_name"]))
    return folder


def _small(config):
    """Of a transformer."""
    of_images = {} if config["image_dim"] is None else _SMALL_IMAGES
    pair = dict(pos_embed_seq_len=10) if config.get("pos_embed_seq_len") else {}
    return config | _SMALL | of_images | pair


def _clip(model):
    """The classes of its CLIP and of what prepares images for it."""
    return (CLIPVisionModelWithProjection, CLIPProcessor) if model in SKYREELS_IMAGES else (CLIPVisionModel, CLIPImageProcessor)


def _write_image_encoder(folder, model):
    """CLIP's, with random weights, and its image processor."""
    kind, processor_kind = _clip(model)
    small_image_encoder(kind).save_pretrained(folder / "image_encoder")
    processor = CLIPImageProcessor(size=dict(shortest_edge=28), crop_size=dict(height=28, width=28))
    if processor_kind is CLIPProcessor:  # which has a tokenizer besides
        processor = CLIPProcessor(processor, CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[]))
    processor.save_pretrained(folder / "image_processor")


def small_transformer(config, seed):
    """A transformer with random weights, for which context, text and timestep matter."""
    torch.manual_seed(seed)
    transformer = getattr(diffusers, config["_class_name"]).from_config(config)
    for block in transformer.blocks:
        block.attn1.norm_q.weight.data.fill_(2.0)
        block.attn2.norm_q.weight.data.fill_(2.0)
        block.attn2.to_out[0].weight.data.mul_(4.0)
        block.scale_shift_table.data.normal_(std=0.5)
    return transformer.eval()


def _index(model, parts, scheduler):
    [kind] = {config["_class_name"] for config in parts.values()}
    index = {
        "_class_name": _PIPELINES[kind], "_diffusers_version": "0.33.0.dev0", "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "vae": ["diffusers", "AutoencoderKLWan"], **{part: ["diffusers", kind] for part in parts},
    }
    if model in IMAGE_TO_VIDEO | SKYREELS_IMAGES:
        sees_images = parts["transformer"]["image_dim"] is not None
        index |= dict(
            _class_name="SkyReelsV2ImageToVideoPipeline" if model in SKYREELS_IMAGES else "WanImageToVideoPipeline",
            **{part: ["transformers", kind.__name__] if sees_images else [None, None] for part, kind in zip(("image_encoder", "image_processor"), _clip(model))},
        )
        return index | (dict(boundary_ratio=0.9) if "transformer_2" in parts else {})
    if model == "Wan2.2-TI2V":
        return index | dict(boundary_ratio=None, expand_timesteps=True, transformer_2=[None, None])
    return index | dict(boundary_ratio=0.875) if "transformer_2" in parts else index


def _write(file, content):
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2))
