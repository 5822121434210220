"""Read shape, colour and motion back from clips of `vidrl.synthetic.world`, without learning.

The verifier measures whether training has really improved the clips: no reward uses this
code, so that no policy is trained to deceive it. The object is the only saturated part of a
world clip, so its mask is found by saturation; the shape by correlation with templates; the
motion by the nearest ideal path.

Legend: B clips, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan, pi

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample

from . import world

_CANON = 24  # side of the normalised mask, pixels
_EXTENT = 1.7  # half-width of the normalised mask, in radii of a disc of the same area
_SIZE_WEIGHT = 0.35  # weight of the log-size against the position in widths, in a path
_SPRAWL = 1.35  # a mask that is spread more is coloured grain, not an object
_AREA = (0.008, 0.6)  # least and greatest area of an object, as a fraction of the frame
_BLURS = (1.0, 1.6)  # sigma of the blurred templates, pixels of a 32-pixel frame
_MIN_SCORE = 0.6  # least correlation with the best template for a mask to have a shape


@dataclass(frozen=True)
class Reading:
    """What the verifier saw in one clip; None if under 3/4 of the frames show an object.

    `identity` in [0, 1] is the fraction of frames in which the object has the most frequent
    shape and colour of the clip: an object that appears, morphs or changes its colour has
    less than 1. An image (one frame) has no motion (None) and no identity (NaN).
    """

    shape: str | None
    colour: str | None
    motion: str | None
    identity: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Which words of its caption each clip fulfils (bool, (B,)), and `Reading.identity` (B,).

    For images `motion` is None, `all` means shape and colour, and `identity` is NaN.
    """

    shape: Tensor
    colour: Tensor
    motion: Tensor | None
    identity: Tensor

    @property
    def all(self) -> Tensor:
        """Return whether a clip fulfils each word of its caption, bool (B,)."""
        both = self.shape & self.colour
        return both if self.motion is None else both & self.motion


def verify(video: Tensor, captions: Sequence[str], fps: float = 8.0) -> Verdict:
    """Compare clips (B, F, 3, H, W) in [0, 1] with their captions of `vidrl.synthetic.world`.

    Raises ValueError for another number of captions, or a caption that `world` cannot parse.

    Example:
        >>> clip = world.render(world.Scene("cross", "blue", "left"))
        >>> bool(verify(clip.video[None], [clip.caption]).all)
        True
    """
    if len(video) != len(captions):
        raise ValueError(
            f"expected one caption a clip, got {len(video)} clips and {len(captions)} captions"
        )
    readings = [read(clip, fps) for clip in video]
    scenes = [world.parse(caption) for caption in captions]
    words = ("shape", "colour", "motion")
    rows = [
        [getattr(reading, word) == getattr(scene, word) for word in words]
        for reading, scene in zip(readings, scenes, strict=True)
    ]
    shape, colour, motion = torch.tensor(rows).reshape(-1, 3).T
    still = video.shape[1] == 1
    return Verdict(
        shape,
        colour,
        None if still else motion,
        torch.tensor([reading.identity for reading in readings]),
    )


def read(video: Tensor, fps: float = 8.0) -> Reading:
    """Read shape, colour and motion of the object in one clip (F, 3, H, W) in [0, 1].

    Example:
        >>> read(world.render(world.Scene("cross", "blue", "rest")).video[:1])  # an image
        Reading(shape='cross', colour='blue', motion=None, identity=nan)
    """
    video = video.detach().float().cpu()
    mask = object_mask(video)
    area = mask.mean((1, 2))
    has_object = (area > _AREA[0]) & (area < _AREA[1]) & (_sprawl(mask, area) < _SPRAWL)
    is_image = len(video) == 1
    # A motion needs the object in at least two frames.
    if has_object.sum() < (1 if is_image else 2):
        return Reading(None, None, None, nan if is_image else 0.0)
    centre = centroid(mask)
    shapes, colours = (
        _shapes(mask[has_object], centre[has_object], area[has_object]),
        _colours(video[has_object], mask[has_object]),
    )
    typical = (shapes.argmax(1) == shapes.argmax(1).mode().values) & (
        colours == colours.mode().values
    )
    # Divided by all frames: a frame without the object has lost the identity too.
    identity = nan if is_image else int(typical.sum()) / len(video)
    if has_object.float().mean() < 0.75:
        return Reading(None, None, None, identity)
    # One shape for the clip: the correlations are averaged before the best one is chosen.
    shape = (
        world.SHAPES[int(shapes.mean(0).argmax())] if shapes.mean(0).amax() > _MIN_SCORE else None
    )
    colour = list(world.COLOURS)[int(colours.mode().values)]
    return Reading(
        shape, colour, None if is_image else _motion(centre, area, has_object, fps), identity
    )


def object_mask(video: Tensor) -> Tensor:
    """Return the soft mask (F, H, W) of saturated pixels.

    The mask is 1/2 where a pixel has half of the strongest saturation of its clip. The scale
    is relative so that a soft edge does not make the object larger. The strongest saturation
    counts as at least 0.3, so that a pale clip has no object.
    """
    chroma = video.amax(1) - video.amin(1)
    # The mean of the top 1 % of each frame, median over frames: robust against single pixels.
    strongest = (
        chroma.flatten(1)
        .topk(max(1, chroma[0].numel() // 100))
        .values.mean(1)
        .median()
        .clamp(min=0.3)
    )
    return ((chroma / strongest - 0.25) / 0.5).clamp(0, 1)


def _sprawl(mask: Tensor, area: Tensor) -> Tensor:
    """Return how far each mask is spread from its centre, (F,): 1 for a disc, more otherwise.

    √(2π · (mean squared distance from the centre) / area); a disc of radius r has the mean
    squared distance r² / 2.
    """
    grid = world.pixel_grid(mask.shape[-1])
    away = (grid - centroid(mask)[:, None, None]).square().sum(-1)
    variance = (mask * away).sum((1, 2)) / mask.sum((1, 2))
    return (2 * pi * variance / area).sqrt()


def centroid(mask: Tensor) -> Tensor:
    """Return the centre of mass (F, 2) as (x, y), in widths; NaN where the mask is empty."""
    grid = world.pixel_grid(mask.shape[-1])
    return torch.einsum("fhw,hwc->fc", mask, grid) / mask.sum((1, 2))[:, None]


def _colours(video: Tensor, mask: Tensor) -> Tensor:
    """Return the number of the palette colour with the nearest hue, for each frame (F,)."""
    mean = torch.einsum("fchw,fhw->fc", video, mask) / mask.sum((1, 2))[:, None]
    return (_hue(mean) @ _hue(torch.tensor(list(world.COLOURS.values()))).T).argmax(1)


def _hue(rgb: Tensor) -> Tensor:
    """Return the unit vector of a colour's deviation from grey."""
    return torch.nn.functional.normalize(rgb - rgb.mean(-1, keepdim=True), dim=-1)


def _canonical(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """Return masks centred and scaled to one area, (F, 24 · 24), with zero mean and unit norm.

    The scalar product of two such masks is their correlation.
    """
    radius = (area / pi).sqrt() * _EXTENT
    axis = torch.linspace(-1, 1, _CANON)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = centre[:, None, None] + torch.stack([x, y], -1) * radius[:, None, None, None]
    flat = grid_sample(mask[:, None], 2 * points - 1, align_corners=False)[:, 0].flatten(1)
    return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)


@lru_cache
def _templates() -> Tensor:
    """Return ideal masks of each shape (K, shapes, pixels): sharp, and with two blurs.

    The blurs are as strong as those of a small autoencoder.
    """
    masks = torch.cat(
        [
            world.coverage(s, torch.tensor([[0.5, 0.5]]), torch.tensor([0.2]), 32)
            for s in world.SHAPES
        ]
    )
    soft = [masks, *(_softened(masks, sigma) for sigma in _BLURS)]
    return torch.stack([_canonical(m, centroid(m), m.mean((1, 2))) for m in soft])


def _softened(masks: Tensor, sigma: float) -> Tensor:
    """Return masks blurred by `sigma` pixels, with the thresholds of `object_mask` applied."""
    at = torch.arange(-4, 5.0)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    blurred = conv2d(
        masks[:, None], (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None], padding=4
    )[:, 0]
    return ((blurred / blurred.amax((1, 2), keepdim=True) - 0.25) / 0.5).clamp(0, 1)


def _shapes(mask: Tensor, centre: Tensor, area: Tensor) -> Tensor:
    """Return each mask's best correlation with the templates of each shape, (F, shapes)."""
    normalised = _canonical(mask, centre, area)
    return torch.einsum("fp,ksp->fks", normalised, _templates()).amax(1)


@lru_cache
def _bank(frames: int, fps: float) -> tuple[tuple[str, ...], Tensor]:
    """Return the names and paths (N, F, 3) of every motion at several rates and phases."""
    seconds = torch.arange(frames) / fps
    names, paths = [], []
    for motion in world.MOTIONS:
        # Only motions that repeat have a phase; only motions that move have a rate.
        phases = [i / 16 for i in range(16)] if motion in ("bounce", "circle") else [0.0]
        rates = (1.0,) if motion == "rest" else (0.75, 1.0, 1.5, 2.0, 2.6)  # of the slow speed
        for phase in phases:
            for rate in rates:
                names.append(motion)
                paths.append(world.trajectory(motion, "slow", seconds, phase, rate))
    return tuple(names), torch.stack(paths)


def _motion(centre: Tensor, area: Tensor, has_object: Tensor, fps: float) -> str:
    """Return the motion whose ideal path is nearest, after removal of mean position and size."""
    names, bank = _bank(len(centre), float(fps))
    # Half of the log-area is the log-radius, the third coordinate of `world.trajectory`.
    path = torch.cat([centre, area.clamp(min=1e-6).log()[:, None] / 2], 1)[has_object]
    weight = torch.tensor([1.0, 1.0, _SIZE_WEIGHT])
    ideal = bank[:, has_object]
    error = (path - path.mean(0) - ideal + ideal.mean(1, keepdim=True)) * weight
    return names[int(error.square().sum((1, 2)).argmin())]
