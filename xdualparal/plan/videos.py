"""How many videos share the pipeline.

Knows: the number and its limits. Must not know: which videos, or how they share it.
"""

from dataclasses import dataclass

from ..limits import VIDEOS
from .settings import Settings, setting


@dataclass(frozen=True)
class VideosSettings(Settings):
    """What a user chooses about several videos."""

    videos_in_flight: int = setting(
        1, "videos of several prompts that share the stages: where blocks in flight are fewer than stages (few steps), stages wait "
        "less; each needs memory of its own"
    )

    def check(self):
        """Raises ValueError for a number of videos outside its limits."""
        VIDEOS.of("videos_in_flight", self.videos_in_flight)
