"""Which numbers mean something, a rule for each, with the reason for its limits.

Knows: numbers and how a wrong one is named. Must not know: who asks for them. Standard library only: every folder, the
launcher too, may import it.
"""

from dataclasses import dataclass
from numbers import Integral, Real

RANDOM_SEED = -1  # stands for a seed that is drawn


@dataclass(frozen=True)
class Whole:
    """Whole numbers of ``at_least`` to ``at_most``. ``why``: a phrase that explains a limit."""

    at_least: int
    at_most: int
    why: str = ""

    def of(self, name, value):
        """``value`` as an int. Raises ValueError for all that is none of these numbers: True and "3" are not."""
        if not is_whole(value) or not self.at_least <= value <= self.at_most:
            raise _refusal(name, value, f"a whole number from {self.at_least} to {self.at_most}", self.why)
        return int(value)


@dataclass(frozen=True)
class Number:
    """Numbers of ``at_least`` (``above``: of more than that) to ``at_most``; nan and infinity are none of them."""

    at_least: float
    at_most: float
    above: bool = False
    why: str = ""

    def of(self, name, value):
        """``value`` as a float. Raises ValueError for all that is none of these numbers."""
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not self.at_least <= value <= self.at_most or (self.above and value == self.at_least):
            beginning = "above" if self.above else "from"
            raise _refusal(name, value, f"a number {beginning} {self.at_least:g} {'up ' * self.above}to {self.at_most:g}", self.why)
        return float(value)


def is_whole(value):
    """Whether ``value`` is a whole number, numpy's too; True is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def plain(value):
    """A number of numpy, say, as Python's own, which JSON and equality want; everything else as it is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def how_given(value):
    """What follows a flag's or setting's name in a message: as a user writes the value, not as Python does."""
    if value is True:
        return "is given"
    if isinstance(value, (tuple, list)):
        value = ("," if isinstance(value, tuple) else " ").join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return f"is {value}"


def check_whole(name, value, at_least):
    """Raises ValueError unless ``value`` is a whole number of ``at_least`` or more."""
    if not is_whole(value) or value < at_least:
        raise _refusal(name, value, f"a whole number of {at_least} or more")


def _refusal(name, value, allowed, why=""):
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."  # 10**4000 is one, too
    return ValueError(f"{name} is {shown}: give {allowed}" + (f" ({why})" if why else ""))


# What a call may ask for.
FRAMES = Whole(0, 10_000_000, "a week at 16 frames a second; 0 is a video without end")
STEPS = Whole(1, 1000, "the models' timesteps are whole numbers below 1000, so more steps repeat some")
# WanRotaryPosEmbed has 1024 positions an axis, and a token of Wan2.1 is 16 pixels wide.
SIDE = Whole(1, 16384, "1024 tokens of 16 pixels, where the model's table of positions ends")
PIXELS = 4096 * 2304  # of a frame. With 36,864 tokens a latent frame one tensor of Wan 14B's window takes 4.5 GB
GUIDANCE = Number(0, 100, why="1 or less is without guidance; models are made for 1 to 10")
SHIFT = Number(0, 100, above=True, why="models are made for 1 to 12")
LORA_WEIGHT = Number(-100, 100, why="1 is as it was trained; models are made for 0.5 to 1.5")
SEED = Whole(RANDOM_SEED, 2**63 - 1, "-1 draws one at random")
TEXT_TOKENS = Whole(1, 512, "Wan was trained with 512 tokens of text")

# What else a run may be told.
POSITIONS = 1024  # latent frames that a pass may attend to: the model's table of positions has no more
WAVES = Whole(1, 1_000_000, "longer than any run")
GIGABYTES = Number(0, 1_000_000, why="a petabyte is the most")
GIGABITS = Number(0, 1_000_000, above=True, why="gigabits a second; a petabit is the most")
SECONDS = Number(0, 2_592_000, above=True, why="seconds; 30 days is the most")
LAYERS = Number(0, 1000, why="in layers' time; no model has more layers")
SHARE = Number(0, 1)
TIMESTEP = Whole(0, 999, "of 1000; 20 is usual, and more than 50 makes a video inconsistent")  # diffusers on addnoise_condition
FRAME_RATE = Whole(1, 240, "frames a second")
RATE_FACTOR = Whole(0, 51, "H.264's constant rate factor: 0 is lossless, 51 worst")
DEGREE = Whole(1, 4096, "processes")
REPEATS = Whole(1, 10_000)
WARM_UPS = Whole(0, 10_000)
VIDEOS = Whole(1, 1000, "videos side by side; each has memory of its own")
BATCH = Whole(1, 10_000, "prompts")
NODES = Whole(1, 4096)
PORT = Whole(0, 65535, "0 chooses one")
