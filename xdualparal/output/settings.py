"""What a user chooses about what is made of the latents, and about what is saved.

Knows: the fields and their limits. Must not know: how anything is decoded or written.
"""

from dataclasses import dataclass
from pathlib import Path

from ..plan.schedule import AT_END, INLINE, THREAD
from ..limits import GIGABYTES, WAVES
from ..plan.settings import Settings, setting
from .files import check_apart

PLACES = (THREAD, INLINE, AT_END)
VAE_PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class OutputSettings(Settings):
    """Where blocks are decoded, and what is written beside the frames."""

    decode: str = setting(
        THREAD, "where finished blocks are decoded: 'thread' beside the last stage's passes, 'inline' between them, "
        "'end' when all blocks are finished"
    )
    vae_precision: str | None = setting(
        None, "numbers that the VAE computes with: float32 (as loaded), bfloat16 or float16, in half the memory", "P"
    )
    latents_out: str | None = setting(
        None, "also write the finished latents to this file, block by block; xdit-dualparal decode FILE makes the video "
        "of them"
    )
    trace: str | None = setting(
        None, "write what every stage did and when to this file, in Chrome's trace format (chrome://tracing)"
    )

    overwrite: bool = setting(False, "replace files of other runs that have the names of this one's")

    def check(self):
        """Raises ValueError for an unknown place or precision, what is no file's name, and one file for two things."""
        if self.decode not in PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(PLACES)}")
        if self.vae_precision not in (None, *VAE_PRECISIONS):
            raise ValueError(f"vae_precision is {self.vae_precision!r}: give one of {', '.join(VAE_PRECISIONS)}")
        if not isinstance(self.overwrite, bool):
            raise ValueError(f"overwrite is {self.overwrite!r}: give True or False")
        named = [(name, getattr(self, name)) for name in ("latents_out", "trace") if getattr(self, name) is not None]
        for name, path in named:
            check_is_path(name, path)
            if str(path).endswith("/") or Path(path).name in ("", ".."):
                raise ValueError(f"{name} is {str(path)!r}, a folder: give a file's name")
        check_apart(named)


@dataclass(frozen=True)
class CheckpointSettings(Settings):
    """Where and how often the state of a run is saved."""

    checkpoint: str | None = setting(
        None, "save the state of the run in this folder; the same command again resumes from there"
    )
    checkpoint_waves: int = setting(10, "waves from one checkpoint to the next")
    checkpoint_context_gb: float = setting(
        8.0, "the most cached context, in GB, that is saved so often; more is saved only when the run is stopped", "GB"
    )

    def check(self):
        """Raises ValueError for a number of waves below 1, and for what is no folder's name."""
        if self.checkpoint is not None:
            check_is_path("checkpoint", self.checkpoint)
        WAVES.of("checkpoint_waves", self.checkpoint_waves)
        GIGABYTES.of("checkpoint_context_gb", self.checkpoint_context_gb)

    def saves_on_the_way(self, kept_bytes):
        """Whether states with so many bytes of cached context are saved every ``checkpoint_waves``, and not only at a stop."""
        return kept_bytes <= self.checkpoint_context_gb * 1e9


def check_is_path(name, path):
    """Raises ValueError unless ``path`` is a path, as text or a pathlib.Path."""
    if not isinstance(path, (str, Path)) or not str(path).strip() or "\0" in str(path):
        raise ValueError(f"{name} is {path!r}: give a path, or leave it out")
