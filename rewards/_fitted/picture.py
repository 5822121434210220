"""Simple numbers of pictures: light, contrast, colour, detail, and how they change over time.

They are features of fitted rewards. None is a reward by itself, because more of it is not better.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..base import Reward, Samples

# Each function maps frames (B, F, 3, H, W) in [0, 1] to numbers (B, F - lookahead).
Measure = Callable[[Tensor], Tensor]


def _luma(frames: Tensor) -> Tensor:
    return frames.mean(2)


def light(frames: Tensor) -> Tensor:
    """Return the mean of all pixels."""
    return frames.mean((2, 3, 4))


def contrast(frames: Tensor) -> Tensor:
    """Return the mean distance of a pixel's grey level from the mean grey level."""
    grey = _luma(frames)
    return (grey - grey.mean((2, 3), keepdim=True)).abs().mean((2, 3))


def colour(frames: Tensor) -> Tensor:
    """Return the mean difference between the largest and the smallest channel of a pixel."""
    return (frames.amax(2) - frames.amin(2)).mean((2, 3))


def warmth(frames: Tensor) -> Tensor:
    """Return the mean of red minus blue."""
    return (frames[:, :, 0] - frames[:, :, 2]).mean((2, 3))


def green(frames: Tensor) -> Tensor:
    """Return the mean of green minus the mean of red and blue."""
    return (frames[:, :, 1] - (frames[:, :, 0] + frames[:, :, 2]) / 2).mean((2, 3))


def detail(frames: Tensor) -> Tensor:
    """Return the mean difference of grey levels between neighbouring pixels."""
    grey = _luma(frames)
    return (grey.diff(dim=2).abs().mean((2, 3)) + grey.diff(dim=3).abs().mean((2, 3))) / 2


def change(frames: Tensor) -> Tensor:
    """Return the mean difference of pixels between neighbouring frames."""
    return frames.diff(dim=1).abs().mean((2, 3, 4))


def popping(frames: Tensor) -> Tensor:
    """Return the mean second difference of pixels over time: what jumps and comes back."""
    return frames.diff(n=2, dim=1).abs().mean((2, 3, 4))


# name: the measure, and how many frames after its first frame a number reads
MEASURES: dict[str, tuple[Measure, int]] = {
    "light": (light, 0),
    "contrast": (contrast, 0),
    "colour": (colour, 0),
    "warmth": (warmth, 0),
    "green": (green, 0),
    "detail": (detail, 0),
    "change": (change, 1),
    "popping": (popping, 2),
}


class Picture(Reward):
    """Measure one simple number of each frame, by its name in MEASURES.

    >>> Picture("light")(Samples(torch.full((1, 2, 3, 8, 8), 0.25), [""], 8.0)).value
    tensor([0.2500])
    """

    differentiable = True
    shrinks = True
    rate = 8.0

    def __init__(self, measure: str) -> None:
        super().__init__()
        if measure not in MEASURES:
            raise ValueError(f"expected a measure out of {', '.join(MEASURES)}, got {measure!r}")
        self.measure, reads = MEASURES[measure]
        self.lookahead = reads  # type: ignore[misc]
        self.time_support = "pair" if reads else "frame"  # type: ignore[misc]

    def terms(self, samples: Samples) -> Tensor:
        """Return the number of each frame, (B, F - lookahead)."""
        frames = self._frames(samples)
        return self.measure(frames.expand(-1, -1, max(3, frames.shape[2]), -1, -1))


class Direction(Reward):
    """Project each frame's features of a frozen encoder on one direction.

    encoder: a name of `vidrl.rewards.encoders.load`. direction (D,) and offset: the number of a
    frame is direction · features − offset. All directions of one encoder share its features.
    """

    differentiable = True
    learned = True
    direction: Tensor

    def __init__(self, encoder: str, direction: Tensor, offset: float) -> None:
        super().__init__()
        self.encoder, self.offset = encoder, offset
        self.register_buffer("direction", direction)

    def terms(self, samples: Samples) -> Tensor:
        """Return the number of each frame, (B, F)."""
        found = encoded(samples, self.encoder)
        if found.shape[-1] != len(self.direction):
            raise ValueError(
                f"expected {len(self.direction)} features of the encoder {self.encoder}, as in the "
                f"fit, got {found.shape[-1]}: fit again"
            )
        return found @ self.direction.to(found) - self.offset


def encoded(samples: Samples, encoder: str) -> Tensor:
    """Return the features of each frame, (B, F, D), computed once for all directions."""

    def features() -> Tensor:
        frames = samples.frames.expand(-1, -1, 3, -1, -1)
        return loaded(encoder)(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    return samples.memo(("encoder", encoder, torch.is_grad_enabled()), features)


_ENCODERS: dict[str, Callable[[Tensor], Tensor]] = {}


def loaded(encoder: str) -> Callable[[Tensor], Tensor]:
    """Return an encoder that all features of a process share, because its weights are large."""
    from ..encoders import load

    if encoder not in _ENCODERS:
        _ENCODERS[encoder] = load(encoder)
    return _ENCODERS[encoder]
