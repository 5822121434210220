"""VBench's background consistency: CLIP measures how alike the frames of a clip are."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Followed, Network, clip, for_clip, tiny_clip


class VbenchBackgroundConsistency(Followed):
    """VBench's background_consistency: CLIP measures how alike frames are to earlier ones.

    The value is the mean over t >= 1 of (max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t)))
    / 2, in [0, 1]. z is CLIP ViT-B/32's embedding of the central square of a frame whose
    shorter side is resized to 224, bicubic, without antialiasing.

    As published: there is no mask of the background, so whatever moves in the foreground
    counts too, and everything outside the central square does not count. Published runs use
    half precision on CUDA, this code single precision everywhere.

    `weights` is a folder or hub id for transformers.

    Source: VBench, arXiv:2311.17982; CLIP, arXiv:2103.00020.

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
        sees="How far each frame's CLIP embedding is from those of its neighbour and of the "
        "first frame.",
        blind_to="Which part is background; the sides of a wide frame; stillness, which gets the "
        "best score.",
        hacks="Freezing, slow motion, blur; an empty clip.",
        input="At least 2 frames. More frames a second score higher.",
        cost="CLIP ViT-B/32 for each frame, 4.4 G multiply-adds.",
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
        """Return the reward with a small image network of random weights."""
        return cls(network=tiny_clip())

    def load(self) -> Network:
        """Return CLIP's image network."""
        return clip(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into CLIP's input."""
        return for_clip(frames)
