"""What a user chooses about a command and not about a run: from Python there is nothing that would do it.

Knows: the fields and their limits. Must not know: how a file is written or a process watched.
"""

import os
from dataclasses import dataclass

from ..limits import FRAME_RATE, LORA_WEIGHT, RATE_FACTOR, SECONDS
from ..plan.settings import Settings, setting

REFUSE, WARN = "refuse", "warn"


@dataclass(frozen=True)
class CommandSettings(Settings):
    """The settings of ``xdit-dualparal`` beside those of a run (config.DualParalConfig). Each is a flag, ``--dualparal_<field>``.

    Raises ValueError when a field is outside its limits.
    """

    quality: int = setting(18, "H.264's constant rate factor of the mp4, 0 (lossless) to 51 (worst)")
    fps: int | None = setting(None, "frames a second of the mp4; by default those of the model's training clips (16, 24 with Wan2.2-TI2V and SkyReels-V2): "
                              "the same frames, shown faster or slower")
    output: str | None = setting(
        None, "the mp4's file, for one prompt; by default, in --output_directory, the prompt's first words, the seed and a "
        "digest of all settings that decide the video"
    )
    lora: tuple[str, ...] | None = setting(
        None, "fuse this LoRA's file into the transformer, with this weight (by default 1); give the flag once for each LoRA. With two "
        "experts (Wan2.2) only into the first, which does the noisy steps", "PATH[:WEIGHT]"
    )
    lora_2: tuple[str, ...] | None = setting(None, "the same for the second expert, which does the other steps", "PATH[:WEIGHT]")
    continue_from: str | None = setting(
        None, "go on from the last frames of this mp4, or better from its latents (a file of --dualparal_latents_out): what is made are the "
        "--num_frames frames that follow", "FILE"
    )
    last_image: tuple[str, ...] | None = setting(
        None, "the image that the video ends with, for models that take one (Wan2.2-I2V): its last frame, --num_frames being a multiple of 4 and 1; give the "
        "flag once, or once for each prompt", "FILE"
    )
    append_to: str | None = setting(
        None, "put a copy of this mp4, the one that is continued, in front of the new frames; by default they are alone in their file", "FILE"
    )
    hang_timeout: float | None = setting(
        None, "seconds that a process may be silent before the run is ended; by default 50 times its longest action, at "
        "least 60"
    )
    memory_check: str = setting(
        REFUSE, "what becomes of a command that by arithmetic needs more memory than is free: 'refuse' it before anything is loaded, "
        "or 'warn' and run it", "WHAT"
    )

    def check(self):
        """Raises ValueError for what is no rate factor, time or LoRA's weight, and for another memory_check."""
        for name in ("lora", "lora_2"):
            for text in getattr(self, name) or ():
                LORA_WEIGHT.of(f"the weight of {name} {text}", weighted_path(text)[1])
        RATE_FACTOR.of("quality", self.quality)
        if self.fps is not None:
            FRAME_RATE.of("fps", self.fps)
        if self.hang_timeout is not None:
            SECONDS.of("hang_timeout", self.hang_timeout)
        if self.output is not None and not self.output.endswith(".mp4"):
            raise ValueError(f"output is {self.output!r}: give a file that ends in .mp4")
        if self.append_to is not None and self.continue_from is None:
            raise ValueError(f"append_to is {self.append_to} and nothing is continued: give continue_from too, or leave it out")
        if self.memory_check not in (REFUSE, WARN):
            raise ValueError(f"memory_check is {self.memory_check!r}: give one of {REFUSE}, {WARN}")


def fps_of(model, command):
    """Frames a second of the mp4s of a ``command`` (CommandSettings): its own, or those of the class or object ``model``."""
    return command.fps or model.settings.fps


def weighted_path(text):
    """(path, weight) of ``PATH[:WEIGHT]``. A path may have colons: only a number after the last one is a weight, and not where
    there is a file of that whole name."""
    path, colon, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if colon and not os.path.exists(text) else (text, 1.0)
    except ValueError:
        return text, 1.0
