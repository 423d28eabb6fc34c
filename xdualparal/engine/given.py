"""Latent frames at a video's start that are given and not made: the last ones of a video that it continues, or an image.

Knows: what they are with each step's noise. Must not know: where they come from, or which passes see them.
"""

import torch


class GivenFrames:
    """The first latent frames of block 0, in place of which nothing is made.

    ``latents``: clean ones, (1, channels, frames, height, width), float32. ``noise``: what they were made of, or what block 0 begins with in their place, of
    that shape. ``sigmas``: the noise levels of the steps, 1 to 0, of which they have the ``share``, 0 to 1. All are this rank's part, on its device.

    Of noise they have none by default: the first new block alone decides how it goes on, and sees from its first step on from where. With as much noise as its own
    frames, as a flow model is trained to see them, the demo model's joins are seen: python examples/measure_continuing.py.
    """

    def __init__(self, latents, noise, sigmas, share):
        self._latents, self._noise = latents, noise
        self._sigmas = [*(share * sigma for sigma in sigmas), 0.0]  # behind the last step they are clean

    def at(self, step):
        """At ``step``: between clean ones and noise; clean behind the last, at which those stand that are given with their true timestep."""
        sigma = self._sigmas[step]
        return (1 - sigma) * self._latents + sigma * self._noise

    def in_window(self, window, steps):
        """``window``, block 0's latents, with these as they are at ``steps``, see PassSpec.steps."""
        return self._in_front(self.at(steps[0]), window)

    def in_block(self, latents):
        """The finished block 0's ``latents`` with these, clean."""
        return self._in_front(self._latents, latents)

    @staticmethod
    def _in_front(given, latents):
        return torch.cat([given, latents[:, :, given.shape[2]:]], dim=2)
