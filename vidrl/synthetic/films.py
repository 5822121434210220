"""List films of one scene under each camera, over grounds that show the motion of a camera."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

from . import world

TEXTURED = ("striped", "speckled")
COUNT = {"train": 96, "held_out": 24}  # scenes of the prompts


class Film(NamedTuple):
    """A scene, the number of its first picture, and the seed that `world.render` draws it by."""

    scene: world.Scene
    number: int
    seed: int


def textured(split: str) -> list[world.Scene]:
    """Return the scenes of a split over grounds with texture, each with a static camera.

    Example:
        >>> {scene.background for scene in textured("held_out")} == set(TEXTURED)
        True
    """
    return [scene for scene in world.scenes(split) if scene.background in TEXTURED]


def films(split: str) -> list[Film]:
    """Return the films of the prompts of a split: each scene under each of the five cameras.

    Films of one scene begin with the same picture. No seed of "train" is one of "held_out".
    Raises ValueError for another split.

    Example:
        >>> first, *others = films("held_out")
        >>> first.scene.camera, others[0].scene.camera, first.seed == others[0].seed
        ('static', 'left', True)
        >>> len(others)
        119
    """
    scenes = random.Random(split).sample(textured(split), COUNT[split])
    start = 2**31 + 1000 * (split == "held_out")
    return [
        Film(replace(scene, camera=camera), number, start + number)
        for number, scene in enumerate(scenes)
        for camera in world.CAMERAS
    ]
