"""The demo worlds, as metrics need them: which prompts each has, its true clips, and what is measured of its videos.

Knows: the worlds. Must not know: models, files.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..demo import scenes, world
from .track import ObjectTrack
from .two_objects import TwoObjectTrack


@dataclass(frozen=True)
class World:
    """One demo world.

    ``parse(prompt)``: the scene, a ``scene_type``, that a prompt says; raises ValueError. ``example``: a prompt. ``evaluation_scenes(count)``.
    ``draw(scene, num_frames, seed, every)``: each ``every``-th frame of a true clip, (frames, side, side, 3) uint8, equal for equal
    arguments. ``track(scene)``: an object with ``add(frame)``, ``metrics(facts)``, a dict, and ``shown()``, series for a plot.
    """

    scene_type: type
    example: str
    parse: Callable
    evaluation_scenes: Callable
    draw: Callable
    track: Callable

    def prompts(self, count):
        """The first ``count`` evaluation prompts."""
        return [scene.prompt for scene in self.evaluation_scenes(count)]

    def clip(self, scene, num_frames, seed, every=1):
        """The true clip of ``draw`` as an array."""
        return np.asarray(self.draw(scene, num_frames, seed, every))


ONE_OBJECT = World(
    scenes.Scene, scenes.Scene("circle", "red", "dark").prompt, scenes.parse_prompt, scenes.evaluation_scenes, scenes.drawn_frames, ObjectTrack,
)
TWO_OBJECTS = World(
    world.Scene, world.EXAMPLE.prompt, world.Scene.from_prompt, world.evaluation_scenes, world.drawn_frames, TwoObjectTrack,
)
WORLDS = (ONE_OBJECT, TWO_OBJECTS)


def world_of(scene):
    """The World that ``scene`` is of."""
    return next(world for world in WORLDS if isinstance(scene, world.scene_type))


def scene_of(prompt):
    """The scene that ``prompt`` says in one of the worlds, or None; no prompt is of two."""
    for world in WORLDS if prompt is not None else ():
        try:
            return world.parse(prompt)
        except ValueError:
            pass
    return None


def parse_prompt(prompt):
    """The scene that ``prompt`` says. Raises ValueError where it is of no world: what the one with the most alike prompts says."""
    if (scene := scene_of(prompt)) is not None:
        return scene
    nearest = max(WORLDS, key=lambda world: difflib.SequenceMatcher(None, prompt.lower(), world.example).ratio())
    return nearest.parse(prompt)
