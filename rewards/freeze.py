"""A reward that finds repeated frames: holds, duplicates, stutter, and clips that stop."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ._flow import kernels, planes
from ._prompts.motion_words import asks_for_rest
from .base import About, Card, Reward, Samples
from .flow import quantile

CELLS = 16  # changes are measured in a grid of 16 x 16 cells


class Freeze(Reward):
    """Minus the share of the clip in which the picture repeats although it should move.

    The range is [-1, 0]; a clip without repeats gets 0 and a still -1. d is the change
    between neighbouring frames: |difference|, averaged over the channels and over each cell
    of a 16 x 16 grid, and then the mean of the 4 largest of the 256 cells, so that one
    small moving thing counts. d is 0 where all cells change alike, as fresh grain or a
    change of light over a held picture does.

    A pair of frames repeats if d is at most `exact`, or at most `near` times the usual
    change around the pair (the upper quartile within `window` seconds). The second rule
    finds repeats that went through a codec: they are not exact but far more alike than
    their neighbours. Between one and two times that bound, the pair counts in part. Where
    the prompt asks for rest, only repeats amid motion count: pairs with a change above
    twice `exact` on both sides within `window` seconds.

    Frames are measured at a shorter side of at most 192. A term compares two neighbouring
    frames and is credited to both.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> Freeze()(Samples(still, ["a boat"], 8.0)).value
    tensor([-1.])
    """

    version = "2"  # 2: grain over a held picture does not count as change
    lowered_by = ("freeze", "duplicate", "stutter", "grey")
    range = (-1.0, 0.0)
    time_support = "pair"
    lookahead = 1
    shrinks = True
    card = Card(
        sees="Repeated frames, exact or changed only by a codec: holds, duplicates, stutter, "
        "and clips that stop.",
        blind_to="A frozen picture under a synthetic pan, and slow motion made by blending. "
        "Animation that shows each drawing twice looks like duplicates, and a wanted "
        "stillness looks like a freeze unless the prompt asks for rest.",
        hacks="Any change in every frame that is stronger in some places than in others. Add "
        "temporal_flicker and dynamic_degree.",
        input="At least 2 frames of 8 pixels, at the original frame rate: a clip that was "
        "converted from a lower rate by repeating frames counts as frozen.",
        cost="1.5 ms a frame of 144 x 256.",
    )

    def __init__(self, exact: float = 0.5 / 255, near: float = 0.1, window: float = 0.75) -> None:
        super().__init__()
        self.exact, self.near = exact, near
        self.window = window

    def features(self, samples: Samples) -> Tensor:
        """Return the change from each frame to the next, (B, F - 1)."""
        return change(samples.small(self.working_size).detach())

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the degree to which each pair repeats, (B, F - 1)."""
        radius = max(1, round(self.window * about.fps))
        bound = (self.near * usual(features, radius)).clamp(min=self.exact)
        # 1 up to the bound, and 0 from twice the bound on
        same = (2 - features / bound).clamp(0, 1)
        # Where the prompt asks for rest, a repeat is a fault only if the clip moves around it.
        rest = torch.tensor(
            [asks_for_rest(prompt) for prompt in about.prompts], device=features.device
        )[:, None]
        return -torch.where(
            rest & ~amid(features > 2 * self.exact, radius), torch.zeros_like(same), same
        )

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return `change`, the change to the next frame in each cell of the grid.

        The last frame has NaN.
        """
        if samples.video.shape[1] < 2:
            return {}
        cells = _cells(samples.small(self.working_size))
        return {"change": torch.cat([cells, torch.full_like(cells[:, :1], torch.nan)], 1)}


def change(frames: Tensor, cells_per_largest: int = 64) -> Tensor:
    """Return how much each frame of (B, F, C, H, W) differs from the next, (B, F - 1).

    The mean |difference| over the cells where it is largest, one of `cells_per_largest`
    cells, is multiplied by `above_grain`, so that grain does not count.
    """
    grid = _cells(frames)
    cells = grid.flatten(2)
    largest = cells.topk(max(1, cells.shape[2] // cells_per_largest), dim=2).values.mean(2)
    return largest * above_grain(
        largest, quantile(cells, 0.25), frames[0, 0, 0].numel() / grid[0, 0].numel()
    )


def above_grain(largest: Tensor, plain: Tensor, pixels: float, grain: float = 3.75) -> Tensor:
    """Return 0 where a change is only fresh grain, 1 where it clearly is not.

    `largest` is the mean of the largest cells and `plain` the lower quartile of the cells.
    Grain changes all cells alike: with cells of n `pixels`, the largest exceed the quartile
    by about 1.5 / sqrt(n) of the quartile for white grain, and by 3.7 / sqrt(n) for grain
    that is two pixels wide. Motion changes some cells far more than others. `grain` is set
    just above the 3.7.

    >>> above_grain(torch.tensor([1.1, 1.4, 9.0]), torch.ones(3), pixels=100.0)
    tensor([0.0000, 0.2500, 1.0000])
    """
    return (pixels**0.5 * (largest / plain.clamp(min=1e-9) - 1) - grain).clamp(0, 1)


def usual(change: Tensor, radius: int) -> Tensor:
    """Return the upper quartile of the changes (B, T) within `radius` entries of each.

    The entry itself is included. The upper quartile stays high where many of the entries
    are repeats.

    >>> usual(torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0]]), radius=2)
    tensor([[1., 1., 1., 1., 1.]])
    """
    padded = torch.nn.functional.pad(change, (radius, radius), value=torch.nan)
    return padded.unfold(1, 2 * radius + 1, 1).nanquantile(0.75, dim=2)


def amid(moves: Tensor, radius: int) -> Tensor:
    """Return whether something moves both before and after each entry, bool (B, T).

    `moves` is bool (B, T); only entries within `radius` count.

    >>> amid(torch.tensor([[True, False, False, True, False]]), radius=2)
    tensor([[False,  True,  True, False, False]])
    """
    padded = torch.nn.functional.pad(moves, (radius, radius)).unfold(1, 2 * radius + 1, 1)
    return padded[..., :radius].any(2) & padded[..., radius + 1 :].any(2)


def _cells(frames: Tensor) -> Tensor:
    """Return |difference| of neighbouring frames in grid cells, (B, F - 1, h, w)."""
    if frames.dtype == torch.uint8:  # integers are exact, and faster than a float copy
        steps = frames.short().diff(dim=1).abs().sum(2, dtype=torch.short).float() / (
            255 * frames.shape[2]
        )
    else:
        steps = frames.diff(dim=1).abs().mean(2)
    grid = (min(CELLS, frames.shape[-2]), min(CELLS, frames.shape[-1]))
    if planes.fits(steps):
        return kernels.pooled(steps, grid)
    return adaptive_avg_pool2d(steps, grid)
