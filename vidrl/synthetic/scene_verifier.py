"""Read the two things of a scene back from an orbit, without learning, by drawing them again.

The verifier measures whether training has really improved the scenes. Colours are read by the
nearest hue. A thing's place is that of the middles of its outlines; its shape is the one that,
drawn again at this place by the known cameras, covers the same pixels best. `rigid` says
whether the scene that was read, drawn again, agrees with all arcs of the orbit. Where a caption
says that a thing moves, each thing is drawn again on the path that fits its outlines best.

Legend: B clips, F views, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vidrl.rewards import Card, Reward, Samples

from . import paths, scenes, splat
from .world import COLOURS

_VIEWS = 12  # of an orbit of more views, every second one is read, or every third, ...
_CHROMA = 0.25  # pixels of less saturation are background
_LEAST = 0.004  # share of a view that a thing covers at least
_FAR = 0.15  # scene units: a view that disagrees more with a thing's place is left out
_SHAPE_FIT = 0.4  # least overlap of a thing with its best shape
_RIGID_FIT = 0.6  # least overlap of the scene drawn again, in the views that fit worst
_WORST = 0.1  # share of the views that may be worse
_TRAVEL = 0.2  # scene units: a thing that travels less is at rest
_GAIN = 0.015  # scene units by which a path must fit better than rest


@dataclass(frozen=True)
class Reading:
    """What the verifier saw: of each thing (colour, shape or None, place (3,)), and the fit.

    `motions` are those of the things, "" for rest; the place of a moving thing is its mean one.
    `fit` is the overlap of the scene drawn again with the views, in [0, 1]: the value that
    90 % of the views reach.
    """

    things: tuple[tuple[str, str | None, Tensor], ...]
    fit: float
    motions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Which claims of its caption each orbit fulfils, each bool (B,).

    `rigid`: one scene explains all views; its moving thing is rigid on its path. `motion`: each
    thing moves or rests as the caption says; always True for a caption without motion, where
    `rigid` allows no motion.
    """

    colours: Tensor
    shapes: Tensor
    relation: Tensor
    rigid: Tensor
    motion: Tensor

    @property
    def all(self) -> Tensor:
        """Return whether an orbit is rigid and fulfils each word of its caption, bool (B,)."""
        return self.colours & self.shapes & self.relation & self.rigid & self.motion


class SceneVerifier(Reward):
    """Score 1 for an orbit of a rigid scene that fulfils each word of its caption, else 0.

    Meant as a judge: give it the weight 0 in [reward.parts], and a band in [guard.bands].
    """

    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 4
    lowered_by = ("grey", "shuffle")
    card = Card(
        sees="Colours, shapes, relation, and whether one rigid scene explains all views.",
        blind_to="What is smaller than 0.4 % of the view; texture and brightness.",
        hacks="Unknown; no policy was trained on it.",
        input="Square views of a full and even orbit, captions of vidrl.synthetic.scenes.",
        cost="10 ms an orbit of 24 views of 32 x 32 on one CPU thread.",
    )

    def terms(self, samples: Samples) -> Tensor:
        """Return the verdict of each clip for all of its views, (B, F)."""
        views = samples.frames
        try:
            seen = verify(views, list(samples.prompts)).all
        except ValueError:
            return views.new_full(views.shape[:2], torch.nan)
        return seen.to(views)[:, None].expand(-1, views.shape[1]).clone()


def verify(video: Tensor, captions: Sequence[str]) -> Verdict:
    """Compare orbits (B, F, 3, H, W) in [0, 1] with their captions of `vidrl.synthetic.scenes`.

    Raises ValueError for another number of captions, a caption that cannot be parsed, and
    views that are not square and in colour.

    Example:
        >>> scene = scenes.parse("a red cube left of a blue ball")
        >>> blobs = splat.blobs(scenes.made(scene, torch.Generator().manual_seed(0))[None, None])
        >>> bool(verify(splat.render(blobs, splat.cameras(12), 48), [scene.caption]).all)
        True
    """
    if len(video) != len(captions) or video.shape[2] != 3 or video.shape[-1] != video.shape[-2]:
        raise ValueError(
            "expected square views in colour (B, F, 3, H, H) and one caption a clip, got "
            f"{tuple(video.shape)} and {len(captions)} captions"
        )
    wanted = [scenes.parse(caption) for caption in captions]
    rows = [
        _compare(read(clip, any(scene.motions)), scene)
        for clip, scene in zip(video, wanted, strict=True)
    ]
    return Verdict(*torch.tensor(rows, dtype=torch.bool).reshape(-1, 5).T)


def _compare(reading: Reading, scene: scenes.Scene) -> list[bool]:
    """Return the five claims of `Verdict` for what was read of one orbit."""
    read_things = zip(reading.things, reading.motions, strict=True)
    by_colour = {colour: (shape, place, motion) for (colour, shape, place), motion in read_things}
    first, other = by_colour.get(scene.colour), by_colour.get(scene.other_colour)
    if first is None or other is None:
        return [False] * 5
    shapes = first[0] == scene.shape and other[0] == scene.other_shape
    relation = nearest_relation(first[1] - other[1]) == scene.relation
    motion = (first[2], other[2]) == scene.motions
    return [True, shapes, relation, reading.fit >= _RIGID_FIT, motion]


def nearest_relation(vector: Tensor) -> str:
    """Return the relation whose direction is nearest to a vector (3,).

    >>> nearest_relation(torch.tensor([-0.7, 0.2, 0.1]))
    'left of'
    """
    ways = torch.tensor(list(scenes.RELATIONS.values()))
    return list(scenes.RELATIONS)[int((ways @ vector).argmax())]


def read(views: Tensor, moving: bool = False) -> Reading:
    """Read the two largest things of different colours in one orbit (F, 3, H, W) in [0, 1].

    `moving`: things may move up and down; else one place of each thing must explain all views.
    """
    every = max(1, len(views) // _VIEWS)
    orbit, at = splat.cameras(len(views))[::every], paths.times(len(views))[::every]
    views = views.detach().float().cpu()[::every]
    seen = labels(views)
    masks = torch.stack([seen == i for i in range(len(COLOURS))]).float()
    area = masks.mean((2, 3)).median(1).values
    chosen = [int(i) for i in area.argsort(descending=True)[:2] if area[i] > _LEAST]
    if len(chosen) < 2:
        return Reading((), 0.0)
    found = [_tracked(masks[i], orbit, at, moving) for i in chosen]
    places = [path.places(at) for path in found]
    drawn = _drawn(chosen, places, masks, orbit)
    fits = _overlaps(drawn, masks, chosen)
    best = fits.argmax(1)
    shapes = list(scenes.SHAPES)
    things = tuple(
        (list(COLOURS)[i], shapes[int(b)] if f[b] > _SHAPE_FIT else None, path.place)
        for i, b, f, path in zip(chosen, best, fits, found, strict=True)
    )
    fit = _agreement(drawn[[0, 1], best], places, seen, chosen, orbit)
    return Reading(things, fit, tuple(path.motion for path in found))


def labels(views: Tensor) -> Tensor:
    """Return the number of the nearest colour of each pixel (F, H, W), -1 for the background."""
    palette = torch.tensor(list(COLOURS.values()))
    hues = torch.nn.functional.normalize(palette - palette.mean(1, keepdim=True), dim=1)
    deviation = views - views.mean(1, keepdim=True)
    nearest = torch.einsum("fchw,kc->kfhw", deviation, hues).argmax(0)
    return nearest.masked_fill(views.amax(1) - views.amin(1) < _CHROMA, -1)


@dataclass(frozen=True)
class _Path:
    """Where a thing is: its mean place (3,), its motion, and how far it travels."""

    place: Tensor
    motion: str
    travel: float
    error: float

    def places(self, at: Tensor) -> Tensor:
        """Return the places (F, 3) at times (F,)."""
        height = self.travel * paths.profile(self.motion, at)
        return self.place + height[:, None] * torch.tensor([0.0, 1.0, 0.0])


def _tracked(mask: Tensor, orbit: Tensor, at: Tensor, moving: bool) -> _Path:
    """Return the path that fits a thing's outlines (F, H, W) best; rest, if nearly as good."""
    still = _fitted(mask, orbit, at, "")
    if not moving:
        return still
    found = [_fitted(mask, orbit, at, motion) for motion in paths.MOTIONS]
    found = [path for path in found if path.travel > _TRAVEL]
    best = min(found, key=lambda path: path.error, default=still)
    return best if best.error < still.error - _GAIN else still


def _fitted(mask: Tensor, orbit: Tensor, at: Tensor, motion: str) -> _Path:
    """Return the path of a motion that fits the middles of a thing's outlines (F, H, W) best.

    Views that disagree are left out, and the path is fitted again. `error` is the mean distance
    in scene units, in which a view counts at most as `_FAR`.
    """
    middles, visible = _middles(mask)
    weight = visible.float()
    unknown = orbit[:, :2]
    if motion:  # the fourth unknown is the travel
        rise = orbit[:, :2, 1] * paths.profile(motion, at)[:, None]
        unknown = torch.cat([unknown, rise[..., None]], 2)
    for _ in range(3):
        rows = (unknown * weight[:, None, None]).flatten(0, 1)
        found = torch.linalg.lstsq(rows, (middles * weight[:, None]).reshape(-1, 1)).solution[:, 0]
        away = (middles - unknown @ found).norm(dim=1)
        near = visible & (away < _FAR)
        weight = near.float() if int(near.sum()) >= 3 else weight
    error = away[visible].clamp(max=_FAR).mean() if bool(visible.any()) else away.new_tensor(_FAR)
    travel = float(found[3]) if motion else 0.0
    return _Path(found[:3], motion, travel, float(error))


def _middles(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the middles (F, 2) between the outermost pixels of masks, and where there are any."""
    axis = splat.pixel_axis(mask.shape[-1])
    found = []
    for along, sign in ((1, 1.0), (2, -1.0)):
        inside = mask.amax(along) > 0  # (F, side): columns, then rows, that the thing touches
        low = torch.where(inside, axis, 2.0).amin(1)
        high = torch.where(inside, axis, -2.0).amax(1)
        found.append(sign * (low + high) / 2)
    return torch.stack(found, 1), mask.mean((1, 2)) > _LEAST / 2


def _drawn(chosen: Sequence[int], places: Sequence[Tensor], masks: Tensor, orbit: Tensor) -> Tensor:
    """Return the masks (2, shapes, F, H, W) of each thing drawn again with each shape.

    `places` (F, 3) each.
    The size is the one at which the shape covers as much as the thing, in the median view.
    """
    side = masks.shape[-1]
    found = []
    for i, place in zip(chosen, places, strict=True):
        area = _areas(i, len(orbit), side)
        scale = (masks[i].mean((1, 2)).median() / area).sqrt().clamp(0.5, 1.8)
        found.append(_shapes(i, place, scale, orbit, side))
    return torch.stack(found)


@lru_cache
def _areas(colour: int, views: int, side: int) -> Tensor:
    """Return the share of the view that each shape of usual size covers, (shapes,)."""
    shapes = torch.ones(len(scenes.SHAPES))
    drawn = _shapes(colour, torch.zeros(1, 3), shapes, splat.cameras(views), side)
    return drawn.mean((2, 3)).median(1).values.clamp(min=1e-4)


def _shapes(colour: int, places: Tensor, scale: Tensor, orbit: Tensor, side: int) -> Tensor:
    """Return the masks (shapes, F, H, W) of all shapes of a colour at places (F or 1, 3)."""
    rgb = list(COLOURS.values())[colour]
    shade = torch.tensor(scenes.SHADES).repeat(scenes.EACH // 2)[:, None]
    offsets = torch.stack([offset for offset, _ in scenes.SHAPES.values()])
    sizes = torch.tensor([size for _, size in scenes.SHAPES.values()])
    blobs = splat.Blobs(
        places[:, None] + (scale[:, None, None] * offsets)[:, None],
        (scale * sizes)[:, None, None].expand(-1, 1, scenes.EACH),
        (shade * torch.tensor(rgb)).expand(len(sizes), 1, -1, -1),
        torch.full((len(sizes), 1, scenes.EACH), 0.98),
    )
    views = splat.render(blobs, orbit, side)
    return (labels(views.flatten(0, 1)) == colour).float().unflatten(0, views.shape[:2])


def _overlaps(drawn: Tensor, masks: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return the overlap of each thing with each shape, (2, shapes), where no other thing is."""
    rows = []
    for k, i in enumerate(chosen):
        free = 1 - masks[chosen[1 - k]]
        both = (drawn[k] * masks[i] * free).sum((1, 2, 3))
        rows.append(both / (torch.maximum(drawn[k], masks[i]) * free).sum((1, 2, 3)).clamp(min=1))
    return torch.stack(rows)


def _agreement(
    drawn: Tensor, places: Sequence[Tensor], seen: Tensor, chosen: Sequence[int], orbit: Tensor
) -> float:
    """Return the overlap of the scene drawn again with what was seen, in the worst views.

    `drawn` (2, F, H, W) are the masks of the two things, `seen` (F, H, W) the colours' numbers.
    """
    depth = torch.stack([(orbit[:, 2] * place).sum(1) for place in places])
    nearer = (depth[0] > depth[1])[:, None, None]
    first, other = drawn.bool()
    again = torch.full_like(seen, -1)
    again = torch.where(other & (~first | ~nearer), chosen[1], again)
    again = torch.where(first & (~other | nearer), chosen[0], again)
    both = ((again == seen) & (seen >= 0)).sum((1, 2))
    either = ((again >= 0) | (seen >= 0)).sum((1, 2)).clamp(min=1)
    return float((both / either).quantile(_WORST))
