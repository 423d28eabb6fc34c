"""The models that DualParal runs, in xDiT's registry.

Knows: xDiT's model classes and what DualParal changes in them. Must not know: launching.
"""

from dataclasses import replace
from pathlib import Path

import torch
from xfuser.model_executor.models.runner_models.base_model import (
    DefaultInputValues,
    DiffusionOutput,
    ModelSettings,
    register_model,
)
from xfuser.model_executor.models.runner_models.wan import xFuserWan21T2VModel
from xfuser.core.utils.runner_utils import log

from ..config import DualParalConfig
from ..pipeline import DualParalPipeline
from ..video import VideoWriter
from .weights import checkpoint_folder, load_wan_stage

TINY_WAN_FOLDER = Path(__file__).parent.parent / "assets" / "tiny-wan"


class DualParalWanModel(xFuserWan21T2VModel):
    """Wan2.1 text-to-video with DualParal: xDiT's model, split into stages and streamed to its mp4."""

    capabilities = replace(
        xFuserWan21T2VModel.capabilities,
        pipefusion_parallel_degree=True, ulysses_degree=False, ring_degree=False, data_parallel_degree=False,
        fully_shard_degree=False, use_parallel_vae=False, enable_tiling=False, enable_slicing=False,
        use_fp8_gemms=False, use_fp4_gemms=False, use_fp6_gemms=False, use_hybrid_attn_schedule=False,
        supports_sparge_attention_backends=False, supports_step_caching=False,
    )
    num_layers = 40
    dtype = torch.bfloat16
    dualparal_config = DualParalConfig()

    def checkpoint(self):
        """The folder or hub id of the weights."""
        return self.settings.model_name

    def _load_model(self):
        parallel = self.engine_config.parallel_config
        # xDiT numbers ranks in the order tp-sp-pp-cfg-dp (xfuser/core/distributed/parallel_state.py).
        stage = torch.distributed.get_rank() // parallel.sp_degree % parallel.pp_degree
        return load_wan_stage(checkpoint_folder(self.checkpoint()), stage, parallel.pp_degree, self.dtype)

    def _post_load_and_state_initialization(self, input_args):
        """Instead of xDiT's placement, which moves a whole pipeline to each device."""
        if input_args.get("flow_shift") is not None:
            self.pipe.scheduler = type(self.pipe.scheduler).from_config(
                self.pipe.scheduler.config, flow_shift=input_args["flow_shift"]
            )
        self.dualparal = DualParalPipeline(self.pipe, self.engine_config, self.dualparal_config)

    def _run_pipe(self, input_args):
        generator = torch.Generator().manual_seed(input_args["seed"])
        prompts = input_args["prompt"]
        prompts = prompts if isinstance(prompts, list) else [prompts]
        paths = [self._make_video(n, prompt, generator, input_args) for n, prompt in enumerate(prompts)]
        return DiffusionOutput(videos=paths, pipe_args=input_args) if self.dualparal.is_output_rank else None

    def _make_video(self, index, prompt, generator, input_args):
        names = ("height", "width", "num_frames", "negative_prompt", "num_inference_steps", "guidance_scale")
        options = {name: input_args[name] for name in names}
        if input_args.get("max_sequence_length"):
            options["max_sequence_length"] = input_args["max_sequence_length"]
        segments = self.dualparal.stream(prompt=prompt, generator=generator, **options)
        if not self.dualparal.is_output_rank:
            return list(segments)
        path = f"{self.config.output_directory}/{self.get_output_name(input_args)}_{index}.mp4"
        with VideoWriter(path, self.settings.fps) as writer:
            for segment in segments:
                writer.write(segment)
        return path

    def get_output_name(self, input_args):
        """xDiT's name with DualParal's degree."""
        return f"{super().get_output_name(input_args)}_dualparal{self.config.pipefusion_parallel_degree}"

    def save_output(self, output):
        """The frames are in the file already: they were written as they came."""
        for path in output.videos:
            log(f"Output video saved to {path}")


class Wan21T2VSmallModel(DualParalWanModel):
    """Wan2.1-T2V-1.3B, which xDiT does not register; its defaults are those of the model's own card."""

    num_layers = 30
    settings = replace(
        xFuserWan21T2VModel.settings, model_name="Wan-AI/Wan2.1-T2V-1.3B-Diffusers", output_name="wan2.1_t2v_1.3b"
    )
    default_input_values = replace(
        xFuserWan21T2VModel.default_input_values, height=480, width=832, num_inference_steps=50, guidance_scale=5.0,
        flow_shift=3,
    )


class TinyWanModel(DualParalWanModel):
    """The demo model in this package: 32 x 32 pixels, for a CPU. See examples/train_tiny_wan.py."""

    num_layers = 8
    dtype = torch.float32
    settings = ModelSettings(
        model_name="tiny-wan", output_name="tiny_wan", model_output_type="video", fps=16, mod_value=16
    )
    default_input_values = DefaultInputValues(
        height=32, width=32, num_frames=81, num_inference_steps=25, guidance_scale=4.0, negative_prompt=""
    )

    def checkpoint(self):
        """The folder in this package."""
        return TINY_WAN_FOLDER


DUALPARAL_MODELS = {
    "tiny-wan": TinyWanModel,
    "Wan2.1-T2V-1.3B": Wan21T2VSmallModel,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Wan21T2VSmallModel,
    "Wan2.1-T2V": DualParalWanModel,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": DualParalWanModel,
}
