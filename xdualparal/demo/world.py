"""Draws the clips of the second demo world, where long videos have more to go wrong in; their prompts and exact truth.

Knows: scenes, motion, prompts. Must not know: models, parallelism, how frames are scored (world_score.py).

A clip is 64 x 64 pixels. Two objects move to and fro on lanes so near to each other that the first one of the prompt covers a part of
the other whenever they pass. The first one keeps its colour, or fades to another and back. The background is a grey texture that pans
or stays. A clip is a function of its Scene, which a prompt says in full, and of a seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from . import scenes as first_world

FRAME_SIZE_PX = 64
COLOURS = first_world.COLOURS  # in the order of their hues, 60 degrees apart
SHAPES = first_world.SHAPES
TEXTURES = ("striped", "checked", "dotted")
PANS = {"left": -1, "still": 0, "right": 1}
CIRCLE_RADIUS_PX = 10.0
SQUARE_HALF_PX = 9.0  # about the circle's area
SPEED_RANGE_PX = (0.75, 1.25)  # pixels a frame: two objects pass about every 45 frames
LANE_MIDDLE_PX, LANE_SPREAD_PX = (26.0, 38.0), (9.0, 12.0)  # where the middle of the lanes is, and how far they are apart
COLOUR_PERIOD_FRAMES = 64  # from a colour to the other and back
PAN_PX = 0.5  # a frame
TEXTURE_PERIOD_PX = 16
GREYS = ((70, 70, 74), (160, 160, 156))
DOT_RADIUS_PX = 4.5
PROMPT = re.compile(
    r"a (?P<front_colour>\w+) (?P<front_shape>\w+) that (?P<change>stays|turns) (?P<turned_colour>\w+) "
    r"passes a (?P<back_colour>\w+) (?P<back_shape>\w+) on a (?P<texture>\w+) background that (?:moves|stays) (?P<pan>\w+)"
)


def hue_steps(one: str, other: str) -> int:
    """Returns how many of the six hues lie from one colour to the other: 0 to 3, 60 degrees each."""
    names = list(COLOURS)
    apart = abs(names.index(one) - names.index(other))
    return min(apart, len(names) - apart)


@dataclass(frozen=True)
class Scene:
    """What a prompt says: the front object (which covers the other), the back one, the background. All else is random.

    ``turned_colour``: what the front object fades to and back from, a neighbour in hue, or its own colour. Raises ValueError for
    what the world does not have. The back object's hue is at least 120 degrees from both colours of the front one's.
    """

    front_shape: str
    front_colour: str
    turned_colour: str
    back_shape: str
    back_colour: str
    texture: str
    pan: str

    def __post_init__(self):
        for name, known in (("shape", SHAPES), ("colour", COLOURS), ("texture", TEXTURES), ("pan", PANS)):
            for field, value in vars(self).items():
                if field.endswith(name) and value not in known:
                    raise ValueError(f"{field} {value!r} is not in the demo world: give one of {', '.join(known)}")
        if hue_steps(self.front_colour, self.turned_colour) > 1:
            raise ValueError(f"{self.front_colour} does not turn {self.turned_colour}: give a colour beside it of {', '.join(COLOURS)}")
        if min(hue_steps(self.back_colour, mine) for mine in (self.front_colour, self.turned_colour)) < 2:
            raise ValueError(
                f"a {self.back_colour} object cannot be told from one that is {self.front_colour} and {self.turned_colour}: "
                f"give a colour two further on in {', '.join(COLOURS)}"
            )

    @property
    def turns(self) -> bool:
        """Whether the front object changes its colour."""
        return self.turned_colour != self.front_colour

    @property
    def prompt(self) -> str:
        """The prompt that says this scene; 17 words, each in the same place."""
        return (
            f"a {self.front_colour} {self.front_shape} that {'turns' if self.turns else 'stays'} {self.turned_colour} passes "
            f"a {self.back_colour} {self.back_shape} on a {self.texture} background that "
            f"{'stays' if self.pan == 'still' else 'moves'} {self.pan}"
        )

    @classmethod
    def from_prompt(cls, prompt: str) -> Scene:
        """Returns the scene that ``prompt`` says: the inverse of `prompt`; case and punctuation do not matter.

        Raises ValueError for a prompt that does not say all of a scene.
        """
        found = PROMPT.fullmatch(" ".join(re.findall(r"[a-z]+", prompt.lower())))
        scene = cls(**{name: word for name, word in found.groupdict().items() if name != "change"}) if found else None
        if scene is None or " ".join(re.findall(r"[a-z]+", prompt.lower())) != scene.prompt:
            raise ValueError(f"prompt {prompt!r} is not one of this world: give one such as {EXAMPLE.prompt!r}")
        return scene


EXAMPLE = Scene("circle", "red", "yellow", "square", "blue", "checked", "left")


def all_scenes() -> list[Scene]:
    """Returns all 1,512 scenes, in a fixed order."""
    looks = [
        (one, turned, other)
        for one in COLOURS for turned in COLOURS for other in COLOURS
        if hue_steps(one, turned) < 2 <= min(hue_steps(other, one), hue_steps(other, turned))
    ]
    return [
        Scene(front, one, turned, back, other, texture, pan)
        for front in SHAPES for back in SHAPES for one, turned, other in looks for texture in TEXTURES for pan in PANS
    ]


def _is_held_out(scene: Scene) -> bool:
    """Whether training never sees it: one scene in nine, chosen by how the front object, the texture and the pan go together."""
    place = SHAPES.index(scene.front_shape) + list(COLOURS).index(scene.front_colour)
    return (place + TEXTURES.index(scene.texture)) % 3 == 0 and (place + list(PANS).index(scene.pan)) % 3 == 0


def training_scenes() -> list[Scene]:
    """Returns all scenes but the held-out ones."""
    return [scene for scene in all_scenes() if not _is_held_out(scene)]


def held_out_scenes() -> list[Scene]:
    """Returns the scenes that training never sees."""
    return [scene for scene in all_scenes() if _is_held_out(scene)]


def evaluation_scenes(count: int = 50) -> list[Scene]:
    """Returns ``count`` scenes, every fifth of them a held-out one, spread evenly over the words."""
    held, trained = held_out_scenes(), training_scenes()
    return [held[i * 41 % len(held)] if i % 5 == 0 else trained[i * 127 % len(trained)] for i in range(count)]


def vocabulary() -> list[str]:
    """Returns every word that a prompt can have, sorted."""
    return sorted({word for scene in all_scenes() for word in scene.prompt.split()})


@dataclass(frozen=True)
class Truth:
    """What clips show, exactly. Objects are in the order front, back.

    centres_px: (batch, 2 objects, frames, 2) float32, x and y in pixels; pixel i spans i..i+1.
    colours: (batch, 2 objects, frames, 3) float32 in 0..1, RGB.
    background_px: (batch, frames) float32, how far the texture has moved to the right, in 0..TEXTURE_PERIOD_PX.
    """

    centres_px: torch.Tensor
    colours: torch.Tensor
    background_px: torch.Tensor


def half_sizes(shapes: list[str]) -> torch.Tensor:
    """Returns half of each object's extent, (len(shapes),) float32, pixels."""
    return torch.tensor([CIRCLE_RADIUS_PX if shape == "circle" else SQUARE_HALF_PX for shape in shapes])


def objects(scenes: list[Scene]) -> list[str]:
    """Returns the shapes of all objects: front, back of the first scene, then of the next."""
    return [shape for scene in scenes for shape in (scene.front_shape, scene.back_shape)]


def _uniform(shape: tuple, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _centres(scenes: list[Scene], num_frames: int, generator: torch.Generator) -> torch.Tensor:
    """Draws lanes, starts, directions and speeds; returns Truth.centres_px."""
    batch, half = len(scenes), half_sizes(objects(scenes))
    apart = _uniform((batch, 1), *LANE_SPREAD_PX, generator) * torch.tensor([-0.5, 0.5]) * _sign((batch, 1), generator)
    lanes = _uniform((batch, 1), *LANE_MIDDLE_PX, generator) + apart
    x = _uniform((2 * batch,), CIRCLE_RADIUS_PX, FRAME_SIZE_PX - CIRCLE_RADIUS_PX, generator)
    speed = _uniform((2 * batch,), *SPEED_RANGE_PX, generator) * _sign((2 * batch,), generator)
    motion = first_world.Motion(torch.stack([x, lanes.flatten()], 1), torch.stack([speed, torch.zeros_like(speed)], 1))
    return first_world.trajectory(motion, half, num_frames, FRAME_SIZE_PX).unflatten(0, (batch, 2))


def _sign(shape: tuple, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(2, shape, generator=generator) * 2.0 - 1


def turned_share(phase: torch.Tensor) -> torch.Tensor:
    """Returns the share of the second colour, 0..1, at a phase of the cycle: a triangle wave of period 1, 0 at phase 0."""
    return 1 - (2 * phase.remainder(1) - 1).abs()


def _colours(scenes: list[Scene], phase: torch.Tensor) -> torch.Tensor:
    """Returns Truth.colours for ``phase`` (batch, frames) of the fading."""
    def of(name):
        return torch.tensor([COLOURS[getattr(scene, name)] for scene in scenes], dtype=torch.float32)[:, None] / 255

    front = of("front_colour") + turned_share(phase)[..., None] * (of("turned_colour") - of("front_colour"))
    return torch.stack([front, of("back_colour").expand_as(front)], dim=1)


def draw_truth(scenes: list[Scene], num_frames: int, generator: torch.Generator) -> Truth:
    """Draws what the scenes leave open, and returns what ``num_frames`` frames then show."""
    time = torch.arange(num_frames, dtype=torch.float32)
    centres = _centres(scenes, num_frames, generator)
    phase = torch.rand(len(scenes), 1, generator=generator) + time / COLOUR_PERIOD_FRAMES
    start = _uniform((len(scenes), 1), 0, TEXTURE_PERIOD_PX, generator)
    velocity = PAN_PX * torch.tensor([PANS[scene.pan] for scene in scenes])[:, None]
    return Truth(centres, _colours(scenes, phase), (start + velocity * time).remainder(TEXTURE_PERIOD_PX))


def texture_share(texture: str, shift_px: torch.Tensor) -> torch.Tensor:
    """Returns the share of the second grey in each pixel, (frames, 64, 64) float32 in 0..1, antialiased along the pan.

    ``shift_px``: (frames,) how far the texture has moved to the right.
    """
    pixel, period = torch.arange(FRAME_SIZE_PX, dtype=torch.float32) + 0.5, TEXTURE_PERIOD_PX
    x = (pixel - shift_px[:, None]).remainder(period)[:, None, :] - period / 2
    y = pixel.remainder(period)[None, :, None] - period / 2
    across = (0.5 + period / 4 - x.abs()).clamp(0, 1)
    down = (0.5 + period / 4 - y.abs()).clamp(0, 1)
    shares = {
        "striped": across.expand(-1, FRAME_SIZE_PX, -1),
        "checked": across + down - 2 * across * down,
        "dotted": (0.5 + DOT_RADIUS_PX - (x.square() + y.square()).sqrt()).clamp(0, 1),
    }
    return shares[texture]


def background(texture: str, shift_px: torch.Tensor) -> torch.Tensor:
    """Draws backgrounds, (3, frames, 64, 64) float32 in 0..1; ``shift_px`` as in texture_share."""
    first, second = (torch.tensor(grey, dtype=torch.float32)[:, None, None, None] / 255 for grey in GREYS)
    return first + texture_share(texture, shift_px) * (second - first)


def coverage(shapes: list[str], centres_px: torch.Tensor) -> torch.Tensor:
    """Computes the share of each pixel that an object covers, (objects, frames, 64, 64) float32 in 0..1, edges antialiased.

    ``centres_px``: (objects, frames, 2).
    """
    pixel = torch.arange(FRAME_SIZE_PX, dtype=torch.float32) + 0.5
    dx = (pixel - centres_px[..., 0, None, None]).abs()
    dy = (pixel[:, None] - centres_px[..., 1, None, None]).abs()
    half = half_sizes(shapes)[:, None, None, None]
    circle = (half - (dx.square() + dy.square()).sqrt() + 0.5).clamp(0, 1)
    square = (half - dx + 0.5).clamp(0, 1) * (half - dy + 0.5).clamp(0, 1)
    return torch.where(torch.tensor([shape == "circle" for shape in shapes])[:, None, None, None], circle, square)


def render(scenes: list[Scene], truth: Truth) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws clips (batch, 3, frames, 64, 64) float32 in -1..1; coverage (batch, 2 objects, frames, 64, 64) in 0..1 is of whole
    objects, what is hidden included."""
    covered = coverage(objects(scenes), truth.centres_px.flatten(0, 1)).unflatten(0, (len(scenes), 2))
    clips = torch.stack([background(s.texture, shift) for s, shift in zip(scenes, truth.background_px)])
    colours = truth.colours.movedim(-1, 2)[..., None, None]
    for layer in (1, 0):  # the back one first
        share = covered[:, layer, None]
        clips = clips + share * (colours[:, layer] - clips)
    return 2 * clips - 1, covered


def make_clips(scenes: list[Scene], num_frames: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws clips of ``scenes`` with random motion: (batch, 3, frames, 64, 64) in -1..1, and the share of each pixel that any object
    covers, (batch, 1, frames, 64, 64). Equal generators give equal clips."""
    clips, covered = render(scenes, draw_truth(scenes, num_frames, generator))
    return clips, covered.amax(dim=1, keepdim=True)


def clip_of(scene: Scene | str, num_frames: int, seed: int) -> tuple[torch.Tensor, Truth]:
    """Draws one clip: frames (num_frames, 64, 64, 3) float32 in 0..1, and its Truth, a batch of one.

    ``scene``: a Scene or its prompt. Raises ValueError as `Scene.from_prompt` does.
    """
    scene = Scene.from_prompt(scene) if isinstance(scene, str) else scene
    truth = draw_truth([scene], num_frames, torch.Generator().manual_seed(seed))
    return (render([scene], truth)[0][0].permute(1, 2, 3, 0) + 1) / 2, truth


def drawn_frames(scene: Scene, num_frames: int, seed: int, every: int = 1) -> torch.Tensor:
    """Draws each ``every``-th frame of the clip that `clip_of` draws, (frames, 64, 64, 3) uint8."""
    truth = draw_truth([scene], num_frames, torch.Generator().manual_seed(seed))
    thinned = Truth(truth.centres_px[:, :, ::every], truth.colours[:, :, ::every], truth.background_px[:, ::every])
    return (render([scene], thinned)[0][0].permute(1, 2, 3, 0) * 127.5 + 127.5).round().byte()


def random_scenes(batch: int, generator: torch.Generator, choices: list[Scene]) -> list[Scene]:
    """Draws ``batch`` scenes from ``choices``."""
    return [choices[i] for i in torch.randint(len(choices), (batch,), generator=generator).tolist()]
