"""The latents of the blocks in flight.

Knows: which latents a window is made of, each block's scheduler state, and when a block can be dropped.
Must not know: the transformer, other stages, or how latents travel.
"""

import torch


class WindowStore:
    """The first stage's copy of the latents: it makes the windows.

    ``plan``: a schedule.Plan. ``noise``: yields the initial latents, (1, channels, frames, height, width), of the blocks
    that start from now on. ``standing``: {(block, step): latents}, what Plan.standing names where a run is resumed.
    """

    def __init__(self, config, plan, noise, device, standing=()):
        self.config, self.plan, self.device = config, plan, device
        self._noise = noise
        self._latents = {}
        self._steps_done = {}
        for (block, step), latents in dict(standing).items():
            self.update(block, step, latents.to(device))

    def update(self, block, step, latents):
        """Block ``block``'s own latents after ``step``: B + C frames for block 0, B for the others."""
        self._latents[block], self._steps_done[block] = latents, step + 1

    def has(self, block, step):
        """Whether the latents of ``block`` are here as they stand after ``step``."""
        return self._steps_done.get(block) == step + 1

    def window(self, block, step):
        """The window of pass (block, step), (1, channels, B + C, height, width): block 0's own latents, or the
        previous block's last C as they stand at the start of the wave and the block's own."""
        if step == 0:
            self.update(block, -1, next(self._noise).to(self.device))
        own = self._after(block, step - 1)
        if block == 0:
            return own
        previous = self._after(block - 1, self.plan.previous_step(step))
        if step == self.plan.num_steps - 1:
            del self._latents[block - 1], self._steps_done[block - 1]
        return torch.cat([previous[:, :, previous.shape[2] - self.config.context_latents:], own], dim=2)

    def _after(self, block, step):
        assert self.has(block, step), f"block {block} is after step {self._steps_done[block] - 1}, not {step}"
        return self._latents[block]


class DenoiseStore:
    """The last stage's copy of the latents, with each block's own scheduler: it takes the steps.

    ``make_scheduler``: returns a fresh scheduler with its timesteps set (UniPC and DPM++ keep history, so
    every block needs its own). ``noise``: as for WindowStore. ``in_flight``: what ``state`` gave, where a run is resumed.
    """

    def __init__(self, make_scheduler, timesteps, noise, device, in_flight=()):
        self.timesteps, self.device = timesteps, device
        self._make_scheduler, self._noise = make_scheduler, noise
        self._latents = {}
        self._schedulers = {}
        for block, (latents, remembered) in dict(in_flight).items():
            self._latents[block] = latents.to(device)
            self._schedulers[block] = scheduler = make_scheduler()
            vars(scheduler).update(map_tensors(remembered, lambda tensor: tensor.to(device)))

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

    def state(self):
        """{block: (latents, what its scheduler remembers)} of the blocks in flight, as plain values and tensors."""
        return {block: (latents, _remembered(self._schedulers[block])) for block, latents in self._latents.items()}


def _remembered(scheduler):
    """What a diffusers scheduler knows of its block's past; its tables and configuration any fresh one has."""
    return {name: value for name, value in vars(scheduler).items() if isinstance(value, _PLAIN) or _is_latents(value)}


_PLAIN = (type(None), bool, int, float, str, list, tuple)


def _is_latents(value):
    return isinstance(value, torch.Tensor) and value.dim() == 5


def map_tensors(value, function):
    """``value``, made of dicts, lists, tuples and plain values, with ``function`` applied to every tensor in it."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: map_tensors(one, function) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(one, function) for one in value)
    return value


def apply_guidance(prediction, scale):
    """Classifier-free guidance over the branches of a prediction, (branches, channels, frames, height, width).

    Branch 0 follows the prompt, branch 1, where there is one, the negative prompt; returns one branch.
    """
    if prediction.shape[0] == 1:
        return prediction
    conditional, unconditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)
