"""Where what waits for a later pass is kept.

Knows: the places, and how much waits. Must not know: what waits there, or how it is moved.
"""

from dataclasses import dataclass

from .settings import Settings, setting

DEVICE, HOST = "device", "host"
MODEL, FLOAT8 = "model", "float8"  # numbers that K/V wait in
AHEAD = 2  # layers whose K/V are on their way to the device while one computes


def most_kept(num_steps, num_blocks, stagger):
    """Of how many passes of a video the cached context waits, at most at a time: those of ``stagger`` waves (DESIGN section 2).
    ``num_blocks``: None for a video without end."""
    return num_steps if num_blocks is None else min(num_steps, (num_blocks - 1) * stagger)


@dataclass(frozen=True)
class WaitingSettings(Settings):
    """What a user chooses about memory for what waits; it changes no result."""

    context_store: str = setting(
        DEVICE, "where cached keys and values wait: on the 'device', or in the host's memory ('host'), from where they come layer by layer "
        "while others compute"
    )

    def check(self):
        """Raises ValueError for another place."""
        if self.context_store not in (DEVICE, HOST):
            raise ValueError(f"context_store is {self.context_store!r}: give one of {DEVICE}, {HOST}")
