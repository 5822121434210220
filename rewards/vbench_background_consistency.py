"""VBench's background consistency: how alike CLIP finds the frames of a clip."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Followed, Network, clip, for_clip, tiny_clip


class VbenchBackgroundConsistency(Followed):
    """VBench's background_consistency: likeness of each frame to the one before and to the
    first, in [0, 1].

    Mean over t >= 1 of (max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t))) / 2, z CLIP
    ViT-B/32's embedding of the central square of frames whose shorter side is resized to
    224, bicubic, without antialiasing.

    As published: there is no mask of the background, whatever moves in front counts as
    well, and what lies outside the central square does not. Published runs use half
    precision on CUDA; here it is single precision everywhere.

    Source: VBench, arXiv:2311.17982; CLIP, arXiv:2103.00020. `weights` is a folder or hub
    id for transformers.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> score = VbenchBackgroundConsistency(network=lambda x: x.mean((2, 3)))
    >>> score(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0)).value
    tensor([1.])
    """

    needs = ("transformers",)
    extra = "learned"
    range = (0.0, 1.0)
    time_support = "prefix"
    card = Card(
        sees="How far each frame's CLIP embedding is from those of its neighbour and of the first frame.",
        blind_to="What is background and what is not; the sides of a wide frame; stillness, which is its best score.",
        hacks="Freezing, slow motion, blur; a clip of nothing.",
        input="At least 2 frames; more frames a second score higher.",
        cost="CLIP ViT-B/32 once a frame: 4.4 G multiply-adds.",
    )

    def __init__(
        self,
        weights: str = "openai/clip-vit-base-patch32",
        network: Network | None = None,
        chunk: int = 32,
        offload: bool = False,
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weights = weights

    @classmethod
    def tiny(cls) -> VbenchBackgroundConsistency:
        """A small image tower of random weights."""
        return cls(network=tiny_clip())

    def load(self) -> Network:
        """CLIP's image tower."""
        return clip(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """As CLIP takes them."""
        return for_clip(frames)
