"""A small Wan pipeline with random weights, the same in every process."""

import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPVisionConfig, CLIPVisionModel

TEXT_DIM = 32
SCHEDULERS = {
    "unipc": lambda: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "dpm++": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    ),
}

FEW_STEPS = {"euler": lambda: FlowMatchEulerDiscreteScheduler(shift=5.0)}
STOCHASTIC = {  # they add noise in their steps
    "stochastic euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
    "sde-dpm++": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="sde-dpmsolver++"
    ),
}


def small_transformer(rope_max_seq_len=1024, seed=0, **other):
    """4 layers, 4 heads; weights from ``seed``, with attention sharp enough for the context to matter. ``other``: settings."""
    torch.manual_seed(seed)
    settings = dict(
        num_attention_heads=4, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=TEXT_DIM, freq_dim=32,
        ffn_dim=64, num_layers=4, rope_max_seq_len=rope_max_seq_len,
    )
    transformer = WanTransformer3DModel(**settings | other)
    for block in transformer.blocks:
        block.attn1.norm_q.weight.data.fill_(2.0)
        block.scale_shift_table.data.normal_(std=0.5)
    return transformer.eval()


def small_vae():
    """Spatial factor 8, temporal factor 4, as Wan2.1's."""
    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def small_pipeline(scheduler="unipc", rope_max_seq_len=1024, boundary_ratio=None, expand_timesteps=False):
    """A WanPipeline without text encoder: give it prompt_embeds. ``boundary_ratio``: of two experts, as in Wan2.2-T2V-A14B; ``expand_timesteps``: as
    in Wan2.2-TI2V-5B."""
    second = None if boundary_ratio is None else second_expert(rope_max_seq_len)
    return WanPipeline(
        tokenizer=None, text_encoder=None, vae=small_vae(), scheduler=(SCHEDULERS | FEW_STEPS | STOCHASTIC)[scheduler](),
        transformer=small_transformer(rope_max_seq_len), transformer_2=second, boundary_ratio=boundary_ratio,
        expand_timesteps=expand_timesteps,
    )


def second_expert(rope_max_seq_len=1024):
    """A small transformer with other weights."""
    return small_transformer(rope_max_seq_len, seed=3)


IMAGE_DIM, IMAGE_TOKENS = 24, 5  # of what CLIP says of an image
SEES_IMAGES = dict(image_dim=IMAGE_DIM, added_kv_proj_dim=48)


def small_image_pipeline(scheduler="unipc", boundary_ratio=None, sees_images=False):
    """As ``small_pipeline``, in Wan2.2-I2V's form, with one or two experts, or where it ``sees_images`` in Wan2.1-I2V's, without the image
    encoder: give it image_latents and image_embeds."""
    other = dict(in_channels=36) | (SEES_IMAGES if sees_images else {})
    return WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=small_vae(), scheduler=(SCHEDULERS | FEW_STEPS | STOCHASTIC)[scheduler](),
        transformer=small_transformer(**other), transformer_2=None if boundary_ratio is None else small_transformer(seed=3, **other),
        boundary_ratio=boundary_ratio, image_encoder=small_image_encoder() if sees_images else None,
    )


def small_image_encoder(kind=CLIPVisionModel):
    """CLIP's, of the class ``kind``, of images of 28 x 28 pixels: IMAGE_TOKENS tokens."""
    torch.manual_seed(4)
    config = dict(hidden_size=IMAGE_DIM, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    return kind(CLIPVisionConfig(**config)).eval()


def texts(length=8):
    """(prompt_embeds, negative_prompt_embeds), (1, length, TEXT_DIM) each."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(1, length, TEXT_DIM, generator=generator) for _ in range(2)]
