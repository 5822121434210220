"""Read the two things of a scene back from an orbit, without learning, by drawing them again.

The verifier measures whether training has really improved the scenes. Colours are read by the
nearest hue. A thing's place is that of the middles of its outlines; its shape is the one that,
drawn again at this place by the known cameras, covers the same pixels best. `rigid` says
whether the scene that was read, drawn again, agrees with all arcs of the orbit.

Legend: B clips, F views, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vidrl.rewards import Card, Reward, Samples

from . import scenes, splat
from .world import COLOURS

_VIEWS = 12  # of an orbit of more views, every second one is read, or every third, ...
_CHROMA = 0.25  # pixels of less saturation are background
_LEAST = 0.004  # share of a view that a thing covers at least
_FAR = 0.15  # scene units: a view that disagrees more with a thing's place is left out
_SHAPE_FIT = 0.4  # least overlap of a thing with its best shape
_RIGID_FIT = 0.6  # least overlap of the scene drawn again, in the views that fit worst
_WORST = 0.1  # share of the views that may be worse


@dataclass(frozen=True)
class Reading:
    """What the verifier saw: of each thing (colour, shape or None, place (3,)), and the fit.

    `fit` is the overlap of the scene drawn again with the views, in [0, 1]: the value that
    90 % of the views reach.
    """

    things: tuple[tuple[str, str | None, Tensor], ...]
    fit: float


@dataclass(frozen=True)
class Verdict:
    """Which claims of its caption each orbit fulfils, each bool (B,)."""

    colours: Tensor
    shapes: Tensor
    relation: Tensor
    rigid: Tensor

    @property
    def all(self) -> Tensor:
        """Return whether an orbit is rigid and fulfils each word of its caption, bool (B,)."""
        return self.colours & self.shapes & self.relation & self.rigid


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
    rows = [_compare(read(clip), scene) for clip, scene in zip(video, wanted, strict=True)]
    return Verdict(*torch.tensor(rows, dtype=torch.bool).reshape(-1, 4).T)


def _compare(reading: Reading, scene: scenes.Scene) -> list[bool]:
    """Return whether colours, shapes and relation are those of the scene, and it is rigid."""
    by_colour = {colour: (shape, place) for colour, shape, place in reading.things}
    first, other = by_colour.get(scene.colour), by_colour.get(scene.other_colour)
    if first is None or other is None:
        return [False, False, False, False]
    shapes = first[0] == scene.shape and other[0] == scene.other_shape
    relation = nearest_relation(first[1] - other[1]) == scene.relation
    return [True, shapes, relation, reading.fit >= _RIGID_FIT]


def nearest_relation(vector: Tensor) -> str:
    """Return the relation whose direction is nearest to a vector (3,).

    >>> nearest_relation(torch.tensor([-0.7, 0.2, 0.1]))
    'left of'
    """
    ways = torch.tensor(list(scenes.RELATIONS.values()))
    return list(scenes.RELATIONS)[int((ways @ vector).argmax())]


def read(views: Tensor) -> Reading:
    """Read the two largest things of different colours in one orbit (F, 3, H, W) in [0, 1]."""
    orbit = splat.cameras(len(views))[:: max(1, len(views) // _VIEWS)]
    views = views.detach().float().cpu()[:: max(1, len(views) // _VIEWS)]
    seen = labels(views)
    masks = torch.stack([seen == i for i in range(len(COLOURS))]).float()
    area = masks.mean((2, 3)).median(1).values
    chosen = [int(i) for i in area.argsort(descending=True)[:2] if area[i] > _LEAST]
    if len(chosen) < 2:
        return Reading((), 0.0)
    places = [_place(masks[i], orbit) for i in chosen]
    drawn = _drawn(chosen, places, masks, orbit)
    fits = _overlaps(drawn, masks, chosen)
    best = fits.argmax(1)
    shapes = list(scenes.SHAPES)
    things = tuple(
        (list(COLOURS)[i], shapes[int(b)] if f[b] > _SHAPE_FIT else None, place)
        for i, b, f, place in zip(chosen, best, fits, places, strict=True)
    )
    return Reading(things, _agreement(drawn[[0, 1], best], places, seen, chosen, orbit))


def labels(views: Tensor) -> Tensor:
    """Return the number of the nearest colour of each pixel (F, H, W), -1 for the background."""
    palette = torch.tensor(list(COLOURS.values()))
    hues = torch.nn.functional.normalize(palette - palette.mean(1, keepdim=True), dim=1)
    deviation = views - views.mean(1, keepdim=True)
    nearest = torch.einsum("fchw,kc->kfhw", deviation, hues).argmax(0)
    return nearest.masked_fill(views.amax(1) - views.amin(1) < _CHROMA, -1)


def _place(mask: Tensor, orbit: Tensor) -> Tensor:
    """Return the point (3,) that fits the middles of a thing's outlines (F, H, W) best.

    Views that disagree are left out, and the point is fitted again.
    """
    at, visible = _middles(mask)
    weight = visible.float()
    for _ in range(3):
        rows = (orbit[:, :2] * weight[:, None, None]).reshape(-1, 3)
        place = torch.linalg.lstsq(rows, (at * weight[:, None]).reshape(-1, 1)).solution[:, 0]
        near = (at - orbit[:, :2] @ place).norm(dim=1) < _FAR
        weight = (visible & near).float() if int((visible & near).sum()) >= 3 else weight
    return place


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
    drawn = _shapes(colour, torch.zeros(3), shapes, splat.cameras(views), side)
    return drawn.mean((2, 3)).median(1).values.clamp(min=1e-4)


def _shapes(colour: int, place: Tensor, scale: Tensor, orbit: Tensor, side: int) -> Tensor:
    """Return the masks (shapes, F, H, W) of all shapes of a colour at a place."""
    rgb = list(COLOURS.values())[colour]
    shade = torch.tensor(scenes.SHADES).repeat(scenes.EACH // 2)[:, None]
    offsets = torch.stack([offset for offset, _ in scenes.SHAPES.values()])
    sizes = torch.tensor([size for _, size in scenes.SHAPES.values()])
    blobs = splat.Blobs(
        (place + scale[:, None, None] * offsets)[:, None],
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
    depth = torch.stack([orbit[:, 2] @ place for place in places])
    nearer = (depth[0] > depth[1])[:, None, None]
    first, other = drawn.bool()
    again = torch.full_like(seen, -1)
    again = torch.where(other & (~first | ~nearer), chosen[1], again)
    again = torch.where(first & (~other | nearer), chosen[0], again)
    both = ((again == seen) & (seen >= 0)).sum((1, 2))
    either = ((again >= 0) | (seen >= 0)).sum((1, 2)).clamp(min=1)
    return float((both / either).quantile(_WORST))
