"""What a user chooses about DualParal.

Knows: the fields, their meaning and their limits. Must not know: torch, xDiT, or how anything is executed.
"""

from dataclasses import dataclass, field


DECODE_PLACES = ("thread", "inline", "end")


def _setting(default, help):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DualParalConfig:
    """The settings of DualParal. Every field is also a launch flag, ``--dualparal_<field>``.

    Raises ValueError when a field is outside its limits.
    """

    block_latents: int = _setting(
        8, "latent frames denoised together (B); with Wan's VAE one latent frame is 4 video frames"
    )
    context_latents: int = _setting(
        4, "latent frames of each neighbour that a block sees (C), 0 to block_latents"
    )
    stagger: int = _setting(
        1, "waves from the start of one block to the start of the next (D): with more, first frames come sooner and "
        "fewer blocks are in flight"
    )
    decode: str = _setting(
        "thread", "where finished blocks are decoded: 'thread' beside the last stage's passes, 'inline' between them, "
        "'end' when all blocks are finished"
    )
    quality: int = _setting(18, "H.264's constant rate factor of the mp4, 0 (lossless) to 51 (worst)")
    latents_out: str | None = _setting(
        None, "also write the finished latents to this file, block by block; xdit-dualparal decode FILE makes the video "
        "of them"
    )
    checkpoint: str | None = _setting(
        None, "save the state of the run in this folder; the same command again goes on from there"
    )
    checkpoint_waves: int = _setting(10, "waves from one checkpoint to the next")
    hang_timeout: float | None = _setting(
        None, "seconds that a process may be silent before the run is ended; by default 50 times its longest action, at "
        "least 60"
    )
    stage_layers: tuple[int, ...] | None = _setting(
        None, "layers for each stage, for example 7,8,8,7; by default balanced, see end_costs"
    )
    # Measured with the shape of Wan2.1-T2V-1.3B, embedding and head (one CPU thread, 240 tokens a frame).
    end_costs: tuple[float, float] = _setting(
        (0.003, 0.005), "what the first and the last stage do in a pass besides their layers, in layers' time, for "
        "example 0,2.5; the layers are split so that the longest stage is as short as can be"
    )
    trace: str | None = _setting(
        None, "write what every stage did and when to this file, in Chrome's trace format (chrome://tracing)"
    )

    def __post_init__(self):
        _check_whole("block_latents", self.block_latents, at_least=1)
        _check_whole("context_latents", self.context_latents, at_least=0)
        for name in ("stagger", "checkpoint_waves"):
            _check_whole(name, getattr(self, name), at_least=1)
        if self.hang_timeout is not None and not self.hang_timeout > 0:
            raise ValueError(f"hang_timeout is {self.hang_timeout!r}: give seconds, more than 0")
        if self.decode not in DECODE_PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(DECODE_PLACES)}")
        if self.quality not in range(52):
            raise ValueError(f"quality is {self.quality!r}: give 0 to 51")
        for layers in self.stage_layers or ():
            _check_whole("stage_layers", layers, at_least=1)
        if min(self.end_costs) < 0:
            raise ValueError(f"end_costs is {self.end_costs}: give two numbers of 0 or more")
        if self.context_latents > self.block_latents:
            raise ValueError(
                f"context_latents is {self.context_latents} and block_latents is {self.block_latents}: "
                f"the context is taken from one block, so give context_latents 0 to {self.block_latents}"
            )

    @property
    def window_latents(self):
        """Latent frames in every window, B + C (DESIGN section 2)."""
        return self.block_latents + self.context_latents

    @property
    def seen_latents(self):
        """Latent frames that one pass attends to, B + 2C: the window and the next block's context."""
        return self.block_latents + 2 * self.context_latents

    def own_latents(self, block):
        """Latent frames that ``block`` owns: B + C for block 0, B for every other one."""
        return self.window_latents if block == 0 else self.block_latents

    def first_latent(self, block):
        """The video's latent frame with which ``block`` begins."""
        return 0 if block == 0 else self.context_latents + block * self.block_latents

    def frames_of(self, blocks, num_frames, frames_per_latent):
        """Video frames in the first ``blocks`` blocks of a video of ``num_frames`` (0: endless)."""
        latents = self.first_latent(blocks)
        frames = 1 + (latents - 1) * frames_per_latent if latents else 0
        return min(frames, num_frames) if num_frames else frames

    def whole_blocks(self, frames, num_frames, frames_per_latent):
        """How many blocks of a video of ``num_frames`` (0: endless) are whole in its first ``frames``."""
        blocks = 0
        while blocks * frames_per_latent < frames and self.frames_of(blocks + 1, num_frames, frames_per_latent) <= frames:
            blocks += 1
            if self.frames_of(blocks, num_frames, frames_per_latent) == num_frames:
                break
        return blocks

    def num_blocks(self, latent_frames):
        """Whole blocks that hold ``latent_frames`` (at least 1) latent frames."""
        beyond_first = max(0, latent_frames - self.window_latents)
        return 1 + -(-beyond_first // self.block_latents)


def _check_whole(name, value, at_least):
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}: give a whole number of {at_least} or more")
