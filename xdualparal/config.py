"""What a user chooses about a run with DualParal, in one value.

Knows: whose settings there are. Must not know: torch, xDiT, or how anything is executed.
"""

from dataclasses import dataclass, fields

from .output.settings import CheckpointSettings, OutputSettings
from .plan.partition import PartitionSettings
from .plan.videos import VideosSettings
from .plan.waiting import WaitingSettings
from .strategies.table import StrategySettings, check_refused
from .text_settings import TextSettings


@dataclass(frozen=True)
class DualParalConfig(TextSettings, CheckpointSettings, OutputSettings, WaitingSettings, VideosSettings, PartitionSettings, StrategySettings):
    """The settings of a run, each declared and checked by its owner: the method (strategies/table.py), the partition of
    layers (plan/partition.py), videos side by side (plan/videos.py), what waits (plan/waiting.py), the output and the checkpoint (output/settings.py), the
    text encoder (text_settings.py). Every field is also a launch flag, ``--dualparal_<field>``.

    Raises ValueError when a field is outside its limits.
    """

    def check(self):
        """Raises ValueError for a setting that the strategy refuses."""
        StrategySettings.check(self)  # there is such a strategy
        check_refused(self, {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default})
