"""The shared noise pool.

Knows: how the noise of block after block is drawn. Must not know: blocks in flight, schedulers, processes.
"""

from itertools import islice

import torch


def noise_blocks(block_latents, context_latents, latent_shape, generator):
    """Yields the initial noise of block 0, 1, 2, ... without end; see ``initial_noise`` for the form.

    Paper section 3.3 and DESIGN section 2: the first B frames of the pool, which exclude the previous block's
    last C, are permuted behind the others, so every window's noise is a permutation of the same pool.
    """
    channels, height, width = latent_shape
    frames = block_latents + context_latents
    pool = torch.randn((1, channels, frames, height, width), generator=generator)
    own = frames
    while True:
        order = torch.randperm(block_latents, generator=generator)
        pool = torch.cat([pool[:, :, block_latents:], pool[:, :, order]], dim=2)
        yield pool[:, :, frames - own:].clone()
        own = block_latents


def initial_noise(num_blocks, block_latents, context_latents, latent_shape, generator):
    """The initial noise of ``num_blocks`` blocks.

    ``latent_shape``: (channels, height, width) of one latent frame. ``generator``: a CPU ``torch.Generator``.
    Returns a list of float32 CPU tensors (1, channels, frames, height, width) in block order, where frames is
    B + C for block 0 and B for the others. The same generator state gives the same noise on every rank.
    """
    return list(islice(noise_blocks(block_latents, context_latents, latent_shape, generator), num_blocks))
