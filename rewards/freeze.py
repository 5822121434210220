"""Frames that repeat: holds, duplicates and stutter amid motion, and clips that stop."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ._prompts.motion_words import rests
from .base import About, Card, Reward, Samples
from .flow import quantile

CELLS = 16


class Freeze(Reward):
    """The share of the clip in which the picture repeats although it should move: 0 is
    none, -1 a still.

    d is the change between neighbouring frames: |difference|, averaged over the channels
    and the cells of a 16 x 16 grid, the mean of its 4 largest cells of 256, so that one
    small thing that moves counts; 0 where all cells change alike, as fresh grain or a
    change of light over a held picture makes them. A pair of frames repeats where d is at
    most `exact`, or at most `near` times the change usual around it, the upper quartile
    within `window` seconds: a copy that a codec has been over is not exact, yet far nearer
    than its neighbours. Between one and two times that bound the pair counts in part. Where
    the prompt asks for rest, only repeats amid motion count: those with a change above
    `exact` on both sides within `window` seconds. Measured on frames whose shorter side is
    at most 192. A term is a pair, credited to both frames.

    >>> Freeze()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), ["a boat"], 8.0)).value
    tensor([-1.])
    """

    version = "2"  # 2: grain over a held picture is no change
    lowered_by = ("freeze", "duplicate", "stutter", "grey")
    range = (-1.0, 0.0)
    support = "pair"
    reach = 1
    shrinks = True
    card = Card(
        sees="Frames repeated, exactly or but for a codec: holds, duplicates, stutter, and clips that stop.",
        blind_to="A frozen picture under a synthetic pan; slow motion made by blending. It "
        "cannot tell animation drawn on twos from duplicates, nor stillness that is meant unless the prompt says so.",
        hacks="Any change in every frame that is stronger in some places than in others; pair it with temporal_flicker "
        "and dynamic_degree.",
        input="At least 2 frames of 8 pixels, at the rate they were made at: a clip converted from a lower rate by "
        "repeating frames counts as frozen.",
        cost="1.5 ms a frame of 144 x 256.",
    )

    def __init__(self, exact: float = 0.5 / 255, near: float = 0.1, window: float = 0.75) -> None:
        super().__init__()
        self.exact, self.near = exact, near
        self.window = window

    def features(self, samples: Samples) -> Tensor:
        """The change from each frame to the next, (B, F - 1)."""
        return change(samples.small(self.working_size).detach())

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """Minus the degree to which each pair repeats, (B, F - 1)."""
        reach = max(1, round(self.window * about.fps))
        bound = (self.near * usual(features, reach)).clamp(min=self.exact)
        same = (2 - features / bound).clamp(0, 1)
        rest = torch.tensor([rests(prompt) for prompt in about.prompts], device=features.device)[
            :, None
        ]
        return -torch.where(
            rest & ~amid(features > 2 * self.exact, reach), torch.zeros_like(same), same
        )

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """The change to the next frame in each cell of the grid; NaN in the last frame."""
        if samples.video.shape[1] < 2:
            return {}
        cells = _cells(samples.small(self.working_size))
        return {"change": torch.cat([cells, torch.full_like(cells[:, :1], torch.nan)], 1)}


def change(frames: Tensor, share: int = 64) -> Tensor:
    """How much each frame of (B, F, C, H, W) differs from the next where it differs most,
    less grain, (B, F - 1).

    Mean |difference| over the 1 / `share` of cells where it is largest, times
    `above_grain`.
    """
    grid = _cells(frames)
    cells = grid.flatten(2)
    largest = cells.topk(max(1, cells.shape[2] // share), dim=2).values.mean(2)
    return largest * above_grain(
        largest, quantile(cells, 0.25), frames[0, 0, 0].numel() / grid[0, 0].numel()
    )


def above_grain(largest: Tensor, plain: Tensor, pixels: float, grain: float = 3.75) -> Tensor:
    """0 where a change is that of fresh grain, 1 where it is not; `plain` is the lower
    quartile of the cells.

    Grain changes all cells alike: for white grain in cells of n `pixels` the largest exceed
    the quartile by about 1.5 / sqrt(n) of it, for grain two pixels wide by 3.7 / sqrt(n).
    What moves changes some places far more.

    >>> above_grain(torch.tensor([1.1, 1.4, 9.0]), torch.ones(3), pixels=100.0)
    tensor([0.0000, 0.2500, 1.0000])
    """
    return (pixels**0.5 * (largest / plain.clamp(min=1e-9) - 1) - grain).clamp(0, 1)


def usual(change: Tensor, reach: int) -> Tensor:
    """The upper quartile of the changes (B, T) within `reach` entries of each, itself left
    in, (B, T).

    >>> usual(torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0]]), reach=2)
    tensor([[1., 1., 1., 1., 1.]])
    """
    padded = torch.nn.functional.pad(change, (reach, reach), value=torch.nan)
    return padded.unfold(1, 2 * reach + 1, 1).nanquantile(0.75, dim=2)


def amid(moves: Tensor, reach: int) -> Tensor:
    """Whether something moves both before and after each entry of (B, T) within `reach`
    entries, bool (B, T).

    >>> amid(torch.tensor([[True, False, False, True, False]]), reach=2)
    tensor([[False,  True,  True, False, False]])
    """
    padded = torch.nn.functional.pad(moves, (reach, reach)).unfold(1, 2 * reach + 1, 1)
    return padded[..., :reach].any(2) & padded[..., reach + 1 :].any(2)


def _cells(frames: Tensor) -> Tensor:
    """|Difference| of neighbours in each cell of a grid, (B, F - 1, h, w)."""
    if frames.dtype == torch.uint8:
        steps = frames.short().diff(dim=1).abs().sum(2, dtype=torch.short).float() / (
            255 * frames.shape[2]
        )
    else:
        steps = frames.diff(dim=1).abs().mean(2)
    grid = (min(CELLS, frames.shape[-2]), min(CELLS, frames.shape[-1]))
    return adaptive_avg_pool2d(steps, grid)
