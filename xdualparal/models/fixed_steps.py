"""The scheduler of models that are distilled for a few fixed steps.

Knows: diffusers' flow matching Euler scheduler. Must not know: models, blocks, stages, processes.
"""

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.configuration_utils import register_to_config

from .schedulers import TRAINED_STEPS


class FixedStepsScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method at the noise levels that weights were distilled for, and no others.

    ``steps``: the training steps, of 1000, that the model was distilled at, the noisiest first; ``shift``: moves them as
    ``flow_shift`` does. The values are LightX2V's for Wan2.2 (configs/wan22/wan_moe_t2v_distill.json) and those of xDiT's
    Wan2.2-Distilled-I2V: noise levels of 1, 0.9375, 0.8333 and 0.625.
    """

    @register_to_config
    def __init__(self, num_train_timesteps=TRAINED_STEPS, steps=(1000, 750, 500, 250), shift=5.0):
        super().__init__(num_train_timesteps=num_train_timesteps, shift=shift)

    def set_timesteps(self, num_inference_steps=None, device=None):
        """Sets the timesteps on ``device``. Raises ValueError where ``num_inference_steps`` is another number than that of the
        steps."""
        steps = self.config.steps
        if num_inference_steps not in (None, len(steps)):
            raise ValueError(
                f"the weights were distilled for the {len(steps)} steps {', '.join(map(str, steps))}, and not for {num_inference_steps}: give {len(steps)}"
            )
        super().set_timesteps(sigmas=[step / self.config.num_train_timesteps for step in steps], device=device)
