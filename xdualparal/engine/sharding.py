"""How a latent frame is cut over the ranks of a sequence parallel group.

Knows: tokens and the latents under them. Must not know: the transformer, attention, or processes.

Every latent frame is cut, not the sequence (DESIGN section 3), so "the first C latent frames" is an equal slice
on every rank. Patches do not overlap, and guidance and schedulers work number by number, so a rank needs the
latents under its own tokens only, from noise to the last step: they are gathered once a block, when it is finished.
"""

import torch


class SpatialShard:
    """One rank's part of every latent frame: tokens ``rank * n`` to ``(rank + 1) * n`` in row order.

    ``frame_size``: (height, width) of a latent frame. ``patch``: (rows, columns) of latents in a token. ``degree``:
    how many ranks. Raises ValueError when a frame's tokens cannot be split evenly.
    """

    def __init__(self, frame_size, patch, rank, degree):
        self._patch, self._degree = patch, degree
        self._rows, self._columns = (size // unit for size, unit in zip(frame_size, patch))
        check_even_split(self._rows * self._columns, degree)
        self.frame_tokens = self._rows * self._columns // degree
        self.tokens = slice(rank * self.frame_tokens, (rank + 1) * self.frame_tokens)

    @property
    def whole_grid(self):
        """(rows, columns) of a whole frame's tokens."""
        return self._rows, self._columns

    @property
    def grid(self):
        """(rows, columns) of this rank's tokens: they stand in one row when the frame is cut."""
        return self.whole_grid if self._degree == 1 else (1, self.frame_tokens)

    @property
    def latent_size(self):
        """(height, width) of this rank's latents of a frame, what ``take`` gives."""
        return tuple(count * unit for count, unit in zip(self.grid, self._patch))

    def take(self, latents):
        """This rank's latents of (1, channels, frames, height, width): its patches side by side."""
        if self._degree == 1:
            return latents
        high, wide = self._patch
        # rows and columns of patches: (..., rows, high, columns, wide) to (..., high, rows, columns, wide)
        patches = latents.unflatten(3, (self._rows, high)).unflatten(5, (self._columns, wide)).transpose(3, 4)
        return patches.flatten(4, 5)[..., self.tokens, :].flatten(4, 5).contiguous()

    def spread(self, part):
        """Whole latents, (1, channels, frames, height, width), with this rank's ``part`` in its place and zeros elsewhere."""
        if self._degree == 1:
            return part
        wide, before = self._patch[1], self.tokens.start
        after = self._rows * self._columns - self.tokens.stop
        return self.join(torch.nn.functional.pad(part, (before * wide, after * wide)))

    def join(self, parts):
        """The whole latents again, from all ranks' side by side: (1, channels, frames, high, tokens * wide)."""
        if self._degree == 1:
            return parts
        patches = parts.unflatten(4, (self._rows, self._columns, self._patch[1])).transpose(3, 4)
        return patches.flatten(5, 6).flatten(3, 4)


def check_even_split(frame_tokens, degree):
    """Raises ValueError, with the degrees that can, unless ``degree`` ranks can share ``frame_tokens`` evenly."""
    if frame_tokens % degree:
        able = [n for n in range(1, min(frame_tokens, 64) + 1) if frame_tokens % n == 0]
        raise ValueError(
            f"a latent frame has {frame_tokens} tokens, which {degree} ranks (ulysses x ring degree) cannot share "
            f"evenly: give a product of {', '.join(map(str, able))}"
        )


def check_heads(heads, ulysses_degree):
    """Raises ValueError, with the degrees that can, unless ``ulysses_degree`` ranks can share ``heads`` evenly."""
    if heads % ulysses_degree:
        able = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ValueError(
            f"--ulysses_degree is {ulysses_degree} and the model has {heads} attention heads, which it splits: give "
            f"{', '.join(map(str, able))}"
        )


def check_degrees(parallel):
    """Raises ValueError for degrees of ``parallel``, xDiT's ParallelConfig, that split what stages split already."""
    others = {"tensor_parallel_degree": parallel.tp_degree, "fully_shard_degree": parallel.fs_degree}
    for name, degree in others.items():
        if degree > 1:
            raise ValueError(
                f"{name} is {degree}: DualParal splits the weights over its stages already, give 1 and more stages"
            )
