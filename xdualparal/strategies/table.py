"""The strategies by name, and what a user chooses among and about them.

Knows: which strategies there are. Must not know: a strategy's rules, tensors, launch flags.
"""

from dataclasses import dataclass, fields

from ..limits import how_given
from ..plan.partition import layer_ranges
from ..plan.settings import setting
from .chunks import Chunks, ChunksSettings
from .clips import ClipsSettings, VideoInfinity
from .dualparal import DualParal
from .dualparal_settings import DualParalSettings
from .fifo import Fifo, FifoSettings
from .full import Full, FullSettings

STRATEGIES = {strategy.name: strategy for strategy in (DualParal(), Chunks(), Full(), VideoInfinity(), Fifo())}


@dataclass(frozen=True)
class StrategySettings(FifoSettings, ClipsSettings, FullSettings, ChunksSettings, DualParalSettings):
    """The strategy, and the settings of all strategies: each is one's own, and refused where another one is chosen."""

    strategy: str = setting(
        DualParal.name, f"how the work on a long video is cut: {', '.join(STRATEGIES)}", "NAME"
    )

    def check(self):
        """Raises ValueError for an unknown strategy, and for a setting of another one."""
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}: give one of {', '.join(STRATEGIES)}")
        own = {field.name for field in fields(STRATEGIES[self.strategy].Settings)}
        for other in STRATEGIES.values():
            for field in fields(other.Settings):
                if field.name not in own and getattr(self, field.name) != field.default:
                    raise ValueError(
                        f"{field.name} {how_given(getattr(self, field.name))} and strategy is {self.strategy}, which has no {field.name}: "
                        f"leave it out, or choose {other.name}"
                    )


def strategy_of(settings):
    """The Strategy that ``settings`` (StrategySettings) choose."""
    return STRATEGIES[settings.strategy]


def lane_layers(settings, num_layers, lanes):
    """A range of layers for each lane. ``settings``: StrategySettings and plan.partition.PartitionSettings in one. Raises ValueError
    as plan.partition.layer_ranges does."""
    if strategy_of(settings).splits_layers:
        return layer_ranges(num_layers, settings, lanes)
    return [range(num_layers)] * lanes


def with_image(settings, plan, facts):
    """``plan`` of StrategySettings, of a video that begins with an image, for a model with these ``facts`` (models.base.Facts). Raises ValueError where that
    cannot be."""
    strategy = strategy_of(settings)
    if not strategy.takes_images:
        takers = " or ".join(name for name, other in STRATEGIES.items() if other.takes_images)
        raise ValueError(f"an image is given and strategy is {strategy.name}, which takes none: choose {takers}, or leave the image out")
    if not facts.clean_frames:
        return plan  # the image is beside the latents
    if settings.context_noise and not facts.frame_timesteps:
        raise ValueError(f"an image is given, which is clean in {facts.name}, and context_noise is {settings.context_noise}: leave one of them out")
    return plan.with_image()


def check_refused(settings, given):
    """Raises ValueError for a setting or launch option that the strategy refuses. ``given``: {name: value} of those that are given."""
    strategy = strategy_of(settings)
    for name, value in given.items():
        if name in strategy.refuses:
            raise ValueError(f"{name} {how_given(value)} and strategy is {strategy.name}: {strategy.refuses[name]}")
