"""Random sizes of blocks, and random numbers of videos."""

from xdualparal.plan.layout import Layout


def random_layout(numbers, blocks):
    """A Layout of ``blocks`` blocks of up to 4 latent frames, the last one whole or short. ``numbers``: a random.Random."""
    context = numbers.randint(0, 3)
    block = numbers.randint(max(1, context), 4)
    endless = Layout(block, context)
    return Layout(block, context, numbers.randint(endless.first_latent(blocks - 1) + 1, endless.first_latent(blocks)))


def random_expert_starts(numbers, steps):
    """The first steps of one, two or three experts; some may do none. ``numbers``: a random.Random."""
    return (0, *sorted(numbers.choices(range(steps + 1), k=numbers.randint(0, 2))))


def with_videos(numbers, plan):
    """``plan`` with 1 to 3 videos; in a third of the cases each is resumed from a wave of its own."""
    videos, resumed = numbers.randint(1, 3), numbers.random() < 1 / 3
    return plan.side_by_side([numbers.randrange(plan.num_waves) if resumed else 0 for _ in range(videos)])
