"""Noise in the latent frames of finished blocks that a window shows, as SkyReels-V2's ``addnoise_condition`` has it.

Knows: noise levels, and which frames of a window are finished. Must not know: where latents come from, or what a model makes of them.
"""

import torch

from ..models.schedulers import TRAINED_STEPS


class ContextNoise:
    """Brings finished frames, and those that are given and clean, to the noise level of ``timestep``, of 1000, with new noise in each pass.

    ``num_steps``: the step that stands for a finished frame in PassSpec.steps. ``step_noise``: a noise.StepNoise, which gives the same
    noise on every rank and in a resumed run. ``latent_shape``: (channels, height, width) of a whole latent frame, of which ``shard``
    (sharding.SpatialShard) takes this rank's part.
    """

    def __init__(self, timestep, num_steps, step_noise, latent_shape, shard):
        self._level, self._num_steps, self._step_noise = timestep / TRAINED_STEPS, num_steps, step_noise
        self._latent_shape, self._shard = latent_shape, shard

    def in_window(self, window, spec):
        """``window``, (1, channels, frames, height, width), of a PassSpec, with its finished frames, which come first, like this."""
        count = spec.steps.count(self._num_steps)
        if not count:
            return window
        before = spec.window[-1].one  # the own block's last pass
        noise = self.of(before._replace(step=before.step + 1), count).to(window.device)
        return torch.cat([(1 - self._level) * window[:, :, :count] + self._level * noise, window[:, :, count:]], dim=2)

    def of(self, one, count):
        """This rank's part of the noise of ``count`` frames in the pass ``one``, on the CPU."""
        channels, height, width = self._latent_shape
        return self._shard.take(torch.randn((1, channels, count, height, width), generator=self._step_noise.generator(one)))
