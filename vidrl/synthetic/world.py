"""Render synthetic captioned clips with exact truth: flow, occlusion, tracks and masks.

Each clip shows one coloured shape that moves over a grey background.

Legend: F frames, H W pixels; positions and radii are in frame widths, speeds in frame
widths a second, flow in pixels, channel 0 is x (right), channel 1 is y (down).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.90, 0.14, 0.12),
    "yellow": (0.92, 0.82, 0.10),
    "green": (0.12, 0.75, 0.18),
    "cyan": (0.10, 0.80, 0.85),
    "blue": (0.14, 0.22, 0.92),
    "pink": (0.92, 0.20, 0.80),
}
MOTIONS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "bounce": "bounces",
    "circle": "goes round",
    "grow": "grows",
    "rest": "stays still",
}
SPEEDS = {"slow": "slowly", "fast": "quickly"}
BACKGROUNDS = ("dark", "light", "striped", "speckled")
CAMERAS = {
    "static": (0.0, 0.0),
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}

_HEADING = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_LINEAR = {"slow": 0.16, "fast": 0.32}  # widths a second
_PERIOD = {"slow": 2.4, "fast": 1.3}  # seconds a turn or a bounce
_GROWTH = {"slow": 0.35, "fast": 0.6}  # natural log of the size, a second
CAMERA_SPEED = 0.15  # widths a second
_HELD_OUT = 256  # scenes for evaluation that training never shows


@dataclass(frozen=True)
class Scene:
    """A scene, which has a shape, colour, motion, speed, background and camera motion.

    Example:
        >>> Scene("cross", "blue", "left", "slow").caption
        'a blue cross moves left slowly on a dark background'
    """

    shape: str
    colour: str
    motion: str
    speed: str = "slow"
    background: str = "dark"
    camera: str = "static"

    @property
    def caption(self) -> str:
        """Return the sentence that describes the scene; `parse` reverses it."""
        pace = "" if self.motion == "rest" else f" {SPEEDS[self.speed]}"
        camera = "" if self.camera == "static" else f" while the camera pans {self.camera}"
        action = f"a {self.colour} {self.shape} {MOTIONS[self.motion]}{pace}"
        return f"{action} on a {self.background} background{camera}"


@dataclass(frozen=True)
class Clip:
    """A rendered scene with its truth.

    video (F, 3, H, W) in [0, 1]; flow (F-1, 2, H, W), forward, in pixels; occluded (F-1, H,
    W), True where a pixel of frame t is covered or outside the picture in frame t+1; tracks
    (F, 2), the object's centre (x, y) in pixels; mask (F, H, W) in [0, 1].
    """

    video: Tensor
    flow: Tensor
    occluded: Tensor
    tracks: Tensor
    mask: Tensor
    caption: str
    scene: Scene
    fps: float


def parse(caption: str) -> Scene:
    """Return the scene of a caption that `Scene.caption` wrote; raise ValueError for others.

    Example:
        >>> parse("a red circle stays still on a light background").motion
        'rest'
    """
    scene = _captions().get(str(caption))  # a `Prompt` with an image is not equal to its text
    if scene is None:
        example = Scene("cross", "blue", "left").caption
        raise ValueError(
            f"expected a caption of vidrl.synthetic.world such as {example!r}, got {caption!r}"
        )
    return scene


@lru_cache
def _captions() -> dict[str, Scene]:
    """Return every scene by its caption, with all camera motions."""
    moving = (replace(scene, camera=camera) for scene in all_scenes() for camera in CAMERAS)
    return {scene.caption: scene for scene in moving}


def all_scenes() -> list[Scene]:
    """Return every scene with a static camera, in a fixed order; rest has only one speed."""
    axes = itertools.product(SHAPES, COLOURS, MOTIONS, SPEEDS, BACKGROUNDS)
    return [Scene(*axis) for axis in axes if not (axis[2] == "rest" and axis[3] == "fast")]


def scenes(split: str, n: int | None = None, seed: int = 0) -> list[Scene]:
    """Return `n` scenes of the split "train" or "held_out"; no caption is in both.

    "held_out" has 256 scenes, in which every motion is equally frequent; `n` takes the first
    ones. From "train", `n` scenes are drawn with replacement by `seed`; None returns all.
    Raises ValueError for another split.

    Example:
        >>> held = {s.caption for s in scenes("held_out")}
        >>> len(held), held.isdisjoint(s.caption for s in scenes("train"))
        (256, True)
    """
    held = _held_out()
    if split == "held_out":
        return held[: len(held) if n is None else n]
    if split != "train":
        raise ValueError(f'expected split "train" or "held_out", got {split!r}')
    out = set(held)
    pool = [scene for scene in all_scenes() if scene not in out]
    return pool if n is None else random.Random(seed).choices(pool, k=n)


def _held_out() -> list[Scene]:
    """Return the held-out scenes, which alternate between the motions; fixed by their own seed."""
    draw = random.Random(20260)
    by_motion = {m: [s for s in all_scenes() if s.motion == m] for m in MOTIONS}
    per_motion = _HELD_OUT // len(MOTIONS)
    picks = [draw.sample(by_motion[m], per_motion) for m in MOTIONS]
    return [scene for row in zip(*picks, strict=True) for scene in row]


def trajectory(motion: str, speed: str, seconds: Tensor, phase: float, rate: float = 1.0) -> Tensor:
    """Return an object's path, (F, 3): x and y offsets from the frame's centre, and log-size.

    `seconds` (F,) are the frames' times. `phase` in [0, 1) shifts motions that repeat, and
    `rate` scales the speed. A straight path is at the centre in the middle of the clip and
    never longer than 0.7 widths, so that the object stays in the picture.
    """
    zero = torch.zeros_like(seconds)
    length = float(seconds[-1]) or 1.0
    if motion in _HEADING:
        pace = min(_LINEAR[speed] * rate, 0.7 / length) * (seconds - length / 2)
        x, y = _HEADING[motion]
        return torch.stack([x * pace, y * pace, zero], -1)
    turn = rate * seconds / _PERIOD[speed] + phase
    if motion == "circle":
        return torch.stack(
            [0.24 * torch.cos(2 * pi * turn), 0.24 * torch.sin(2 * pi * turn), zero], -1
        )
    if motion == "bounce":
        height = 4 * (turn % 1) * (1 - turn % 1)
        return torch.stack([zero, 0.26 - 0.52 * height, zero], -1)
    if motion == "grow":
        growth = min(_GROWTH[speed] * rate, 1.25 / length)
        return torch.stack([zero, zero, growth * (seconds - length / 2)], -1)
    return torch.stack([zero, zero, zero], -1)


def _distance(shape: str, p: Tensor) -> Tensor:
    """Return the signed distance of points p (..., 2) to a shape; negative inside.

    The shape has a circumradius of about 1; the sizes give all shapes a similar area.
    """
    x, y = p[..., 0], p[..., 1]
    if shape == "circle":
        return p.norm(dim=-1) - 0.92
    if shape == "square":
        return _box(x, y, 0.82, 0.82)
    if shape == "cross":
        return torch.minimum(_box(x, y, 1.0, 0.33), _box(x, y, 0.33, 1.0))
    # an upright triangle
    edges = (y - 0.62, (sqrt(3) * x - y) / 2 - 0.57, (-sqrt(3) * x - y) / 2 - 0.57)
    return torch.stack(edges).amax(0)


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    """Return the signed distance to a rectangle about 0 with these half-sides."""
    dx, dy = x.abs() - half_x, y.abs() - half_y
    outside = torch.stack([dx.clamp(min=0), dy.clamp(min=0)], -1).norm(dim=-1)
    return outside + torch.maximum(dx, dy).clamp(max=0)


def coverage(shape: str, centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """Return the fraction of each pixel inside the shape, (F, size, size) in [0, 1].

    Centres (F, 2) and radii (F,) are in frame widths.
    """
    grid = pixel_grid(size)
    points = (grid[None] - centre[:, None, None]) / radius[:, None, None, None]
    pixels = _distance(shape, points) * radius[:, None, None] * size
    return (0.5 - pixels).clamp(0, 1)  # an edge one pixel wide instead of an aliased one


def pixel_grid(size: int) -> Tensor:
    """Return the centres of the pixels in widths, (size, size, 2) as (x, y)."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)


def background(
    scene: Scene, size: int = 32, frames: int = 17, fps: float = 8.0, seed: int = 0
) -> Tensor:
    """Return the background that `render` draws, (F, 3, size, size) in [0, 1]."""
    texture = _texture(scene.background, torch.Generator().manual_seed(seed + 1))
    grey = texture(pixel_grid(size)[None] + _camera(scene, frames, fps)[:, None, None])
    return grey[:, None].expand(-1, 3, -1, -1)


def _camera(scene: Scene, frames: int, fps: float) -> Tensor:
    """Return the camera's position in each frame, (F, 2) in widths."""
    return torch.arange(frames)[:, None] / fps * CAMERA_SPEED * torch.tensor(CAMERAS[scene.camera])


def _texture(kind: str, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return a grey texture as a function of points (..., 2) in widths.

    A function, not an image, so that a moving camera can read it at any point.
    """
    level, phase, angle = torch.rand(3, generator=draw).tolist()
    if kind in ("dark", "light"):
        grey = (0.10 if kind == "dark" else 0.74) + 0.1 * level
        return lambda p: torch.full(p.shape[:-1], grey)
    if kind == "striped":
        # 2.2 soft-edged stripes a width, in a random direction
        x, y = torch.cos(torch.tensor(angle * pi)), torch.sin(torch.tensor(angle * pi))
        return lambda p: (
            0.42 + 0.12 * torch.tanh(2 * _wave(2.2 * (p[..., 0] * x + p[..., 1] * y) + phase))
        )
    # speckles are the sum of six waves of random direction, up to two periods a width each way
    waves = torch.rand(6, 3, generator=draw).tolist()
    return lambda p: (
        0.45
        + 0.06
        * torch.stack(
            [_wave(p[..., 0] * (4 * a - 2) + p[..., 1] * (4 * b - 2) + c) for a, b, c in waves]
        ).sum(0)
    )


def _wave(turns: Tensor) -> Tensor:
    """Return the sine of an angle in turns."""
    return torch.sin(2 * pi * turns)


def render(scene: Scene, size: int = 32, frames: int = 17, fps: float = 8.0, seed: int = 0) -> Clip:
    """Render a scene with its truth.

    The same seed gives the same path, size and background for every shape and colour, so
    that clips can be compared pairwise. The object moves relative to the picture; a moving
    camera moves only the background.

    Example:
        >>> clip = render(Scene("cross", "blue", "left", "fast"))
        >>> clip.video.shape, bool(clip.tracks[-1, 0] < clip.tracks[0, 0])
        (torch.Size([17, 3, 32, 32]), True)
    """
    draw = torch.Generator().manual_seed(seed)
    centre, radius = _path(scene, frames, fps, draw)
    tint = torch.tensor(COLOURS[scene.colour]) * (0.92 + 0.08 * torch.rand((), generator=draw))
    behind = background(scene, size, frames, fps, seed)
    shift = _camera(scene, frames, fps)
    mask = coverage(scene.shape, centre, radius, size)
    video = behind + mask[:, None] * (tint[None, :, None, None] - behind)
    flow, occluded = _truth(mask, centre, radius, shift, size)
    return Clip(video.clamp(0, 1), flow, occluded, centre * size, mask, scene.caption, scene, fps)


def _path(scene: Scene, frames: int, fps: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the object's centres (F, 2) and radii (F,) in widths, at a random place and size.

    The place is drawn from the room that the path leaves, so that the object stays visible.
    """
    phase, dx, dy, scale = torch.rand(4, generator=draw).tolist()
    path = trajectory(scene.motion, scene.speed, torch.arange(frames) / fps, phase)
    base = 0.17 + 0.04 * scale
    room = (0.5 - path[:, :2].abs().amax(0) - base * path[:, 2].exp().amax()).clamp(min=0, max=0.15)
    offset = room * (2 * torch.tensor([dx, dy]) - 1)
    return 0.5 + path[:, :2] + offset, base * path[:, 2].exp()


def _truth(
    mask: Tensor, centre: Tensor, radius: Tensor, shift: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Return the forward flow (F-1, 2, H, W) in pixels and the occluded pixels (F-1, H, W).

    A background pixel is occluded if the object covers its target in the next frame; every
    pixel is occluded if its target lies outside the picture.
    """
    grid, inside = pixel_grid(size)[None], mask > 0.5
    grown = (radius[1:] / radius[:-1])[:, None, None, None]
    moved = centre[1:, None, None] + (grid - centre[:-1, None, None]) * grown
    panned = grid - (shift[1:] - shift[:-1])[:, None, None]
    target = torch.where(inside[:-1, ..., None], moved, panned)
    outside = ((target < 0) | (target > 1)).any(-1)
    index = (target * size).long().clamp(0, size - 1)
    covered = (
        inside[1:][torch.arange(len(index))[:, None, None], index[..., 1], index[..., 0]]
        & ~inside[:-1]
    )
    return ((target - grid) * size).permute(0, 3, 1, 2), outside | covered
