"""Every private or undocumented name of torch, diffusers and xfuser that this package relies on, in one list.

A new release of one of them that renames or reshapes such a name fails here, with the folder that uses it and the reason.
What the names do is tested where they are used; the releases are those of tests/constraints.txt.
"""

import importlib
import inspect
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)

import xdualparal
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

PACKAGE = Path(xdualparal.__file__).parent


class Name(NamedTuple):
    """``place``: module:attribute. ``used_in``: our folder or module on the top floor. ``parameters``: those that we pass or
    override, in order."""

    place: str
    used_in: str
    why: str
    parameters: str = ""


BASE_MODEL = "xfuser.model_executor.models.runner_models.base_model"
CACHE, GROUPS = "xfuser.core.cache_manager.cache_manager", "xfuser.core.distributed"
NAMES = [
    # torch
    Name("torch.ops.aten:_scaled_dot_product_flash_attention_for_cpu", "compat", "the CPU kernel that returns the log-sum-exp"),
    Name("torch.distributed.distributed_c10d:_get_default_store", "pipeline", "the store of the world; nothing public gives it", " "),
    Name("torch.distributed:DistNetworkError", "engine", "what a store raises when its server is gone"),
    Name("torch.nn:Module._apply", "engine", "what moves and casts a module's parts; blocks of swapped experts stay", "self fn recurse"),
    Name("torch.compiler:disable", "models", "keeps USP out of what is compiled"),
    # diffusers
    Name("diffusers:WanTransformer3DModel._keep_in_fp32_modules", "models", "the parts that stay in float32 when one stage is loaded"),
    Name("diffusers:SkyReelsV2Transformer3DModel._keep_in_fp32_modules", "models", "the parts that stay in float32 when one stage is loaded"),
    Name("diffusers:SkyReelsV2DiffusionForcingPipeline.check_inputs", "models", "refuses what the pipeline refuses",
         "self prompt negative_prompt height width prompt_embeds negative_prompt_embeds num_frames base_num_frames"),
    Name("diffusers:AutoencoderKLWan.clear_cache", "models", "the VAE forgets the video before", "self"),
    Name("diffusers:AutoencoderKLWan.blend_v", "models", "tiles, as tiled_decode joins them", "self a b blend_extent"),
    Name("diffusers:AutoencoderKLWan.blend_h", "models", "tiles, as tiled_decode joins them", "self a b blend_extent"),
    Name("diffusers.models.autoencoders.autoencoder_kl_wan:unpatchify", "models", "Wan2.2's VAE decodes patches", "x patch_size"),
    Name("diffusers.models.embeddings:get_1d_rotary_pos_embed", "models", "positions past the model's table",
         "dim pos use_real repeat_interleave_real freqs_dtype"),
    Name("diffusers:WanPipeline.check_inputs", "request", "refuses what the pipeline refuses", "self prompt negative_prompt height width"),
    Name("diffusers:WanPipeline.encode_prompt", "texts", "the prompt's embeddings on the first rank",
         "self prompt negative_prompt do_classifier_free_guidance num_videos_per_prompt prompt_embeds negative_prompt_embeds "
         "max_sequence_length device"),
    Name("diffusers.pipelines.wan.pipeline_output:WanPipelineOutput", "pipeline", "what the pipeline returns"),
    # xfuser: the host platform
    Name("xfuser.envs:_is_cuda", "compat", "a CUDA build of torch without a device is a CPU", " "),
    Name("xfuser.envs:_is_hip", "compat", "a ROCm build of torch without a device is a CPU", " "),
    Name("xfuser.envs:get_device_version", "compat", "raises without an accelerator", " "),
    Name("xfuser.envs:get_torch_distributed_backend", "compat", "raises without an accelerator", " "),
    Name("xfuser.envs:PACKAGES_CHECKER.packages_info", "compat", "says whether yunchang is there"),
    Name("xfuser.model_executor.layers.usp:PROCESS_GROUP", "compat", "yunchang's groups, None without an accelerator"),
    Name(GROUPS + ".attention_backend:ATTENTION_FUNCTION_REGISTRY", "compat", "SDPA_FLASH for the CPU goes in here"),
    Name(GROUPS + ".attention_backend:AttentionBackendType.SDPA_FLASH", "compat", "the key of it"),
    Name("xfuser.runner:torch", "compat", "the runner's torch.cuda is replaced without a device"),
    Name(BASE_MODEL + ":torch", "compat", "the models' torch.cuda is replaced without a device"),
    # xfuser: the cache manager
    Name(CACHE + ":get_cache_manager", "engine", "the manager that USP asks", " "),
    Name(CACHE + ":CacheManager.supported_cache_type", "compat", "the built-in types, whose names are taken"),
    Name(CACHE + ":CacheManager.register_cache_entry", "compat", "extended for registered types", "self layer layer_type cache_type"),
    Name(CACHE + ":CacheManager.update_and_get_kv_cache", "compat", "extended for registered types",
         "self new_kv layer slice_dim layer_type custom_get_kv kwargs"),
    Name(CACHE + ":CacheEntry", "compat", "a layer's entry, with its cache_type", "cache_type"),
    Name("xfuser.model_executor.layers.usp:USP", "models", "asks the cache manager where attn_layer is given", "query key value attn_layer"),
    Name("xfuser.model_executor.models.transformers.transformer_wan:xFuserWanAttnProcessor", "models",
         "Wan's attention through USP", "use_ulysses_parallel_attention is_cross_attention"),
    # xfuser: groups
    Name(GROUPS + ":init_distributed_environment", "engine", "xDiT's world group, where the caller started torch.distributed"),
    Name(GROUPS + ":initialize_runtime_state", "engine", "xDiT's groups", "pipeline engine_config"),
    Name(GROUPS + ".runtime_state:runtime_state_is_initialized", "engine", "whether the groups are there", " "),
    Name(GROUPS + ":get_model_replica_group", "engine", "a replica's ranks", " "),
    Name(GROUPS + ":get_ulysses_parallel_world_size", "engine", "stretches of tokens after the exchange", " "),
    Name(GROUPS + ".utils:RankGenerator", "engine", "the global ranks of every group", "tp sp pp cfg dp fs order"),
    Name(GROUPS + ".utils:RankGenerator.get_ranks", "engine", "the global ranks of every group", "self token"),
    Name(GROUPS + ".group_coordinator:GroupCoordinator.all_gather", "engine", "joins shards and branches", "self input_ dim"),
    # xfuser: the runner
    Name("xfuser.logger:_default_handler", "xdit", "all of xfuser's loggers print with it, to stdout"),
    Name("xfuser:xFuserArgs.add_runner_args", "xdit", "every flag of xdit", "parser"),
    Name("xfuser:xFuserArgs.from_runner_args", "xdit", "flags to xDiT's configuration", "args"),
    Name("xfuser.runner:xFuserModelRunner._select_model", "xdit", "chooses the model's class", "self model_name config"),
    Name(BASE_MODEL + ":xFuserModel._customize_settings", "xdit", "the attention backend for ring on a CPU", "self config"),
    Name(BASE_MODEL + ":xFuserModel._load_model", "xdit", "loads one stage", "self"),
    Name(BASE_MODEL + ":xFuserModel._post_load_and_state_initialization", "xdit", "in place of xDiT's placement", "self input_args"),
    Name(BASE_MODEL + ":xFuserModel._compile_model", "xdit", "compiles the stage", "self input_args"),
    Name(BASE_MODEL + ":xFuserModel._get_compile_mode", "xdit", "xDiT's options of torch.compile", "self"),
    Name(BASE_MODEL + ":xFuserModel._run_pipe", "xdit", "makes the videos", "self input_args"),
    Name(BASE_MODEL + ":xFuserModel._gather_dp_outputs", "xdit", "waits for all replicas, and says what was not begun", "self output"),
    Name(BASE_MODEL + ":xFuserModel.preprocess_args", "xdit", "numbers the prompts", "self input_args"),
    Name(BASE_MODEL + ":xFuserModel.save_output", "xdit", "the file is there already", "self output"),
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.place)
def test_it_is_there_and_takes_what_we_give(name):
    found = found_at(name.place)
    if name.parameters:
        taken = list(inspect.signature(found).parameters)
        wanted = name.parameters.split()
        assert [one for one in taken if one in wanted] == wanted, f"{name.used_in} needs it: {name.why}"
        if name.parameters == " ":
            needed = [p.name for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
            assert needed == [], f"{name.used_in} calls it without arguments"


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.place)
def test_the_list_says_who_uses_it(name):
    """Else correct the list: a name that is used no longer goes."""
    files = [PACKAGE / f"{name.used_in}.py"] if (PACKAGE / f"{name.used_in}.py").exists() else (PACKAGE / name.used_in).glob("*.py")
    last = name.place.replace(":", ".").split(".")[-1]
    assert any(last in file.read_text() for file in files)


def found_at(place):
    """What ``place``, module:attribute.attribute, names."""
    module, attributes = place.split(":")
    found = torch.ops.aten if module == "torch.ops.aten" else importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


# What is there only on an object, or is no name.

def of_demo(kind, folder):
    """A ``kind`` with the demo model's sizes."""
    return kind.from_config(kind.load_config(TINY_WAN_FOLDER / folder))


def missing(thing, names):
    """Those of ``names`` that ``thing`` has not."""
    return [name for name in names.split() if not hasattr(thing, name)]


def test_the_vae():
    """models/wan_vae.py decodes block by block as AutoencoderKLWan._decode does at once."""
    vae = of_demo(AutoencoderKLWan, "vae")
    vae.clear_cache()  # it counts the convolutions
    assert missing(vae, "_conv_num post_quant_conv spatial_compression_ratio use_tiling tile_sample_min_height tile_sample_min_width "
                        "tile_sample_stride_height tile_sample_stride_width") == []
    assert missing(vae.config, "patch_size latents_mean latents_std scale_factor_spatial") == []
    parameters = list(inspect.signature(vae.decoder.forward).parameters)
    assert parameters[:4] == ["x", "feat_cache", "feat_idx", "first_chunk"]
    assert any(name.endswith("time_conv") for name, _ in vae.decoder.named_modules())


def test_where_a_tensor_is_in_a_file_of_torch(tmp_path):
    """models/tensors.py takes it from storages on the meta device."""
    torch.save(dict(first=torch.zeros(5), second=torch.arange(7)), tmp_path / "file.bin")
    tensor = torch.load(tmp_path / "file.bin", map_location="meta", weights_only=True, mmap=True)["second"]
    start = tensor.untyped_storage()._checkpoint_offset
    assert (tmp_path / "file.bin").read_bytes()[start:start + 56] == torch.arange(7).numpy().tobytes()


def test_when_the_vae_cuts_into_tiles():
    """By its sizes in latents, in one dimension or both; else the video goes through in one piece, one latent frame at a time."""
    vae = of_demo(AutoencoderKLWan, "vae").eval()
    asked = []
    vae.tiled_decode = lambda latents, return_dict: asked.append(tuple(latents.shape[-2:]))
    vae.enable_tiling(tile_sample_min_height=16, tile_sample_min_width=16, tile_sample_stride_height=8, tile_sample_stride_width=8)
    least = 16 // vae.spatial_compression_ratio
    with torch.no_grad():
        for height, width in ((least, least), (least + 1, least), (least, least + 1)):
            vae._decode(torch.zeros(1, vae.config.z_dim, 1, height, width))
    assert asked == [(least + 1, least), (least, least + 1)]


def test_the_transformer():
    """models/wan.py goes through it part by part."""
    transformer = of_demo(WanTransformer3DModel, "transformer")
    assert missing(transformer, "blocks patch_embedding condition_embedder rope scale_shift_table norm_out proj_out") == []
    assert missing(transformer.condition_embedder, "time_embedder time_proj text_embedder") == []
    assert missing(transformer.rope, "t_dim h_dim w_dim") == []
    assert missing(transformer.config, "num_layers num_attention_heads attention_head_dim patch_size in_channels text_dim") == []
    block = transformer.blocks[0]
    assert missing(block.attn1, "processor to_q to_k to_v norm_k fused_projections") == []
    assert missing(block.attn2, "processor to_q to_k to_v norm_k fused_projections") == []
    parameters = list(inspect.signature(block.forward).parameters)
    assert parameters[:4] == ["hidden_states", "encoder_hidden_states", "temb", "rotary_emb"]


def test_the_transformer_of_skyreels():
    """models/skyreels.py takes for granted what it has as Wan's, and the embedding of the frames a second."""
    sizes = dict(num_attention_heads=1, attention_head_dim=12, ffn_dim=8, num_layers=1, text_dim=8, freq_dim=8)
    transformer = SkyReelsV2Transformer3DModel(**sizes, inject_sample_info=True)
    assert missing(transformer, "patch_embedding condition_embedder rope scale_shift_table norm_out proj_out fps_embedding fps_projection") == []
    assert missing(transformer.condition_embedder, "time_embedder time_proj text_embedder") == []
    assert missing(transformer.rope, "t_dim h_dim w_dim") == [] and missing(transformer.config, "inject_sample_info num_frame_per_block") == []
    block = transformer.blocks[0]
    for attention in (block.attn1, block.attn2):
        assert missing(attention, "processor to_q to_k to_v norm_q norm_k fused_projections cross_attention_dim_head add_k_proj") == []
    parameters = list(inspect.signature(block.forward).parameters)
    assert parameters == ["hidden_states", "encoder_hidden_states", "temb", "rotary_emb", "attention_mask"]


@pytest.mark.parametrize("kind, remembers", [
    (UniPCMultistepScheduler, {"model_outputs", "timestep_list", "lower_order_nums", "last_sample", "_step_index", "_begin_index"}),
    (DPMSolverMultistepScheduler, {"model_outputs", "lower_order_nums", "_step_index", "_begin_index"}),
    (FlowMatchEulerDiscreteScheduler, {"_step_index", "_begin_index"}),
])
def test_what_a_scheduler_remembers(kind, remembers):
    """A checkpoint saves these attributes of each block's scheduler: plain values, and tensors as large as its latents."""
    scheduler = kind.from_config(kind.load_config(TINY_WAN_FOLDER / "scheduler"))
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    latents = torch.ones(1, 2, 3, 4, 4)
    for timestep in scheduler.timesteps[:2]:
        latents = scheduler.step(latents, timestep, latents, return_dict=False)[0]
    assert remembers <= set(vars(scheduler))
    kinds = {name: type(vars(scheduler)[name]) for name in remembers}
    assert set(kinds.values()) <= {int, list, torch.Tensor}, kinds
    tables = {name for name, value in vars(scheduler).items() if isinstance(value, torch.Tensor) and value.dim() == 5}
    assert tables <= remembers


def test_ring_attention_gathers_once():
    """plan/traffic.py and plan/memory.py: torch's default, and xDiT does not choose another way."""
    import xfuser.model_executor.layers.usp as usp
    from torch.distributed.tensor.experimental._context_parallel._attention import _cp_options, _RotateMethod

    assert _cp_options.rotate_method == _RotateMethod.ALL_GATHER and "rotate_method" not in inspect.getsource(usp)
