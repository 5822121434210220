"""Synthetic captioned clips whose truth is known: frames, dense flow, occlusion, tracks,
caption.

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
_CAMERA_SPEED = 0.15  # widths a second
_HELD_OUT = 256


@dataclass(frozen=True)
class Scene:
    """What a clip shows; the caption says it in words.

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
        return f"a {self.colour} {self.shape} {MOTIONS[self.motion]}{pace} on a {self.background} background{camera}"


@dataclass(frozen=True)
class Clip:
    """A rendered scene with its truth.

    video (F, 3, H, W) in [0, 1]; flow (F-1, 2, H, W) forward, pixels; occluded (F-1, H, W):
    the pixel of frame t is covered or outside in frame t+1; tracks (F, 2): the object's
    centre (x, y), pixels; mask (F, H, W) in [0, 1].
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
    """The scene of a caption written by `Scene.caption`.

    Example:
        >>> parse("a red circle stays still on a light background").motion
        'rest'
    """
    scene = _captions().get(caption)
    if scene is None:
        example = Scene("cross", "blue", "left").caption
        raise ValueError(
            f"expected a caption of vidrl.synthetic.world such as {example!r}, got {caption!r}"
        )
    return scene


@lru_cache
def _captions() -> dict[str, Scene]:
    moving = (replace(scene, camera=camera) for scene in all_scenes() for camera in CAMERAS)
    return {scene.caption: scene for scene in moving}


def all_scenes() -> list[Scene]:
    """Every scene with a static camera, in a fixed order; a scene at rest has one speed."""
    axes = itertools.product(SHAPES, COLOURS, MOTIONS, SPEEDS, BACKGROUNDS)
    return [Scene(*axis) for axis in axes if not (axis[2] == "rest" and axis[3] == "fast")]


def scenes(split: str, n: int | None = None, seed: int = 0) -> list[Scene]:
    """`n` scenes of "train" or "held_out"; no caption is in both, and held_out holds 256.

    Every motion, shape and colour is equally frequent in held_out.

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
    draw = random.Random(20260)
    by_motion = {m: [s for s in all_scenes() if s.motion == m] for m in MOTIONS}
    share = _HELD_OUT // len(MOTIONS)
    picks = [draw.sample(by_motion[m], share) for m in MOTIONS]
    return [scene for row in zip(*picks, strict=True) for scene in row]


def trajectory(motion: str, speed: str, seconds: Tensor, phase: float, rate: float = 1.0) -> Tensor:
    """Centre and size over time: (F, 3) of x, y offsets from the frame's centre and
    log-size, for a clip that lasts `seconds[-1]`; `phase` in [0, 1) shifts what repeats,
    `rate` scales the speed.

    A straight path is centred in time, and never longer than 0.7 widths.
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
    """Signed distance to a shape of circumradius about 1, at points p (..., 2); negative
    inside."""
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
    dx, dy = x.abs() - half_x, y.abs() - half_y
    outside = torch.stack([dx.clamp(min=0), dy.clamp(min=0)], -1).norm(dim=-1)
    return outside + torch.maximum(dx, dy).clamp(max=0)


def coverage(shape: str, centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """Each pixel's share inside the shape: (F, size, size) in [0, 1], for centres (F, 2)
    and radii (F,) in widths."""
    grid = pixel_grid(size)
    points = (grid[None] - centre[:, None, None]) / radius[:, None, None, None]
    pixels = _distance(shape, points) * radius[:, None, None] * size
    return (0.5 - pixels).clamp(0, 1)


def pixel_grid(size: int) -> Tensor:
    """Centres of the pixels in widths, (size, size, 2) as (x, y)."""
    axis = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)


def background(
    scene: Scene, size: int = 32, frames: int = 17, fps: float = 8.0, seed: int = 0
) -> Tensor:
    """What `render` draws behind the object: (F, 3, size, size) in [0, 1]."""
    texture = _texture(scene.background, torch.Generator().manual_seed(seed + 1))
    grey = texture(pixel_grid(size)[None] + _camera(scene, frames, fps)[:, None, None])
    return grey[:, None].expand(-1, 3, -1, -1)


def _camera(scene: Scene, frames: int, fps: float) -> Tensor:
    """Where the camera is, (F, 2) in widths."""
    return torch.arange(frames)[:, None] / fps * _CAMERA_SPEED * torch.tensor(CAMERAS[scene.camera])


def _texture(kind: str, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A grey texture as a function of points (..., 2) in widths, so that a camera may move
    over it."""
    level, phase, angle = torch.rand(3, generator=draw).tolist()
    if kind in ("dark", "light"):
        grey = (0.10 if kind == "dark" else 0.74) + 0.1 * level
        return lambda p: torch.full(p.shape[:-1], grey)
    if kind == "striped":
        x, y = torch.cos(torch.tensor(angle * pi)), torch.sin(torch.tensor(angle * pi))
        return lambda p: (
            0.42 + 0.12 * torch.tanh(2 * _wave(2.2 * (p[..., 0] * x + p[..., 1] * y) + phase))
        )
    waves = torch.rand(6, 3, generator=draw).tolist()
    return lambda p: (
        0.45
        + 0.06
        * torch.stack(
            [_wave(p[..., 0] * (4 * a - 2) + p[..., 1] * (4 * b - 2) + c) for a, b, c in waves]
        ).sum(0)
    )


def _wave(turns: Tensor) -> Tensor:
    return torch.sin(2 * pi * turns)


def render(scene: Scene, size: int = 32, frames: int = 17, fps: float = 8.0, seed: int = 0) -> Clip:
    """Draw a scene; the same seed draws the same path, size and background whatever the
    shape and colour.

    Object motion is given in the picture; a moving camera moves the background.

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
    phase, dx, dy, scale = torch.rand(4, generator=draw).tolist()
    path = trajectory(scene.motion, scene.speed, torch.arange(frames) / fps, phase)
    base = 0.17 + 0.04 * scale
    room = (0.5 - path[:, :2].abs().amax(0) - base * path[:, 2].exp().amax()).clamp(min=0, max=0.15)
    offset = room * (2 * torch.tensor([dx, dy]) - 1)
    return 0.5 + path[:, :2] + offset, base * path[:, 2].exp()


def _truth(
    mask: Tensor, centre: Tensor, radius: Tensor, shift: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Forward flow in pixels and what it cannot follow: covered by the object, or gone from
    the picture."""
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
