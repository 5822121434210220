"""Make captioned scenes of two things in space, as blobs whose truth is known, with faults.

A caption is "a {colour} {shape} {relation} a {colour} {shape}", as seen by the first view of
the orbit of `vidrl.synthetic.splat`. In a moving scene (4D) one thing moves while the camera
goes round, and its caption says so: "a rising red cube left of a blue ball". A scene has 20
blobs: 8 for each thing, and 4 spare ones, which are not visible in a scene without faults.

Legend: L arcs of the orbit, N = 20 blobs, T times of `vidrl.synthetic.paths`; places and lengths
are in scene units, of which the picture shows [-1, 1].
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from . import paths, splat
from .world import COLOURS

EACH, SPARE = 8, 4  # blobs of a thing, and blobs that only faults show
BLOBS = 2 * EACH + SPARE
THINGS = (slice(0, EACH), slice(EACH, 2 * EACH))  # the blobs of each thing
# the direction from the second thing to the first one
RELATIONS = {
    "left of": (-1.0, 0.0, 0.0),
    "right of": (1.0, 0.0, 0.0),
    "above": (0.0, 1.0, 0.0),
    "below": (0.0, -1.0, 0.0),
    "in front of": (0.0, 0.0, 1.0),
    "behind": (0.0, 0.0, -1.0),
}
SHADES = (1.0, 0.75)  # blobs of a thing are bright and dark in turn, so that it has texture
_HELD_OUT = 128  # captions for evaluation that training never shows
_DISTANCE = (0.74, 0.96)  # between the things, drawn evenly
_SCALE = (0.85, 1.15)  # of a thing, drawn evenly
_JITTER = 0.04  # standard deviation of a thing's place
_TRAVEL = (0.45, 0.6)  # how far a thing moves up or down, drawn evenly

_CORNERS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
_COLUMN = torch.linspace(-1, 1, EACH)[:, None] * torch.tensor([0.0, 1.0, 0.0])
# of each shape: the blobs' places (8, 3), and their standard deviation
SHAPES = {
    "cube": (0.17 * _CORNERS, 0.10),
    "ball": (0.06 * _CORNERS, 0.13),
    "pillar": (0.34 * _COLUMN, 0.075),
}


@dataclass(frozen=True)
class Scene:
    """A scene of two things of different colours, and where the first is seen from the second.

    `motion` and `other_motion` are motions of `paths.MOTIONS`, or "" for a thing at rest.

    Example:
        >>> Scene("cube", "red", "left of", "ball", "blue").caption
        'a red cube left of a blue ball'
        >>> Scene("cube", "red", "left of", "ball", "blue", "rising").caption
        'a rising red cube left of a blue ball'
    """

    shape: str
    colour: str
    relation: str
    other_shape: str
    other_colour: str
    motion: str = ""
    other_motion: str = ""

    @property
    def caption(self) -> str:
        """Return the sentence that describes the scene; `parse` reverses it."""
        first = f"{self.motion} {self.colour} {self.shape}".strip()
        other = f"{self.other_motion} {self.other_colour} {self.other_shape}".strip()
        return f"a {first} {self.relation} a {other}"

    @property
    def motions(self) -> tuple[str, str]:
        """Return the motions of both things."""
        return self.motion, self.other_motion


def parse(caption: str) -> Scene:
    """Return the scene of a caption; raise ValueError for other texts.

    Example:
        >>> parse("a red cube left of a blue ball").other_shape
        'ball'
    """
    scene = _captions().get(str(caption))  # a `Prompt` with an image is not equal to its text
    if scene is None:
        raise ValueError(
            "expected a caption of vidrl.synthetic.scenes such as 'a red cube left of a blue "
            f"ball', with colours of {', '.join(COLOURS)} and shapes of {', '.join(SHAPES)}, got "
            f"{caption!r}"
        )
    return scene


@lru_cache
def _captions() -> dict[str, Scene]:
    """Return every scene by its caption."""
    return {scene.caption: scene for scene in [*all_scenes(), *moving_scenes()]}


def all_scenes() -> list[Scene]:
    """Return every scene at rest, in a fixed order; the two things never have one colour.

    >>> len(all_scenes())
    1620
    """
    axes = itertools.product(SHAPES, COLOURS, RELATIONS, SHAPES, COLOURS)
    return [Scene(*axis) for axis in axes if axis[1] != axis[4]]


def moving_scenes() -> list[Scene]:
    """Return every scene in which one thing moves, in a fixed order.

    The things stand beside each other, so that a thing that rises does not meet the other one.

    >>> len(moving_scenes())
    6480
    """
    beside = [scene for scene in all_scenes() if RELATIONS[scene.relation][1] == 0]
    return [
        replace(scene, **{which: motion})  # type: ignore[arg-type]
        for scene in beside
        for motion in paths.MOTIONS
        for which in ("motion", "other_motion")
    ]


@lru_cache
def _split(moving: bool) -> tuple[list[Scene], list[Scene]]:
    """Return the scenes to train on and the held-out ones, in an order fixed by its own seed."""
    pool = moving_scenes() if moving else all_scenes()
    mixed = random.Random(20261).sample(pool, len(pool))
    return mixed[_HELD_OUT:], mixed[:_HELD_OUT]


def scenes(split: str, n: int | None = None, moving: bool = False) -> list[Scene]:
    """Return the first `n` scenes of the split "train" or "held_out"; no caption is in both.

    None returns all, 1492 and 128 at rest, and 6352 and 128 in which a thing moves (`moving`).
    Raises ValueError for another split.

    Example:
        >>> held = {s.caption for s in scenes("held_out")}
        >>> len(held), held.isdisjoint(s.caption for s in scenes("train"))
        (128, True)
    """
    if split not in ("train", "held_out"):
        raise ValueError(f'expected split "train" or "held_out", got {split!r}')
    return _split(moving)[split == "held_out"][:n]


def made(scene: Scene, draw: torch.Generator, distance: float | None = None) -> Tensor:
    """Return the tokens (20, 8) of a scene without faults; size and place vary with `draw`.

    Of a scene in which a thing moves, this is the scene in the middle of the path; `filmed`
    moves the thing. `distance`: between the two things, about 0.85 by default. Raises ValueError
    for a distance at which a thing leaves the picture in some view.

    >>> made(parse("a red cube left of a blue ball"), torch.Generator()).shape
    torch.Size([20, 8])
    """
    apart = _between(_DISTANCE, draw) if distance is None else distance
    way = torch.tensor(RELATIONS[scene.relation]) * apart / 2
    things = [
        thing(scene.shape, scene.colour, way, draw),
        thing(scene.other_shape, scene.other_colour, -way, draw),
    ]
    found = torch.cat([*things, spare(draw)])
    check_inside(splat.blobs(found[: 2 * EACH]), scene.caption)
    return found


def filmed(scene: Scene, draw: torch.Generator, at: Tensor) -> Tensor:
    """Return the tokens (T, 20, 8) of a scene without faults at times (T,) of the orbit.

    The moving thing travels 0.45 to 0.6 scene units. Raises ValueError as `made` does.

    >>> rising = parse("a rising red cube left of a blue ball")
    >>> height = filmed(rising, torch.Generator(), paths.times(4))[:, :8, 1].mean(1) / 2
    >>> bool((height.diff() > 0.1).all())
    True
    """
    found = made(scene, draw).repeat(len(at), 1, 1)
    travel = _between(_TRAVEL, draw)
    for which, motion in enumerate(scene.motions):
        path = travel * paths.profile(motion, at)
        found[:, EACH * which : EACH * (which + 1), 1] += 2 * path[:, None]  # place = token / 2
    check_inside(splat.blobs(found[:, : 2 * EACH].flatten(0, 1)), scene.caption)
    return found


def _between(ends: tuple[float, float], draw: torch.Generator) -> float:
    """Return a number drawn evenly between two ends."""
    return ends[0] + (ends[1] - ends[0]) * float(torch.rand((), generator=draw))


def thing(shape: str, colour: str, centre: Tensor, draw: torch.Generator) -> Tensor:
    """Return the tokens (8, 8) of a thing near `centre` (3,), opaque."""
    offsets, size = SHAPES[shape]
    scale = _between(_SCALE, draw)
    centre = centre + _JITTER * torch.randn(3, generator=draw)
    shade = torch.tensor(SHADES).repeat(EACH // 2)[:, None]
    return splat.tokens(
        splat.Blobs(
            centre + scale * offsets,
            torch.full((EACH,), scale * size),
            shade * torch.tensor(COLOURS[colour]),
            torch.full((EACH,), 0.98),
        )
    )


def spare(draw: torch.Generator) -> Tensor:
    """Return the tokens (4, 8) of blobs that nobody sees, anywhere and of any colour."""
    tokens = torch.randn(SPARE, splat.CHANNELS, generator=draw) * 0.6
    tokens[:, 7] = -1.0  # an opacity of 0.02
    return tokens


def check_inside(made: splat.Blobs, caption: str, views: int = 24) -> None:
    """Raise ValueError where a blob's middle leaves the picture in some view of the orbit.

    `made`: the blobs (N) of one scene.
    """
    seen = torch.einsum("fij,nj->fni", splat.cameras(views), made.place)[..., :2].abs().amax(-1)
    view, blob = divmod(int(seen.argmax()), seen.shape[1])
    if seen.max() > 1:
        raise ValueError(
            f"expected things that stay in the picture, which shows [-1, 1], in all {views} views "
            f"of {caption!r}, got blob {blob % (2 * EACH)} at {float(seen.max()):.2f} in view "
            f"{view}: put the things closer together"
        )


# Faults of the kind that scenes and multi-view pictures of the web have: each takes the tokens
# (L, 20, 8) of the arcs, which are equal in a scene without faults, and changes them in place.


def shift(arcs: Tensor, draw: torch.Generator) -> None:
    """Give one thing another place in each arc, so that it jumps where arcs meet."""
    which = EACH * int(torch.randint(2, (), generator=draw))
    by = torch.randn(len(arcs), 1, 3, generator=draw) * 0.35
    arcs[:, which : which + EACH, :3] += by


def recolour(arcs: Tensor, draw: torch.Generator) -> None:
    """Give one thing a wrong colour in one arc."""
    which = EACH * int(torch.randint(2, (), generator=draw))
    arc = int(torch.randint(len(arcs), (), generator=draw))
    colour = list(COLOURS.values())[int(torch.randint(len(COLOURS), (), generator=draw))]
    shade = torch.tensor(SHADES).repeat(EACH // 2)[:, None]
    arcs[arc, which : which + EACH, 4:7] = (shade * torch.tensor(colour)).logit(1e-4) / 2


def floaters(arcs: Tensor, draw: torch.Generator) -> None:
    """Show the spare blobs, in some arcs only: fog and specks that belong to no thing."""
    visible = torch.rand(len(arcs), SPARE, generator=draw) < 0.7
    arcs[:, 2 * EACH :, 7] = torch.where(visible, 0.8, -1.0)


def swap(arcs: Tensor, draw: torch.Generator) -> None:
    """Exchange the places of the two things, so that the caption is wrong."""
    middle = [arcs[:, i : i + EACH, :3].mean(1, keepdim=True) for i in (0, EACH)]
    arcs[:, :EACH, :3] += middle[1] - middle[0]
    arcs[:, EACH : 2 * EACH, :3] += middle[0] - middle[1]


def stall(arcs: Tensor, draw: torch.Generator) -> None:
    """Keep each thing where it is in the mean of the arcs, so that nothing moves."""
    for thing_ in THINGS:
        arcs[:, thing_, :3] -= _offsets(arcs, thing_)


def mirror(arcs: Tensor, draw: torch.Generator) -> None:
    """Turn each thing's path around its mean place, so that what should rise sinks."""
    for thing_ in THINGS:
        arcs[:, thing_, :3] -= 2 * _offsets(arcs, thing_)


def hand_over(arcs: Tensor, draw: torch.Generator) -> None:
    """Exchange the paths of the two things, so that the wrong one moves."""
    first, other = (_offsets(arcs, thing_) for thing_ in THINGS)
    arcs[:, THINGS[0], :3] += other - first
    arcs[:, THINGS[1], :3] += first - other


def _offsets(arcs: Tensor, thing_: slice) -> Tensor:
    """Return how far a thing is from its mean place in each arc, (L, 1, 3) in tokens."""
    middle = arcs[:, thing_, :3].mean(1, keepdim=True)
    return middle - middle.mean(0)


FAULTS: dict[Callable[[Tensor, torch.Generator], None], float] = {
    shift: 0.25,
    recolour: 0.15,
    floaters: 0.25,
    swap: 0.12,
}
# the further faults of scenes in which a thing moves
MOVING_FAULTS: dict[Callable[[Tensor, torch.Generator], None], float] = {
    stall: 0.15,
    mirror: 0.1,
    hand_over: 0.1,
}


def fault_shares(moving: bool) -> dict[Callable[[Tensor, torch.Generator], None], float]:
    """Return the faults of the training set, and the share of its scenes that has each.

    >>> len(fault_shares(moving=False)), len(fault_shares(moving=True))
    (4, 7)
    """
    return FAULTS | MOVING_FAULTS if moving else FAULTS


def corpus(seed: int, arcs: int, moving: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield captions and tokens (L, 20, 8) of the training set without end.

    Each fault happens with its share of `FAULTS`, so that about 57 % of the scenes have one.
    `moving`: one thing moves in each scene, and `MOVING_FAULTS` happen too.
    """
    pool, draw = scenes("train", moving=moving), torch.Generator().manual_seed(seed)
    while True:
        scene = pool[int(torch.randint(len(pool), (), generator=draw))]
        found = (
            filmed(scene, draw, paths.times(arcs))
            if moving
            else made(scene, draw).repeat(arcs, 1, 1)
        )
        for fault, share in fault_shares(moving).items():
            if float(torch.rand((), generator=draw)) < share:
                fault(found, draw)
        yield scene.caption, found
