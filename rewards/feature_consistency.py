"""Whether what is shown stays the same: features of frames against those before and the
first."""

from __future__ import annotations

import torch
from torch import Tensor

from ._networks.learned import LearnedReward
from .base import About, Card, Samples
from .encoders import Encoder, cosine, load


class FeatureConsistency(LearnedReward):
    """How alike the features of frames are to those `gap` seconds before and to the first
    frame's; 1 for a still.

    (1 - anchor) cos(z_t, z_{t-g}) + anchor cos(z_t, z_0) for t >= 1, with g = gap x fps
    frames, rounded, at least 1, and the first frame where t < g. Frame 0 has nothing before
    it and shows the mean of the others. The fixed distance in time makes a clip score alike
    at any frame rate, where VBench (arXiv 2311.17982) compares neighbouring frames, which
    flatters high ones. `encoder` is what `encoders.load` takes.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32)
    >>> FeatureConsistency.tiny()(Samples(still, [""], 8.0)).value.round(decimals=4)
    tensor([1.])
    """

    range = (-1.0, 1.0)
    support = "prefix"
    least_frames = 2
    card = Card(
        sees="Whether the things and the scene stay what they were.",
        blind_to="Motion and its quality; changes that the network was trained to ignore, such as flicker.",
        hacks="Stillness is the best possible clip. Add a reward of motion and a gate.",
        input="Any frame rate and size; frames are resized to the network's, and the longer sides cut off.",
        cost="DINOv2 B/14: 0.046 TFLOP a frame of any size: 2.7 s on one busy CPU thread.",
    )

    def __init__(
        self,
        encoder: str = "dinov2:facebook/dinov2-base",
        gap: float = 0.125,
        anchor: float = 0.5,
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
    ) -> None:
        super().__init__(chunk, dtype, offload)
        if not (gap > 0 and 0 <= anchor <= 1):
            raise ValueError(
                f"expected gap > 0 seconds and anchor in [0, 1], got gap={gap}, anchor={anchor}"
            )
        self.encoder: Encoder = load(encoder, chunk, dtype, offload)
        self.gap, self.anchor = gap, anchor

    @classmethod
    def tiny(cls) -> FeatureConsistency:
        """A small DINOv2 of random weights."""
        from ._networks.tiny import vision

        reward = cls()
        reward.encoder = vision()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """The feature of each frame, (B, F, D)."""
        return self.each(samples, lambda frames, _: self.encoder(frames.expand(-1, 3, -1, -1)))

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """One number a frame, (B, F)."""
        frames = features.shape[1]
        steps = max(1, round(self.gap * about.fps))
        before = (torch.arange(1, frames, device=features.device) - steps).clamp(min=0)
        rest = features[:, 1:]
        near, first = cosine(rest, features[:, before]), cosine(rest, features[:, :1])
        terms = (1 - self.anchor) * near + self.anchor * first
        return torch.cat([terms.mean(1, keepdim=True), terms], 1)
