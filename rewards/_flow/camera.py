"""The camera's motion apart from that of things: a similarity fitted robustly to the flow,
and what it leaves over.

Shapes: B clips, T pairs or triples of frames, H W pixels, K cells. Positions are measured
from the centre of the picture, and inside the fit everything is in diagonals, as complex
numbers x + iy. A camera that pans right moves the picture left; y points down, so that a
camera that tilts up moves the picture down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import hypot

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .images import around, quantile
from .warping import outside

CELLS = 12  # a side; the fit sees the mean flow of each cell along its edges
GUESSES = 96  # pairs of cells, each of which says what similarity it would be
NAMES = ("pan", "tilt", "zoom", "roll")


@dataclass(frozen=True)
class Camera:
    """How the picture moves as a whole between two frames: content at p goes to p + shift +
    turn p.

    shift (B, T) complex, diagonals; turn (B, T) complex, 1 + turn = exp(zoom + i roll);
    told (B, T) bool: whether the ground shows anything to tell the camera by, if not the
    two are 0; share (B, T): of the cells, those that agree.
    """

    shift: Tensor
    turn: Tensor
    told: Tensor
    share: Tensor

    @property
    def numbers(self) -> Tensor:
        """(B, T, 4) a frame, in the order of NAMES: pan to the right and tilt up,
        diagonals; zoom in, natural log of the scale; roll clockwise of the camera,
        radians."""
        log = (1 + self.turn).log()
        return torch.stack([-self.shift.real, self.shift.imag, log.real, -log.imag], -1)

    def flow(self, height: int, width: int) -> Tensor:
        """In pixels, (B, T, 2, H, W)."""
        diagonal = hypot(height, width)
        x, y = (axis * diagonal for axis in _axes(height, width, self.shift.real))
        shift, turn = self.shift[..., None, None] * diagonal, self.turn[..., None, None]
        across = (shift.real + turn.real * x) - turn.imag * y
        return torch.stack([across, (shift.imag + turn.imag * x) + turn.real * y], -3)

    def flip(self) -> Camera:
        """The motion from the second frame to the first."""
        back = 1 / (1 + self.turn)
        return Camera(-self.shift * back, back - 1, self.told, self.share)


def camera(flow: Tensor, frames: Tensor, structure: Tensor, shows: Tensor | None = None) -> Camera:
    """The camera's part of `flow` (B, T, 2, H, W) that starts from `frames` (B, T, C, H,
    W), of `contrast` `shows`.

    The best of GUESSES similarities through two cells each, by the sum of squared residuals
    cut at a tolerance of 0.3 pixels and 0.002 diagonals, refined by iteratively reweighted
    least squares. Nothing where the ground is plain: fewer than half of the cells along the
    border of a 4 x 4 raster, or nearly two thirds of all, have contrast. A thing on plain
    ground moves alone.
    """
    height, width = flow.shape[-2:]
    diagonal = hypot(height, width)
    shows = contrast(frames) if shows is None else shows
    at, moved, weight = _cells(flow, structure**2 * ~outside(flow), shows)
    tolerance = 0.3 / diagonal + 0.002
    shift, turn = _refine(*_guess(at, moved, weight, tolerance), at, moved, weight, tolerance)
    off = (moved - shift[..., None] - turn[..., None] * at).abs()
    share = (weight * (off < 2 * tolerance)).sum(-1) / weight.sum(-1).clamp(min=1e-6)
    told = _ground(shows)
    return Camera(shift * told, turn * told, told, share * told)


def residual(flow: Tensor, seen: Camera, structure: Tensor) -> tuple[Tensor, Tensor]:
    """Flow (B, T, 2, H, W) beside the camera along the edges nearby, diagonals, (B, T, H,
    W) complex, and the ink."""
    height, width = flow.shape[-2:]
    ink = structure[:, :, None] ** 2 * ~outside(flow).unsqueeze(2)
    near = around(ink, 0.1)
    left = (
        around((flow - seen.flow(height, width)) * ink, 0.1)
        / near.clamp(min=1e-12)
        / hypot(height, width)
    )
    return torch.complex(left[:, :, 0], left[:, :, 1]), edges(near[:, :, 0])


def edges(near: Tensor) -> Tensor:
    """From 0 where nothing shows to 1 at edges, relative to the strong edges of each frame,
    (B, T, H, W)."""
    strong = quantile(near.flatten(2), 0.95)[..., None, None]
    return (17 / 16 * near / (near + strong / 16 + 1e-8)).clamp(max=1)


def similarity(at: Tensor, moved: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares of moved = shift + turn at over the last axis: (..., K)
    complex to (...) twice.

    >>> at = torch.tensor([0, 1, 1j])
    >>> shift, turn = similarity(at, 2 + 0.5j * at, torch.ones(3))
    >>> abs(shift.item() - 2) < 1e-4, abs(turn.item() - 0.5j) < 1e-4
    (True, True)
    """
    total = weight.sum(-1).clamp(min=1e-9)
    middle, mean = (at * weight).sum(-1) / total, (moved * weight).sum(-1) / total
    arm = at - middle[..., None]
    spin = (weight * arm.conj() * (moved - mean[..., None])).sum(-1)
    turn = spin / ((weight * arm.abs().square()).sum(-1) + 1e-5 * total)
    return mean - turn * middle, turn


def _guess(at: Tensor, moved: Tensor, weight: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The best similarity through two cells, or none at all, (B, T) twice."""
    first, second = _pairs(at.device)
    turn = (moved[..., first] - moved[..., second]) / _apart(at[..., first] - at[..., second])
    shift = moved[..., first] - turn * at[..., first]
    none = torch.zeros_like(turn[..., :1])
    turn, shift = torch.cat([none, turn], -1), torch.cat([none, shift], -1)
    off = (
        (moved[..., None, :] - shift[..., None] - turn[..., None] * at[..., None, :])
        .abs()
        .clamp(max=tolerance)
    )
    cost = (weight[..., None, :] * off.square()).sum(-1)
    cost[..., 0] *= 0.98  # of equals, rest
    best = cost.argmin(-1, keepdim=True)
    return shift.gather(-1, best)[..., 0], turn.gather(-1, best)[..., 0]


def _apart(arm: Tensor) -> Tensor:
    return torch.where(arm.abs() < 0.02, torch.full_like(arm, 0.02), arm)


def _refine(
    shift: Tensor, turn: Tensor, at: Tensor, moved: Tensor, weight: Tensor, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Iteratively reweighted least squares from a guess, the tolerance narrowing to a
    third."""
    for narrower in (1, 1, 0.7, 0.5, 0.35, 0.35):
        off = (moved - shift[..., None] - turn[..., None] * at).abs() / (tolerance * narrower)
        shift, turn = similarity(at, moved, weight / (1 + off.square()).square())
    return shift, turn


def _cells(flow: Tensor, ink: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the edges of each cell lie, how they move, and whether there are any: (B, T,
    K), two of them complex."""
    height, width = flow.shape[-2:]
    x, y = _axes(height, width, flow)
    layers = torch.stack([x * ink, y * ink, flow[:, :, 0] * ink, flow[:, :, 1] * ink, ink], 2)
    pooled = _pool(layers, CELLS)
    mean = pooled[:, :, :4] / pooled[:, :, 4:].clamp(min=1e-12)
    weight = _pool(contrast.unsqueeze(2), CELLS)[:, :, 0] * (pooled[:, :, 4] > 1e-12)
    at, moved = (
        torch.complex(mean[:, :, 0], mean[:, :, 1]),
        torch.complex(mean[:, :, 2], mean[:, :, 3]),
    )
    return at, moved / hypot(height, width), weight


def contrast(frames: Tensor, floor: float = 0.15, least: float = 0.004) -> Tensor:
    """From 0 on plain ground to 1, by the standard deviation over an eighth of the shorter
    side, (B, T, H, W).

    Half at `floor` times that of the whole frame, so that a dimmed picture has as much; no
    less than `least`.
    """
    still = frames.detach()
    variance = (around(still**2, 1 / 8) - around(still, 1 / 8) ** 2).clamp(min=0).amax(2)
    centred = still - still.mean((3, 4), keepdim=True)
    whole = centred.square().sum((3, 4)).amax(2)[..., None, None] / (centred[0, 0, 0].numel() - 1)
    return variance / (variance + (floor**2 * whole).clamp(min=least**2))


def _ground(contrast: Tensor, raster: int = 4) -> Tensor:
    """Whether the ground, not only a thing on it, has contrast, bool (B, T)."""
    has = (
        _pool(contrast.unsqueeze(2), raster).unflatten(-1, (raster, raster))[:, :, 0] > 0.15
    ).float()
    inner = has[..., 1:-1, 1:-1].sum((-2, -1))
    total = has.sum((-2, -1))
    return ((total - inner) / (raster**2 - (raster - 2) ** 2) > 0.5) | (total / raster**2 > 0.6)


def _pool(image: Tensor, cells: int) -> Tensor:
    """(B, T, C, H, W) to (B, T, C, cells^2)."""
    return adaptive_avg_pool2d(image.flatten(0, 1), cells).flatten(2).unflatten(0, image.shape[:2])


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """Positions from the centre in diagonals, (H, W) complex, of the precision of
    `like`."""
    x, y = _axes(height, width, like.real)
    return torch.complex(x.expand(height, width), y.expand(height, width))


def _axes(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The same along x, (1, W), and along y, (H, 1)."""
    x, y = (
        torch.arange(width).to(like) - (width - 1) / 2,
        torch.arange(height).to(like) - (height - 1) / 2,
    )
    return x[None] / hypot(height, width), y[:, None] / hypot(height, width)


def _pairs(device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = _far_apart()
    return first.to(device), second.to(device)


@lru_cache
def _far_apart() -> tuple[Tensor, Tensor]:
    """GUESSES pairs of cells at least a third of the picture apart, the same ever."""
    draw = torch.Generator().manual_seed(0)
    both = torch.randint(CELLS**2, (2, 40 * GUESSES), generator=draw)
    y, x = (both // CELLS).diff(dim=0)[0].abs(), (both % CELLS).diff(dim=0)[0].abs()
    kept = both[:, torch.maximum(x, y) >= CELLS // 3][:, :GUESSES]
    return kept[0], kept[1]
