"""The shared noise pool.

Knows: how the noise of block after block is drawn. Must not know: blocks in flight, schedulers, processes.
"""

import hashlib
from itertools import count

import torch

from ..plan.layout import Layout
from ..limits import check_whole


def noise_blocks(layout, latent_shape, generator, fresh=0.0):
    """Yields the initial noise of the blocks of ``layout`` (plan.layout.Layout), without end where it has none; see
    ``initial_noise`` for the form.

    Paper section 3.3 and DESIGN section 2: the first B frames of the pool, which exclude the previous block's
    last C, are permuted behind the others, so every window's noise is a permutation of the same pool, and a short last
    block's a part of it. A video of one block is no long video: its noise is drawn as diffusers' pipeline draws it.

    ``fresh``: the share, 0 to 1, of the variance of each block's noise that is new. With 0, the paper's, the pool is only permuted:
    nothing new comes in. Else what is permuted is mixed with new noise, and the pool keeps it; with 1 blocks share nothing.
    """
    if layout.num_blocks == 1:
        yield _normal(layout.latent_frames, latent_shape, generator)
        return
    block_latents = layout.block_latents
    pool = _normal(layout.window_latents, latent_shape, generator)
    for block in count() if layout.num_blocks is None else range(layout.num_blocks):
        order = torch.randperm(block_latents, generator=generator)
        permuted = pool[:, :, order]
        if fresh and block:
            permuted = (1 - fresh) ** 0.5 * permuted + fresh**0.5 * _normal(block_latents, latent_shape, generator)
        pool = torch.cat([pool[:, :, block_latents:], permuted], dim=2)
        first = layout.context_latents if block else 0
        yield pool[:, :, first:first + layout.own_latents(block)].clone()


def last_noise(blocks, end, count):
    """Of the noise of ``blocks``, as ``noise_blocks`` yields it, that of the ``count`` latent frames before the frame ``end`` of the video, or of
    all before it where they are fewer; (1, channels, frames, height, width)."""
    tail = next(blocks)
    total = tail.shape[2]
    while total < end:
        noise = next(blocks)
        total += noise.shape[2]
        tail = torch.cat([tail[:, :, -count:], noise], dim=2)
    last = tail.shape[2] - (total - end)
    return tail[:, :, max(0, last - count):last].clone()


def whole_noise(layout, latent_shape, generator):
    """Yields the initial noise of the blocks of ``layout``, cut from what diffusers' pipeline draws for the whole video: the same
    for any number of blocks. Each frame's is independent of the others'."""
    whole = _normal(layout.latent_frames, latent_shape, generator)
    for block in range(layout.num_blocks):
        yield whole[:, :, layout.first_latent(block):layout.first_latent(block + 1)].clone()


def _normal(frames, latent_shape, generator):
    channels, height, width = latent_shape
    return torch.randn((1, channels, frames, height, width), generator=generator)


def initial_noise(num_blocks, block_latents, context_latents, latent_shape, generator, latent_frames=None):
    """The initial noise of ``num_blocks`` blocks.

    ``latent_shape``: (channels, height, width) of one latent frame. ``generator``: a CPU ``torch.Generator``.
    ``latent_frames``: of the video, where its last block is short; by default all blocks are whole.
    Returns a list of float32 CPU tensors (1, channels, frames, height, width) in block order, where frames is
    B + C for block 0, B for the others, and what is left for the last one. The same generator state gives the same noise
    on every rank. One block alone has what diffusers' pipeline draws from that generator. Raises ValueError for
    ``latent_frames`` that make another number of blocks.
    """
    check_whole("num_blocks", num_blocks, at_least=1)
    endless = Layout(block_latents, context_latents)
    least, most = endless.first_latent(num_blocks - 1) + 1, endless.first_latent(num_blocks)
    if latent_frames is not None and not least <= latent_frames <= most:
        raise ValueError(
            f"latent_frames is {latent_frames} and num_blocks is {num_blocks}: give {least} to {most}, or another num_blocks"
        )
    layout = Layout(block_latents, context_latents, most if latent_frames is None else latent_frames)
    return list(noise_blocks(layout, latent_shape, generator))


class StepNoise:
    """The generators of noise that is new in each pass: what stochastic schedulers add in a step, or what ``purpose`` says.

    Each block and step has a generator of its own, seeded with the SHA-256 of the state of the video's ``generator`` before
    anything is drawn from it, the purpose, the block and the step. So the noise is the same on every rank, for every number of stages and
    in a resumed run, and nothing is drawn from the user's generator. (diffusers' WanPipeline gives its scheduler no
    generator: there this noise is different each time.)
    """

    def __init__(self, generator, purpose=""):
        self._state, self._purpose = generator.get_state().numpy().tobytes(), purpose

    def generator(self, one):
        """The generator, on the CPU, of the noise of the pass ``one``'s step."""
        digest = hashlib.sha256(self._state + f"{self._purpose}block {one.block} step {one.step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)  # at most 2**63 - 1
