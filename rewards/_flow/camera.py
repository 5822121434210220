"""The camera's motion: a similarity (shift, zoom, roll) fitted robustly to optical flow.

Shapes: B clips, T pairs of frames, H W pixels, K cells. Inside the fit, a position is a
complex number x + iy, measured from the centre of the picture in units of the picture's
diagonal, so that a zoom with a roll is one complex factor. y points down: a camera that
pans right moves the picture left, and a camera that tilts up moves the picture down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import hypot

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from . import kernels, planes
from .images import around, quantile, squares
from .warping import outside

CELLS = 12  # cells along each side of the picture; the fit reads one mean flow per cell
GUESSES = 96  # pairs of cells; the two flows of a pair determine one candidate similarity
NAMES = ("pan", "tilt", "zoom", "roll")


@dataclass(frozen=True)
class Camera:
    """The motion that a camera gives to the whole picture between two frames.

    Content at position p moves to p + shift + turn p.

    - `shift` (B, T), complex, diagonals.
    - `turn` (B, T), complex, 1 + turn = exp(zoom + i roll).
    - `measurable` (B, T), bool: the ground has enough contrast to measure the camera by;
      where it has not, shift and turn are 0.
    - `agreement` (B, T): the fraction of the cells that move as the camera says.
    """

    shift: Tensor
    turn: Tensor
    measurable: Tensor
    agreement: Tensor

    @property
    def numbers(self) -> Tensor:
        """Return pan, tilt, zoom and roll per frame, (B, T, 4), in the order of NAMES.

        Pan to the right and tilt up are in diagonals, zoom in is the natural log of the
        scale, and roll is the camera's clockwise turn in radians.
        """
        log = (1 + self.turn).log()
        return torch.stack([-self.shift.real, self.shift.imag, log.real, -log.imag], -1)

    def flow(self, height: int, width: int) -> Tensor:
        """Return the flow of a picture of this size under the camera's motion.

        (B, T, 2, H, W), pixels.
        """
        diagonal = hypot(height, width)
        x, y = (axis * diagonal for axis in _axes(height, width, self.shift.real))
        shift, turn = self.shift[..., None, None] * diagonal, self.turn[..., None, None]
        across = (shift.real + turn.real * x) - turn.imag * y
        return torch.stack([across, (shift.imag + turn.imag * x) + turn.real * y], -3)

    def flip(self) -> Camera:
        """Return the motion from the second frame to the first."""
        back = 1 / (1 + self.turn)
        return Camera(-self.shift * back, back - 1, self.measurable, self.agreement)


def camera(flow: Tensor, frames: Tensor, structure: Tensor, shows: Tensor | None = None) -> Camera:
    """Return the camera's part of the flow (B, T, 2, H, W) that starts from `frames`.

    `frames` are (B, T, C, H, W), `structure` is `Motion.structure` of these frames, and
    `shows` their `contrast`, which is computed if it is not given.

    GUESSES pairs of cells propose one similarity each. The best has the smallest sum of
    squared residuals, each cut at a tolerance of 0.3 pixels plus 0.002 diagonals; it is
    refined by iteratively reweighted least squares. A thing on plain ground moves alone, so
    no camera motion is reported unless more than half of the cells along the border of a
    4 x 4 raster, or more than 0.6 of all 16, have contrast.
    """
    height, width = flow.shape[-2:]
    diagonal = hypot(height, width)
    shows = contrast(frames) if shows is None else shows
    at, moved, weight = _cells(flow, structure, shows)
    tolerance = 0.3 / diagonal + 0.002
    shift, turn = _refine(*_guess(at, moved, weight, tolerance), at, moved, weight, tolerance)
    error = (moved - shift[..., None] - turn[..., None] * at).abs()
    agreement = (weight * (error < 2 * tolerance)).sum(-1) / weight.sum(-1).clamp(min=1e-6)
    measurable = _ground_shows(shows)
    return Camera(shift * measurable, turn * measurable, measurable, agreement * measurable)


def residual(flow: Tensor, fitted: Camera, structure: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow without the camera's motion, and where it can be trusted.

    `flow` is (B, T, 2, H, W), pixels, and `fitted` the camera's motion in it. The first
    result is the rest of the flow, (B, T, H, W), complex, diagonals, averaged along the
    edges nearby; the second is the strength of `edges`, from 0 to 1, (B, T, H, W).
    """
    height, width = flow.shape[-2:]
    # `Motion.ink` of these frames, 0 where the flow leaves the picture
    ink = structure[:, :, None] ** 2 * ~outside(flow).unsqueeze(2)
    near = around(ink, 0.1)
    rest = around((flow - fitted.flow(height, width)) * ink, 0.1) / near.clamp(min=1e-12)
    rest = rest / hypot(height, width)
    return torch.complex(rest[:, :, 0], rest[:, :, 1]), edges(near[:, :, 0])


def edges(near: Tensor) -> Tensor:
    """Return edge strengths (B, T, H, W) as numbers from 0 where nothing shows to 1.

    They are relative to the 95th percentile of each frame, which has 1.
    """
    strong = quantile(near.flatten(2), 0.95)[..., None, None]
    # near / (near + strong / 16), scaled by 17 / 16 so that it is 1 where near = strong
    return (17 / 16 * near / (near + strong / 16 + 1e-8)).clamp(max=1)


def similarity(at: Tensor, moved: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Fit moved = shift + turn at by weighted least squares over the last axis.

    `at`, `moved` (..., K), complex, and `weight` (..., K) give shift (...) and turn (...).

    >>> at = torch.tensor([0, 1, 1j])
    >>> shift, turn = similarity(at, 2 + 0.5j * at, torch.ones(3))
    >>> abs(shift.item() - 2) < 1e-4, abs(turn.item() - 0.5j) < 1e-4
    (True, True)
    """
    total = weight.sum(-1).clamp(min=1e-9)
    middle, mean = (at * weight).sum(-1) / total, (moved * weight).sum(-1) / total
    arm = at - middle[..., None]
    spin = (weight * arm.conj() * (moved - mean[..., None])).sum(-1)
    # 1e-5: cells that all lie at one place leave the turn undetermined; it becomes 0
    turn = spin / ((weight * arm.abs().square()).sum(-1) + 1e-5 * total)
    return mean - turn * middle, turn


def _guess(at: Tensor, moved: Tensor, weight: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return shift and turn, (B, T) each, of the best candidate; no motion is a candidate."""
    first, second = _pairs(at.device)
    arm = at[..., first] - at[..., second]
    arm = torch.where(arm.abs() < 0.02, torch.full_like(arm, 0.02), arm)  # no division by 0
    turn = (moved[..., first] - moved[..., second]) / arm
    shift = moved[..., first] - turn * at[..., first]
    none = torch.zeros_like(turn[..., :1])
    turn, shift = torch.cat([none, turn], -1), torch.cat([none, shift], -1)
    cost = _costs(shift, turn, at, moved, weight, tolerance)
    cost[..., 0] *= 0.98  # no motion wins where a motion explains the cells no better
    best = cost.argmin(-1, keepdim=True)
    return shift.gather(-1, best)[..., 0], turn.gather(-1, best)[..., 0]


def _costs(
    shift: Tensor, turn: Tensor, at: Tensor, moved: Tensor, weight: Tensor, most: float
) -> Tensor:
    """Return the cost of each candidate, (B, T, G): squared residuals, cut at `most`."""
    if planes.fits(weight):
        return kernels.costs(shift, turn, at, moved, weight, most)
    error = (moved[..., None, :] - shift[..., None] - turn[..., None] * at[..., None, :]).abs()
    return (weight[..., None, :] * error.clamp(max=most).square()).sum(-1)


def _refine(
    shift: Tensor, turn: Tensor, at: Tensor, moved: Tensor, weight: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Return shift and turn refined by iteratively reweighted least squares.

    The weights are Geman-McClure's, 1 / (1 + (error / tolerance)^2)^2. The tolerance is
    narrowed step by step, so that a rough guess is not caught by the nearest few cells.
    """
    for narrower in (1, 1, 0.7, 0.5, 0.35, 0.35):
        error = torch.view_as_real(moved - shift[..., None] - turn[..., None] * at)
        square = error.square().sum(-1) / (tolerance * narrower) ** 2
        shift, turn = similarity(at, moved, weight / (1 + square).square())
    return shift, turn


def _cells(flow: Tensor, structure: Tensor, shows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean place and flow of the edges of each cell, and the cell's weight.

    (B, T, K) each, place and flow complex, diagonals. A cell without edges has weight 0.
    """
    pooled, seen = _pooled(flow, structure, shows)
    mean = pooled[:, :, :4] / pooled[:, :, 4:].clamp(min=1e-12)
    weight = seen * (pooled[:, :, 4] > 1e-12)
    at = torch.complex(mean[:, :, 0], mean[:, :, 1])
    moved = torch.complex(mean[:, :, 2], mean[:, :, 3])
    return at, moved / hypot(*flow.shape[-2:]), weight


def _pooled(flow: Tensor, structure: Tensor, shows: Tensor) -> tuple[Tensor, Tensor]:
    """Return cell means of x, y and both flows, each times the ink, and of ink and contrast.

    (B, T, 5, K) and (B, T, K). The ink is the squared structure, 0 where the flow leaves
    the picture.
    """
    if planes.fits(flow, structure, shows):
        return kernels.cells(flow, structure, shows, CELLS)
    height, width = flow.shape[-2:]
    x, y = _axes(height, width, flow)
    ink = structure**2 * ~outside(flow)
    layers = torch.stack([x * ink, y * ink, flow[:, :, 0] * ink, flow[:, :, 1] * ink, ink], 2)
    return _pool(layers, CELLS), _pool(shows.unsqueeze(2), CELLS)[:, :, 0]


def contrast(frames: Tensor, floor: float = 0.15, least: float = 0.004) -> Tensor:
    """Return local contrast from 0 on plain ground to 1, (B, T, H, W).

    It is v / (v + s^2), with v the variance in a square of an eighth of the shorter side and
    s = `floor` times the standard deviation of the whole frame, at least `least`. So a
    dimmed picture has the contrast of the bright one.
    """
    still = frames.detach()
    if planes.fits(still) and planes.interleaves(still):
        return kernels.contrast(still, *squares(still, 1 / 8), floor, least)
    variance = (around(still**2, 1 / 8) - around(still, 1 / 8) ** 2).clamp(min=0).amax(2)
    centred = still - still.mean((3, 4), keepdim=True)
    of_frame = centred.square().sum((3, 4)).amax(2)[..., None, None]
    of_frame = of_frame / (centred[0, 0, 0].numel() - 1)
    return variance / (variance + (floor**2 * of_frame).clamp(min=least**2))


def _ground_shows(contrast: Tensor, raster: int = 4) -> Tensor:
    """Return whether the ground, and not only a thing on it, has contrast, bool (B, T)."""
    cells = _pool(contrast.unsqueeze(2), raster).unflatten(-1, (raster, raster))[:, :, 0]
    has = (cells > 0.15).float()  # a thing that covers a small part of a cell is not enough
    inner = has[..., 1:-1, 1:-1].sum((-2, -1))
    total = has.sum((-2, -1))
    along_border = (total - inner) / (raster**2 - (raster - 2) ** 2)
    return (along_border > 0.5) | (total / raster**2 > 0.6)


def _pool(image: Tensor, cells: int) -> Tensor:
    """Average (B, T, C, H, W) over cells, to (B, T, C, cells^2)."""
    if planes.fits(image):
        return kernels.pooled(image, (cells, cells)).flatten(3)
    return adaptive_avg_pool2d(image.flatten(0, 1), cells).flatten(2).unflatten(0, image.shape[:2])


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return positions from the centre, in diagonals, (H, W), complex.

    They have the precision and the device of `like`.
    """
    x, y = _axes(height, width, like.real)
    return torch.complex(x.expand(height, width), y.expand(height, width))


def _axes(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions along x, (1, W), and along y, (H, 1)."""
    x = torch.arange(width).to(like) - (width - 1) / 2
    y = torch.arange(height).to(like) - (height - 1) / 2
    return x[None] / hypot(height, width), y[:, None] / hypot(height, width)


def _pairs(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the GUESSES pairs of cells, as two lists of cell numbers on `device`."""
    first, second = _far_apart()
    return first.to(device), second.to(device)


@lru_cache
def _far_apart() -> tuple[Tensor, Tensor]:
    """Draw GUESSES pairs of cells at least a third of the picture apart.

    The seed is fixed, so that every call draws the same pairs.
    """
    draw = torch.Generator().manual_seed(0)
    both = torch.randint(CELLS**2, (2, 40 * GUESSES), generator=draw)
    y, x = (both // CELLS).diff(dim=0)[0].abs(), (both % CELLS).diff(dim=0)[0].abs()
    kept = both[:, torch.maximum(x, y) >= CELLS // 3][:, :GUESSES]
    return kept[0], kept[1]
