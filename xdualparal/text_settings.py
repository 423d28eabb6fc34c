"""What a user chooses about the encoding of prompts.

Knows: the field and what it may be. Must not know: torch, or how a prompt is encoded.
"""

from dataclasses import dataclass

from .plan.settings import Settings, setting

DEVICE, CPU = "device", "cpu"


@dataclass(frozen=True)
class TextSettings(Settings):
    """Where prompts are encoded."""

    text_encoder: str = setting(
        DEVICE, "where prompts are encoded: on the 'device', while nothing else is on it, or on the 'cpu', which is slower and "
        "rounds otherwise"
    )

    def check(self):
        """Raises ValueError for another place."""
        if self.text_encoder not in (DEVICE, CPU):
            raise ValueError(f"text_encoder is {self.text_encoder!r}: give one of {DEVICE}, {CPU}")
