"""The schedulers of models that are distilled for a few fixed steps.

Knows: diffusers' flow matching Euler scheduler. Must not know: models, blocks, stages, processes.
"""

import torch
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
        _check_count(self.config.steps, num_inference_steps)
        super().set_timesteps(sigmas=[step / self.config.num_train_timesteps for step in self.config.steps], device=device)


class RenoisedStepsScheduler(FlowMatchEulerDiscreteScheduler):
    """For weights that are distilled by distribution matching (DMD), as FastWan's: each step goes to the clean video and from there, with new noise, to
    the next noise level, which is what diffusers calls ``stochastic_sampling``.

    ``steps``: the timesteps, of 1000, that the model is given, the noisiest first. ``shift``: a step's noise level is the nearest of those that
    all training steps have with it, less than .0005 from a thousandth of the step. The values are FastVideo's for FastWan2.1 and FastWan2.2-TI2V-5B
    (fastvideo/configs/pipelines/wan.py, pipelines/stages/denoising.py, models/utils.py).
    """

    @register_to_config
    def __init__(self, num_train_timesteps=TRAINED_STEPS, steps=(1000, 757, 522), shift=8.0, stochastic_sampling=True):
        super().__init__(num_train_timesteps=num_train_timesteps, shift=shift, stochastic_sampling=stochastic_sampling)
        self._levels = self.sigmas[:num_train_timesteps].clone()

    def set_timesteps(self, num_inference_steps=None, device=None):
        """As FixedStepsScheduler's."""
        _check_count(self.config.steps, num_inference_steps)
        shares = torch.tensor([float(step) for step in self.config.steps]) / self.config.num_train_timesteps
        nearest = self._levels[(self._levels - shares[:, None]).abs().argmin(dim=1)]
        shift, self._shift = self._shift, 1.0  # the levels have it already
        super().set_timesteps(sigmas=nearest.tolist(), timesteps=[float(step) for step in self.config.steps], device=device)
        self._shift = shift


def _check_count(steps, wanted):
    if wanted not in (None, len(steps)):
        raise ValueError(f"the weights were distilled for the {len(steps)} steps {', '.join(map(str, steps))}, and not for {wanted}: give {len(steps)}")
