"""A reward that compares each frame's features with earlier frames and with the first."""

from __future__ import annotations

import torch
from torch import Tensor

from ._networks.learned import LearnedReward
from .base import About, Card, Samples
from .encoders import Encoder, cosine, load


class FeatureConsistency(LearnedReward):
    """How alike the features of a frame are to those of an earlier frame and of the first.

    The term of frame t >= 1 is (1 - anchor) cos(z_t, z_{t-g}) + anchor cos(z_t, z_0), where
    z is the feature of a frame and g = gap x fps frames, rounded and at least 1; for t < g
    the first frame takes the place of frame t-g. Frame 0 has no earlier frame and gets the
    mean of the other terms. The range is [-1, 1]; a still gets 1.

    The distance g is fixed in seconds, so that a clip scores the same at any frame rate.
    VBench (arXiv:2311.17982) compares neighbouring frames, which gives clips of a high
    frame rate higher scores. `encoder` is a name that `encoders.load` accepts.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32)
    >>> FeatureConsistency.tiny()(Samples(still, [""], 8.0)).value.round(decimals=4)
    tensor([1.])
    """

    range = (-1.0, 1.0)
    time_support = "prefix"
    least_frames = 2
    card = Card(
        sees="Whether the things and the scene stay what they were.",
        blind_to="Motion and its quality, and changes that the network was trained to ignore, such "
        "as flicker.",
        hacks="Stillness: a still is the best possible clip. Add a reward of motion and a gate.",
        input="Any frame rate and size. A frame is resized to the network's size, and its "
        "central square is used.",
        cost="DINOv2 B/14 takes 0.046 TFLOP a frame of any size: 2.7 s on one busy CPU thread.",
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
        """Return the reward with a small DINOv2 of random weights."""
        from ._networks.tiny import vision

        reward = cls()
        reward.encoder = vision()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return the feature of each frame, (B, F, D)."""
        return self.score_frames(
            samples, lambda frames, _: self.encoder(frames.expand(-1, 3, -1, -1))
        )

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the consistency of each frame, (B, F)."""
        frames = features.shape[1]
        steps = max(1, round(self.gap * about.fps))
        before = (torch.arange(1, frames, device=features.device) - steps).clamp(min=0)
        rest = features[:, 1:]
        near, first = cosine(rest, features[:, before]), cosine(rest, features[:, :1])
        terms = (1 - self.anchor) * near + self.anchor * first
        # the mean in frame 0 keeps the mean of the curve equal to the mean of the terms
        return torch.cat([terms.mean(1, keepdim=True), terms], 1)
