"""What a user chooses about DualParal.

Knows: the settings and their limits. Must not know: which passes follow from them (dualparal.py), tensors, processes.
"""

from dataclasses import dataclass

from ..limits import POSITIONS, SHARE, STEPS, TIMESTEP, check_whole
from ..plan.settings import Settings, setting
from ..plan.waiting import FLOAT8, MODEL

RECOMPUTED, CACHED = "recomputed", "cached"  # the previous context
CONTEXTS = MODEL, RECOMPUTED, CACHED
OWN, TRUE = "own", "true"  # timesteps


@dataclass(frozen=True)
class DualParalSettings(Settings):
    """What a user chooses about the method."""

    block_latents: int = setting(
        8, "latent frames denoised together (B); with Wan's VAE one latent frame is 4 video frames"
    )
    context_latents: int = setting(4, "latent frames of each neighbour that a block sees (C), 0 to block_latents")
    stagger: int = setting(
        1, "waves from the start of one block to the start of the next (D): with more, first frames come sooner and "
        "fewer blocks are in flight"
    )
    fresh_noise: float = setting(
        0.0, "share of each block's initial noise that is its own, 0 to 1; the rest is the same for all blocks, in another order (0: "
        "as in the paper; 1: blocks share no noise)"
    )

    context_timestep: str = setting(
        MODEL, "the timestep that the previous block's latent frames get in a window, where they are stagger steps cleaner than its own: "
        "'own', the window's, as in the paper, 'true', theirs, or 'model', theirs where the model was trained on such windows (SkyReels-V2-DF) "
        "and else the window's", "WHICH"
    )
    context_noise: int = setting(
        0, "noise in the previous block's latent frames once it is finished, and in an image's or a continued video's, as the timestep, of 1000, that they then "
        "have: addnoise_condition of SkyReels-V2's own pipeline, where 20 is recommended; 0: none. Only with their true timestep"
    )
    given_noise: float = setting(
        0.0, "share, 0 to 1, of each step's noise with which a continued video's last latent frames are seen by the first new block, which gives them its own timestep: 0, "
        "clean, where joins cannot be told from other places of the demo model's videos, or 1, as noisy as the block itself"
    )
    context: str = setting(
        MODEL, "how a block sees the previous one's last latent frames: 'recomputed' in its window, stagger steps cleaner, as in the "
        "paper, 'cached', as keys and values kept from when they were at the block's own step: less work, for memory, or 'model', cached for "
        "models that are distilled for a few steps (Wan2.2-Distilled-T2V), which keep little, and else recomputed", "HOW"
    )
    anchor_latents: int = setting(
        0, "of the video's first latent frames, an image's say, so many stay visible: every later block sees them as keys and values of its own step, as if they "
        "stood just before what else it sees; they need memory as cached context does; 0: none"
    )
    context_dtype: str = setting(
        MODEL, "numbers of cached keys and values while they wait: the model's ('model'), or 'float8' (e4m3, a scale for each head), in half the "
        "memory of bfloat16; those of the next block, which wait for a pass or two, are always the model's", "P"
    )

    def check(self):
        """Raises ValueError for numbers outside their limits."""
        if self.context_timestep not in (MODEL, OWN, TRUE):
            raise ValueError(f"context_timestep is {self.context_timestep!r}: give one of {MODEL}, {OWN}, {TRUE}")
        if self.context not in CONTEXTS:
            raise ValueError(f"context is {self.context!r}: give one of {', '.join(CONTEXTS)}")
        if self.context_dtype not in (MODEL, FLOAT8):
            raise ValueError(f"context_dtype is {self.context_dtype!r}: give one of {MODEL}, {FLOAT8}")
        if self.context_dtype != MODEL and self.context == RECOMPUTED and not self.anchor_latents:
            raise ValueError(f"context_dtype is {self.context_dtype} and context is {self.context}, which keeps nothing: leave it out")
        if self.context == CACHED and self.context_timestep == TRUE:
            raise ValueError(
                f"context_timestep is {self.context_timestep} and context is {CACHED}, where neighbours have the same timestep: leave "
                "one of them out"
            )
        check_whole("block_latents", self.block_latents, at_least=1)
        check_whole("context_latents", self.context_latents, at_least=0)
        TIMESTEP.of("context_noise", self.context_noise)
        if self.context_noise and (self.context == CACHED or self.context_timestep == OWN):
            name = "context" if self.context == CACHED else "context_timestep"
            raise ValueError(f"context_noise is {self.context_noise} and {name} is {getattr(self, name)}, and it is for frames with their true timestep: leave one of them out")
        for name, idle in (("context", (MODEL, RECOMPUTED)), ("context_timestep", (MODEL, OWN)), ("context_noise", (0,))):
            if self.context_latents == 0 and getattr(self, name) not in idle:
                raise ValueError(f"{name} is {getattr(self, name)} and context_latents is 0, so there is no context: leave one of them out")
        STEPS.of("stagger", self.stagger)
        for name in ("fresh_noise", "given_noise"):
            SHARE.of(name, getattr(self, name))
        if self.given_noise and self.context_timestep == TRUE:
            raise ValueError(f"given_noise is {self.given_noise:g} and context_timestep is {TRUE}, with which given frames have context_noise: leave one of them out")
        if self.context_latents > self.block_latents:
            raise ValueError(
                f"context_latents is {self.context_latents} and block_latents is {self.block_latents}: "
                f"the context is taken from one block, so give context_latents 0 to {self.block_latents}"
            )
        check_whole("anchor_latents", self.anchor_latents, at_least=0)
        if self.anchor_latents > self.block_latents:
            raise ValueError(
                f"anchor_latents is {self.anchor_latents} and block_latents is {self.block_latents}: the first block has them, so give 0 to {self.block_latents}"
            )
        seen_latents = self.block_latents + 2 * self.context_latents + self.anchor_latents
        if seen_latents > POSITIONS:
            raise ValueError(
                f"block_latents + 2 * context_latents + anchor_latents is {seen_latents}: give {POSITIONS} or less, where the model's table "
                "of positions ends"
            )


def known_context(settings):
    """RECOMPUTED or CACHED: RECOMPUTED where no model has said it, see ``settled``."""
    return RECOMPUTED if settings.context == MODEL else settings.context


def known_timestep(settings):
    """OWN or TRUE: OWN where no model has said it, see ``settled``."""
    return OWN if settings.context_timestep == MODEL else settings.context_timestep
