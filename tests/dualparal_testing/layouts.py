"""Random sizes of blocks."""

from xdualparal.plan.layout import Layout


def random_layout(numbers, blocks):
    """A Layout of ``blocks`` blocks of up to 4 latent frames, the last one whole or short. ``numbers``: a random.Random."""
    context = numbers.randint(0, 3)
    block = numbers.randint(max(1, context), 4)
    endless = Layout(block, context)
    return Layout(block, context, numbers.randint(endless.first_latent(blocks - 1) + 1, endless.first_latent(blocks)))


def random_first_steps(numbers, steps):
    """The first steps of one, two or three experts; some may do none. ``numbers``: a random.Random."""
    return (0, *sorted(numbers.choices(range(steps + 1), k=numbers.randint(0, 2))))
