"""Render blobs of a scene as the views of an orbit, with gradient, in pure torch.

A blob is an isotropic Gaussian with a place, a size, a colour and an opacity. The camera goes
once around the vertical axis, looks down at the middle, and is orthographic: a scene unit has
the same length in pixels at every depth.

Legend: B scenes, F views, N blobs, H W pixels. Axes of the scene: x to the right of the first
view, y up, z towards the camera of the first view. A picture shows [-1, 1] in both directions.
Source: Kerbl et al., 3D Gaussian splatting, 2023 (arXiv 2308.04079), without anisotropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, log, pi, radians, sin
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidrl.rewards._files import atomic_file

CHANNELS = 8  # numbers of one blob in a latent
ELEVATION = 25.0  # degrees that the camera stands above the horizon
BACKGROUND = 0.12  # grey of the picture where no blob is
USUAL_SIZE = 0.09  # standard deviation of a blob whose fourth number is 0, in scene units
_MOST = 0.99  # the greatest opacity of a blob in a pixel, as in the source
_HARMONIC = 0.28209479177387814  # the constant spherical harmonic, for .ply files


@dataclass(frozen=True)
class Blobs:
    """Blobs of scenes: place (..., N, 3), size (..., N), colour (..., N, 3), opacity (..., N).

    Size is the standard deviation in scene units; colour and opacity are in [0, 1].
    """

    place: Tensor
    size: Tensor
    colour: Tensor
    opacity: Tensor


def blobs(tokens: Tensor) -> Blobs:
    """Return the blobs that tokens (..., N, 8) stand for; any finite numbers are blobs.

    place = z_0..2 / 2, size = 0.09 exp(0.3 z_3), colour = sigmoid(2 z_4..6), opacity =
    sigmoid(4 z_7). So tokens of usual scenes have a standard deviation of about 1.

    >>> blobs(torch.zeros(1, 8)).opacity
    tensor([0.5000])
    """
    size = USUAL_SIZE * (0.3 * tokens[..., 3].clamp(-6, 6)).exp()
    colour, opacity = (2 * tokens[..., 4:7]).sigmoid(), (4 * tokens[..., 7]).sigmoid()
    return Blobs(tokens[..., :3] / 2, size, colour, opacity)


def tokens(made: Blobs) -> Tensor:
    """Return the tokens (..., N, 8) of blobs; the inverse of `blobs`.

    >>> given = torch.linspace(-1, 1, 24).view(3, 8)
    >>> bool(torch.allclose(tokens(blobs(given)), given, atol=1e-4))
    True
    """
    size = (made.size / USUAL_SIZE).log() / 0.3
    colour, opacity = made.colour.logit(1e-4) / 2, made.opacity.logit(1e-4) / 4
    return torch.cat([2 * made.place, size[..., None], colour, opacity[..., None]], -1)


def cameras(views: int, elevation: float = ELEVATION) -> Tensor:
    """Return the rotations (F, 3, 3) of an orbit: rows right, up and towards the camera.

    The turn from view to view is 360 / F degrees. Raises ValueError for fewer than 2 views.

    >>> cameras(4, 0.0)[1].round().int().tolist()  # a quarter turn: the scene's z is at the left
    [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    """
    if views < 2:
        raise ValueError(
            f"expected an orbit of 2 views or more, got {views}: one view cannot show whether a "
            "scene is consistent; set views to 12 or more"
        )
    turn = torch.arange(views) * (2 * pi / views)
    c, s = turn.cos(), turn.sin()
    zero, one = torch.zeros(views), torch.ones(views)
    around = torch.stack([c, zero, -s, zero, one, zero, s, zero, c], -1).view(-1, 3, 3)
    up, down = cos(radians(elevation)), sin(radians(elevation))
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, up, -down], [0.0, down, up]]) @ around


def render(made: Blobs, orbit: Tensor, side: int) -> Tensor:
    """Return the views (B, F, 3, side, side) in [0, 1] of blobs (B, F, N), one camera a view.

    Blobs are drawn from the nearest to the farthest: with α_i = opacity_i exp(-d²/(2 size²)),
    colour = Σ_i c_i α_i Π_{j<i} (1 - α_j), and the background takes what is left. `orbit`
    (F, 3, 3) are rotations of `cameras`. Blobs (B, 1, N) are those of all views.
    """
    seen = torch.einsum("fij,bfnj->bfni", orbit.to(made.place), _by_view(made.place, orbit))
    order = seen[..., 2].argsort(-1, descending=True)  # the nearest blob first
    at = seen[..., :2].gather(2, order[..., None].expand(-1, -1, -1, 2))
    size, opacity = (_by_view(x, orbit).gather(2, order) for x in (made.size, made.opacity))
    colour = _by_view(made.colour, orbit).gather(2, order[..., None].expand(-1, -1, -1, 3))
    return _composite(_coverage(at, size, opacity, side), colour)


def _by_view(values: Tensor, orbit: Tensor) -> Tensor:
    """Return values (B, F or 1, N, ...) with one row for each view."""
    return values.expand(-1, len(orbit), *values.shape[2:])


def pixel_axis(side: int) -> Tensor:
    """Return the scene coordinates of the pixels' middles along one axis, (side,), in (-1, 1)."""
    return (2 * torch.arange(side) + 1) / side - 1


def _coverage(at: Tensor, size: Tensor, opacity: Tensor, side: int) -> Tensor:
    """Return the opacity of each blob in each pixel, (B, F, N, H, W).

    A Gaussian is the product of its profiles along x and y, which costs less than exp() of
    each pixel.
    """
    axis = pixel_axis(side).to(at)
    across, down = (
        (-((axis * sign - at[..., i, None]) ** 2) / (2 * size[..., None] ** 2)).exp()
        for i, sign in ((0, 1), (1, -1))  # rows of a picture go down, y goes up
    )
    return (opacity[..., None, None] * down[..., :, None] * across[..., None, :]).clamp(max=_MOST)


def _composite(alpha: Tensor, colour: Tensor) -> Tensor:
    """Return pictures (B, F, 3, H, W) of blobs that are sorted from near to far."""
    left = (1 - alpha).cumprod(2)  # the light that passes the first blobs
    weight = alpha * torch.cat([torch.ones_like(left[:, :, :1]), left[:, :, :-1]], 2)
    drawn = torch.einsum("bfnhw,bfnc->bfchw", weight, colour)
    return drawn + BACKGROUND * left[:, :, -1:]


def write_ply(path: str | Path, made: Blobs) -> Path:
    """Write blobs (N) as a .ply file that viewers of Gaussian splats read; return its path.

    The file has the properties of 3D Gaussian splatting: x, y, z, the constant harmonic of the
    colour, the logit of the opacity, the log of the sizes, and a rotation that is none.

    >>> import tempfile
    >>> file = write_ply(f"{tempfile.mkdtemp()}/a.ply", blobs(torch.zeros(3, 8)))
    >>> file.read_bytes()[:60].decode().splitlines()[2]
    'element vertex 3'
    """
    path = Path(path)
    names = [*"xyz", *(f"f_dc_{i}" for i in range(3)), "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    table = torch.cat(
        [
            made.place,
            (made.colour - 0.5) / _HARMONIC,
            made.opacity.logit(1e-6)[:, None],
            made.size.log()[:, None].expand(-1, 3),
            torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(len(made.size), -1),
        ],
        1,
    )
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    lines += [f"property float {name}" for name in names] + ["end_header", ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = table.detach().cpu().numpy().astype(np.dtype("<f4")).tobytes()
    return atomic_file.write_bytes(path, "\n".join(lines).encode() + numbers)


def log_size(size: float) -> float:
    """Return the fourth number of a blob's token for a size in scene units.

    >>> log_size(USUAL_SIZE)
    0.0
    """
    return log(size / USUAL_SIZE) / 0.3
