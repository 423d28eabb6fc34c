"""Wan2.2 text-to-video with two experts (A14B).

Knows: which steps which expert does. Must not know: stages' processes, schedules, files.
Facts are from diffusers 0.42.1, pipelines/wan/pipeline_wan.py, and DESIGN section 3.
"""

from dataclasses import replace

from .schedulers import TRAINED_STEPS
from .wan import WanFamily


class Wan22Family(WanFamily):
    """Two transformers of the same shape: the first one does the steps whose timestep is at or above the boundary, the noisy
    ones, the second one those below."""

    facts = replace(
        WanFamily.facts, name="Wan2.2 text-to-video, two experts", example="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        experts=("transformer", "transformer_2"),
    )

    @staticmethod
    def expert_starts(pipeline, timesteps):
        """The boundary is a share of the timesteps that the model was trained on (``boundary_ratio`` of the pipeline)."""
        trained = pipeline.scheduler.config.get("num_train_timesteps", TRAINED_STEPS)
        boundary = pipeline.config.boundary_ratio * trained
        return 0, sum(1 for timestep in timesteps if timestep >= boundary)
