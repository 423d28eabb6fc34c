"""The latents of the blocks in flight.

Knows: which latents a window is made of, each block's scheduler state, and when a block can be dropped.
Must not know: the transformer, other stages, or how latents travel.
"""

import torch


class WindowStore:
    """The first stage's copy of the latents: it makes the windows.

    ``noise``: yields block 0's, 1's, ... initial latents, (1, channels, frames, height, width).
    """

    def __init__(self, config, num_steps, noise, device):
        self.config, self.num_steps, self.device = config, num_steps, device
        self._noise = noise
        self._latents = {}
        self._steps_done = {}

    def update(self, block, step, latents):
        """Block ``block``'s own latents after ``step``: B + C frames for block 0, B for the others."""
        self._latents[block], self._steps_done[block] = latents, step + 1

    def has(self, block, step):
        """Whether the latents of ``block`` are here as they stand after ``step``."""
        return self._steps_done.get(block) == step + 1

    def window(self, block, step):
        """The window of pass (block, step), (1, channels, B + C, height, width): block 0's own latents, or the
        previous block's last C as they stand after this same step and the block's own before it."""
        if step == 0:
            self.update(block, -1, next(self._noise).to(self.device))
        own = self._after(block, step - 1)
        if block == 0:
            return own
        previous = self._after(block - 1, step)
        if step == self.num_steps - 1:
            del self._latents[block - 1], self._steps_done[block - 1]
        return torch.cat([previous[:, :, previous.shape[2] - self.config.context_latents:], own], dim=2)

    def _after(self, block, step):
        assert self.has(block, step), f"block {block} is after step {self._steps_done[block] - 1}, not {step}"
        return self._latents[block]


class DenoiseStore:
    """The last stage's copy of the latents, with each block's own scheduler: it takes the steps.

    ``make_scheduler``: returns a fresh scheduler with its timesteps set (UniPC and DPM++ keep history, so
    every block needs its own). ``noise``: as for WindowStore.
    """

    def __init__(self, make_scheduler, timesteps, noise, device):
        self.timesteps, self.device = timesteps, device
        self._make_scheduler, self._noise = make_scheduler, noise
        self._latents = {}
        self._schedulers = {}

    def advance(self, block, step, prediction):
        """The own latents of ``block`` after ``step``, float32, and remembers them until the last step.

        ``prediction``: (1, channels, own frames, height, width), guidance already applied.
        """
        if step == 0:
            self._latents[block] = next(self._noise).to(self.device)
            self._schedulers[block] = self._make_scheduler()
        latents, scheduler = self._latents.pop(block), self._schedulers.pop(block)
        latents = scheduler.step(prediction, self.timesteps[step], latents, return_dict=False)[0]
        if step < len(self.timesteps) - 1:
            self._latents[block], self._schedulers[block] = latents, scheduler
        return latents


def apply_guidance(prediction, scale):
    """Classifier-free guidance over the branches of a prediction, (branches, channels, frames, height, width).

    Branch 0 follows the prompt, branch 1, where there is one, the negative prompt; returns one branch.
    """
    if prediction.shape[0] == 1:
        return prediction
    conditional, unconditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)
