"""What each flag of xDiT's runner does with DualParal on: it is used, or refused by name.

Knows: xDiT 0.7.0's flags, and why some do nothing in xdit/models.py. Must not know: what a used flag's value means.
tests/xdit/test_support.py holds the table against xDiT's parser: a flag that is new there fails it.
"""

from functools import cache

from ..limits import how_given
from ..strategies.dualparal_settings import RECOMPUTED, known_context
from .flags import make_parser

USED = frozenset((
    "model", "model_path", "prompt", "negative_prompt", "dataset_path", "height", "width", "num_frames", "num_inference_steps",
    "guidance_scale", "guidance_scale_2", "flow_shift", "seed", "max_sequence_length", "output_directory",
    "ulysses_degree", "ring_degree", "data_parallel_degree", "use_cfg_parallel", "attention_backend", "cross_attention_backend",
    "use_torch_compile", "use_parallel_vae", "enable_tiling", "vae_tile_size_height", "vae_tile_size_width",
    "vae_tile_overlap_height", "vae_tile_overlap_width",
    "distilled_transformer_path", "distilled_transformer_2_path", "gemm_quantization", "input_images", "resize_input_images", "task",
    "num_iterations", "warmup_calls", "profile",  # xDiT repeats the run, and profiles it, around us
    "batch_size",  # xDiT wants it with --dataset_path and times so many prompts together; each is a video of its own
))
WITH_PROFILE = frozenset(("profile_wait", "profile_warmup", "profile_active", "profile_with_stack"))

_SPLIT = "DualParal splits the weights over its stages already: leave it out, or raise --dualparal_degree"
_OFFLOAD = (
    "every layer computes in every wave, so it would be copied for each pass: leave it out, raise --dualparal_degree, or give "
    "--dualparal_expert_offload where a model has two experts"
)
_LOADING = "each stage loads its own layers only, whatever it says: leave it out"
_GEMMS = "xDiT's newer flag says it: give --gemm_quantization fp8, or leave it out"
_TIERS = "it is for pairs of formats (low=fp4,high=fp8), and the stages' layers can be in fp8 only: leave it out"
_TEXT_ENCODER = "the text encoder runs once a prompt and frees its memory: leave it out, or give --dualparal_text_encoder cpu"
_STEP_CACHE = "a cache between steps would mix blocks, which are in flight together: leave it out"
_SPARSE = "sparse attention picks keys by their place, and context from other passes is among the keys: leave it out"
_SCHEDULE = "blocks in flight are at different steps, so no step has a backend or precision of its own: leave it out"
_COMMS = "Wan2.1 has no float8 communication in xDiT: leave it out"
_VAE_FORMAT = "blocks are decoded by our own loop, which does not convert them: leave it out"
_SLICING = "videos are decoded one at a time already: leave it out"
_DETERMINISM = "what is compared there are the names of the videos' files: leave it out, and compare the files of two runs"
_CAPTURE = "the stages' blocks are compiled without CUDA graphs: leave it out"

REFUSED = {
    **dict.fromkeys(("tensor_parallel_degree", "pipefusion_parallel_degree", "fully_shard_degree", "text_encoder_tp_degree",
                     "reshard_after_forward", "memory_efficient_sharding"), _SPLIT),
    **dict.fromkeys(("enable_model_cpu_offload", "enable_sequential_cpu_offload", "enable_group_cpu_offload",
                     "group_offload_low_cpu_mem"), _OFFLOAD),
    "memory_efficient_replicated_load": _LOADING,
    **dict.fromkeys(("use_int8_gemms", "use_fp8_gemms", "use_fp4_gemms"), _GEMMS),
    **dict.fromkeys(("gemm_config", "fp8_precision_override_prefix_patterns", "fp8_precision_override_suffix_patterns"), _TIERS),
    "use_fp8_text_encoder": _TEXT_ENCODER,
    **dict.fromkeys(("use_fp8_comms", "fp8_comms_scale", "fp8_comms_safety_factor"), _COMMS),
    **dict.fromkeys(("use_teacache", "use_fbcache", "cache_method", "cache_config"), _STEP_CACHE),
    **dict.fromkeys(("use_hybrid_attn_schedule", "hybrid_attn_low_precision_backend", "hybrid_attn_high_precision_backend",
                     "num_hybrid_attn_high_precision_steps", "hybrid_attn_schedule", "use_hybrid_gemm_schedule",
                     "num_hybrid_gemm_high_precision_steps"), _SCHEDULE),
    **dict.fromkeys(("use_ssta_sparse_text_to_image", "spargeattn_simthreshold", "spargeattn_cdfthreshold",
                     "spargeattn_reorder_sequence", "use_spargeattn_static_block_mask", "use_spargeattn_head_balance",
                     "vsa_block_size", "vsa_top_k", "vsa_top_k_ratio", "vsa_drop_rates", "vsa_prob_threshold",
                     "vsa_reorder_sequence", "use_vsa_static_block_mask", "use_vsa_first_frame_mask",
                     "vsa_collect_density"), _SPARSE),
    **dict.fromkeys(("determinism_check", "determinism_check_report_ranks"), _DETERMINISM),
    "use_vae_channels_last_format": _VAE_FORMAT,
    "enable_slicing": _SLICING,
    "profile_capture_phase": _CAPTURE,
}


def check_support(args):
    """Raises ValueError for a flag of xDiT that has another value than by default and does nothing with DualParal."""
    for name, reason in REFUSED.items():
        if is_given(args, name):
            raise ValueError(f"--{name} {how_given(args[name])} and {reason}")
    for name in sorted(WITH_PROFILE):
        if is_given(args, name) and not args["profile"]:
            raise ValueError(f"--{name} {how_given(args[name])} and nothing is profiled: add --profile, or leave it out")


def check_effect(args, config, guidance_scale, num_experts=1):
    """Raises ValueError for a flag that does nothing beside another one or without it."""
    keeps_nothing = known_context(config) == RECOMPUTED and not config.anchor_latents
    for name, is_idle, why in (
        ("dualparal_checkpoint_waves", config.checkpoint is None, "nothing is saved without --dualparal_checkpoint"),
        ("dualparal_end_costs", config.stage_layers is not None, "--dualparal_stage_layers says how many layers each stage has"),
        ("dualparal_expert_offload", num_experts == 1, "it is for models with two transformers and this one has one"),
        ("dualparal_checkpoint_context_gb", config.checkpoint is None, "nothing is saved without --dualparal_checkpoint"),
        ("dualparal_checkpoint_context_gb", keeps_nothing, "nothing is kept without --dualparal_context cached"),
        ("dualparal_context_store", keeps_nothing, "nothing waits without --dualparal_context cached"),
        ("dualparal_given_noise", not args["dualparal_continue_from"], "no video is continued without --dualparal_continue_from"),
        ("dualparal_decode", args["use_parallel_vae"], "--use_parallel_vae decodes at the end"),
        ("num_iterations", args["profile"], "--profile makes the video --profile_wait + --profile_warmup + --profile_active times"),
        ("warmup_calls", args["profile"], "--profile has --profile_warmup"),
        ("negative_prompt", guidance_scale <= 1, f"a guidance scale of {guidance_scale:g} guides by the prompt alone"),
    ):
        if is_idle and is_given(args, name) and args[name] not in ("", [""]):
            raise ValueError(f"--{name} {how_given(args[name])} and {why}: leave it out")


def is_given(args, name):
    """Whether the flag ``name`` has another value than by default."""
    return name in args and args[name] != _defaults()[name]


@cache
def _defaults():
    return vars(make_parser().parse_args(["--model", "any"]))
