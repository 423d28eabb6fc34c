"""What a strategy must tell: which passes a long video is made of.

Knows: nothing but the names. Must not know: tensors, or any strategy.
"""

from dataclasses import fields
from typing import Any, NamedTuple, Protocol

from ..plan.schedule import PipelinePlan


class Lanes(NamedTuple):
    """Where a plan runs. ``stages``: how many. ``decode``: the place of decoding (plan.schedule). ``split_guidance``: whether
    both guidance branches are computed by the same stages, which may split them. ``swaps_experts``: whether a stage has one
    expert at a time on its device."""

    stages: int
    decode: str
    split_guidance: bool
    swaps_experts: bool = False


class Strategy(Protocol):
    """``name``: for users. ``Settings``: the plan.settings.Settings of what a user chooses; launch flags follow from it.
    ``window_settings``: names of those that a pass sees fewer latent frames with when they are lower. ``splits_layers``: whether each
    lane has its share of the layers, or all. ``merges_attention``: whether attention over several sets of keys is merged, for which
    a backend must give the log-sum-exp. ``between_blocks``: names of settings, its own or others', that do nothing in a video of one block. ``predicts_memory``: whether plan/memory.py knows its runs. ``refuses``: {name of another owner's setting, or of a
    launch option: why it cannot be given with this strategy, and what to do}."""

    name: str
    Settings: type
    window_settings: tuple[str, ...]
    splits_layers: bool
    merges_attention: bool
    between_blocks: tuple[str, ...]
    predicts_memory: bool
    refuses: dict[str, str]

    def settled(self, settings: Any, lanes: int, facts: Any = None) -> Any:
        """``settings`` with what follows from the number of lanes and, unless it is None, from the model's ``facts`` (models.base.Facts).
        Raises ValueError for settings that do not suit."""

    def plan(
        self, settings: Any, latent_frames: int | None, num_steps: int, lanes: Lanes, expert_starts: tuple[int, ...] = (0,)
    ) -> PipelinePlan:
        """The plan of a video of ``latent_frames`` (None: endless) in ``num_steps`` denoising steps, of which each expert does
        those from one of ``expert_starts`` on. Raises ValueError for settings that do not suit."""

    def layout(self, settings: Any, latent_frames: int | None) -> Any:
        """The plan's plan.layout.Layout."""

    def continued_latents(self, settings: Any, available: int) -> int:
        """How many of ``available`` last latent frames of another video, at least 1, a video that continues it begins with. Raises
        ValueError where that cannot be."""

    def identity(self, settings: Any) -> dict:
        """The fields of a RunSpec that the settings decide."""


class Common:
    """What is common to all strategies."""

    between_blocks = ()

    def identity(self, settings):
        """The strategy's name and settings."""
        return dict(strategy=self.name, **{field.name: getattr(settings, field.name) for field in fields(self.Settings)})

    def continued_latents(self, settings, available):
        """Raises ValueError: there is no block that sees another video's frames as a block before it."""
        raise ValueError(f"a video is to be continued and strategy is {self.name}, which cannot: choose dualparal")


class OnStages(Common):
    """What is common to strategies whose lanes are stages of a pipeline, each with its share of the layers."""

    splits_layers, merges_attention, predicts_memory, refuses = True, False, True, {}

    def settled(self, settings, lanes, facts=None):
        """As they are."""
        return settings


class OnWholeModels(Common):
    """What is common to strategies whose lanes have all layers each."""

    splits_layers, predicts_memory = False, False
    refuses = {
        "stage_layers": "every process has all layers: leave it out",
        "end_costs": "every process has all layers: leave it out",
        "expert_offload": "no process has fewer layers to move: leave it out, or choose dualparal",
    }
