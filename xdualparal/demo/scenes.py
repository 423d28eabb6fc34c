"""Draws the clips that the demo model was trained on; their prompts, and the evaluation prompts.

Knows: scenes and motion. Must not know: models, parallelism.

A clip is one coloured circle or square that moves in a straight line at a constant speed on a plain background and
bounces off the walls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

FRAME_SIZE_PX = 32
SPEED_RANGE_PX = (0.5, 1.0)  # pixels a frame
CIRCLE_RADIUS_PX = 7.0
SQUARE_HALF_PX = 6.5  # about the circle's area, so that size does not give the shape away

# Six hues 60 degrees apart on backgrounds without hue: an object's pixels are the saturated ones. No channel touches
# 0 or 255, because the VAE clamps its output there and a clamped pixel has no gradient.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "yellow": (225, 215, 40),
    "green": (40, 190, 50),
    "cyan": (40, 210, 220),
    "blue": (50, 60, 230),
    "magenta": (215, 45, 205),
}
SHAPES = ("circle", "square")
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], ...]] = {  # one grey, or the two greys of the stripes
    "dark": ((32, 32, 36),),
    "grey": ((118, 118, 122),),
    "light": ((212, 212, 208),),
    "striped": ((70, 70, 74), (160, 160, 156)),
}
STRIPE_WIDTH_PX = 8
ARTICLES = {"dark": "a dark", "grey": "a grey", "light": "a light", "striped": "a striped"}


@dataclass(frozen=True)
class Scene:
    """What a prompt determines; position, direction and speed are random."""

    shape: str
    colour: str
    background: str

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {self.shape} on {ARTICLES[self.background]} background"


def parse_prompt(prompt: str) -> Scene:
    """Returns the scene that `prompt` describes: the inverse of `Scene.prompt`. Ignores words that it does not know.

    Raises ValueError for a prompt that does not name exactly one shape, colour and background.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    found = {}
    for part, known in (("shape", SHAPES), ("colour", tuple(COLOURS)), ("background", tuple(BACKGROUNDS))):
        named = [word for word in words if word in known]
        if len(named) != 1:
            raise ValueError(f"prompt {prompt!r} must name exactly one {part} of {', '.join(known)}; it names {named}")
        found[part] = named[0]
    return Scene(**found)


def all_scenes() -> list[Scene]:
    """Returns all 48 combinations, in a fixed order."""
    return [Scene(s, c, b) for s in SHAPES for c in COLOURS for b in BACKGROUNDS]


# Every colour once, every shape three times, every background at least once: each word is known from other scenes.
HELD_OUT = (
    Scene("circle", "red", "striped"),
    Scene("square", "yellow", "dark"),
    Scene("circle", "green", "light"),
    Scene("square", "cyan", "grey"),
    Scene("circle", "blue", "grey"),
    Scene("square", "magenta", "light"),
)


def training_scenes() -> list[Scene]:
    """Returns all scenes but the held-out ones."""
    return [scene for scene in all_scenes() if scene not in HELD_OUT]


def evaluation_scenes(count: int = 50) -> list[Scene]:
    """Returns `count` scenes: the held-out ones first, then the others spread evenly, repeated when all are used."""
    others = training_scenes()
    order = list(HELD_OUT) + [others[(i * 5) % len(others)] for i in range(len(others))]
    return [order[i % len(order)] for i in range(count)]


def vocabulary() -> list[str]:
    """Returns every word that a prompt can have, sorted."""
    return sorted({word for scene in all_scenes() for word in scene.prompt.split()})


@dataclass(frozen=True)
class Motion:
    """Start and velocity of a batch of objects.

    start_px, velocity_px: (batch, 2) float32, x and y; pixels, and pixels a frame.
    """

    start_px: torch.Tensor
    velocity_px: torch.Tensor


def random_motion(batch: int, generator: torch.Generator, size: int = FRAME_SIZE_PX) -> Motion:
    """Draws uniform positions inside the walls, uniform directions, speeds uniform in SPEED_RANGE_PX."""
    low, high = CIRCLE_RADIUS_PX, size - CIRCLE_RADIUS_PX  # a square's centre could go half a pixel further
    start = low + (high - low) * torch.rand(batch, 2, generator=generator)
    angle = 2 * torch.pi * torch.rand(batch, generator=generator)
    slowest, fastest = SPEED_RANGE_PX
    speed = slowest + (fastest - slowest) * torch.rand(batch, generator=generator)
    return Motion(start, speed[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1))


def trajectory(motion: Motion, half_size_px: torch.Tensor, num_frames: int, size: int = FRAME_SIZE_PX) -> torch.Tensor:
    """Computes centres (batch, num_frames, 2) in pixels, x and y: straight lines reflected at the walls.

    half_size_px: (batch,) half the object's extent; the centre stays that far from each wall.
    """
    low = half_size_px[:, None, None]
    span = size - 2 * low
    time = torch.arange(num_frames, dtype=torch.float32)[None, :, None]
    unfolded = motion.start_px[:, None].clamp(low, low + span) - low + motion.velocity_px[:, None] * time
    return low + span - (unfolded.remainder(2 * span) - span).abs()


def half_sizes(scenes: list[Scene]) -> torch.Tensor:
    """Returns half of each object's extent, (len(scenes),) float32, pixels."""
    return torch.tensor([CIRCLE_RADIUS_PX if s.shape == "circle" else SQUARE_HALF_PX for s in scenes])


def background_image(name: str, size: int = FRAME_SIZE_PX) -> torch.Tensor:
    """Draws a background, (3, size, size) float32 in 0..1; the stripes are horizontal."""
    greys = torch.tensor(BACKGROUNDS[name], dtype=torch.float32) / 255
    row = (torch.arange(size) // STRIPE_WIDTH_PX) % len(greys)
    return greys[row].T[:, :, None].expand(3, size, size).clone()


def object_coverage(scenes: list[Scene], centres_px: torch.Tensor, size: int = FRAME_SIZE_PX) -> torch.Tensor:
    """Computes the share of each pixel that the object covers, (batch, frames, size, size) float32 in 0..1.

    Edges are antialiased.

    centres_px: (batch, frames, 2), x and y; pixel i spans i..i+1.
    """
    pixel = torch.arange(size, dtype=torch.float32) + 0.5
    dx = (pixel[None, None, None, :] - centres_px[..., 0, None, None]).abs()
    dy = (pixel[None, None, :, None] - centres_px[..., 1, None, None]).abs()
    half = half_sizes(scenes)[:, None, None, None]
    circle = (half - (dx.square() + dy.square()).sqrt() + 0.5).clamp(0, 1)
    square = (half - dx + 0.5).clamp(0, 1) * (half - dy + 0.5).clamp(0, 1)
    is_circle = torch.tensor([s.shape == "circle" for s in scenes])[:, None, None, None]
    return torch.where(is_circle, circle, square)


def render(
    scenes: list[Scene], centres_px: torch.Tensor, size: int = FRAME_SIZE_PX
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws clips (batch, 3, frames, size, size) float32 in -1..1; coverage is (batch, 1, frames, size, size) in 0..1."""
    coverage = object_coverage(scenes, centres_px, size)[:, None]
    colour = torch.tensor([COLOURS[s.colour] for s in scenes], dtype=torch.float32)[:, :, None, None, None] / 255
    behind = torch.stack([background_image(s.background, size) for s in scenes])[:, :, None]
    return 2 * (behind + coverage * (colour - behind)) - 1, coverage


def make_clips(
    scenes: list[Scene], num_frames: int, generator: torch.Generator, size: int = FRAME_SIZE_PX
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws clips of `scenes` with random motion, as `render` returns them. Equal generators give equal clips."""
    motion = random_motion(len(scenes), generator, size)
    return render(scenes, trajectory(motion, half_sizes(scenes), num_frames, size), size)


def random_scenes(batch: int, generator: torch.Generator, choices: list[Scene] | None = None) -> list[Scene]:
    """Draws `batch` scenes from `choices`, by default the training ones."""
    choices = training_scenes() if choices is None else choices
    return [choices[i] for i in torch.randint(len(choices), (batch,), generator=generator).tolist()]


def drawn_frames(scene: Scene, num_frames: int, seed: int, every: int = 1) -> torch.Tensor:
    """Draws each ``every``-th frame of a clip of ``num_frames`` frames, (frames, 32, 32, 3) uint8. Equal seeds give equal clips."""
    motion = random_motion(1, torch.Generator().manual_seed(seed))
    clips, _ = render([scene], trajectory(motion, half_sizes([scene]), num_frames)[:, ::every])
    return (clips[0].permute(1, 2, 3, 0) * 127.5 + 127.5).round().byte()
