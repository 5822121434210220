"""VBench's subject consistency: DINO measures how alike the frames of a clip are."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Followed, Network, dino, for_dino, tiny_dino


class VbenchSubjectConsistency(Followed):
    """VBench's subject_consistency: DINO measures how alike each frame is to earlier ones.

    The value is the mean over t >= 1 of (max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t)))
    / 2, in [0, 1]. z is the class token of DINO ViT-B/16 on a frame whose shorter side is
    resized to 224, bilinear, without antialiasing or crop.

    As published: the subject is not searched for, so the whole frame counts. Over several
    clips, one GPU averages all frames and several GPUs average clips (`vbench.aggregate`).
    The position codes of frames that are not square are interpolated as DINO's own code
    does, which makes them a tenth of a patch too large.

    `weights` is a folder or hub id for transformers.

    Source: VBench, arXiv:2311.17982; DINO, arXiv:2104.14294.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> score = VbenchSubjectConsistency(network=lambda x: x.mean((2, 3)))
    >>> score(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0)).value
    tensor([1.])
    """

    needs = ("transformers",)
    extra = "learned"
    range = (0.0, 1.0)
    time_support = "prefix"
    card = Card(
        sees="How far each frame's DINO embedding is from those of its neighbour and of the "
        "first frame.",
        blind_to="Which part is the subject; stillness, which gets the best score.",
        hacks="Freezing, slow motion, blur; an empty clip.",
        input="At least 2 frames. More frames a second score higher.",
        cost="DINO ViT-B/16 for each frame, 17 G multiply-adds at 224 x 224.",
    )

    def __init__(
        self,
        weights: str = "facebook/dino-vitb16",
        network: Network | None = None,
        chunk: int = 16,
        offload: bool = False,
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weights = weights

    @classmethod
    def tiny(cls) -> VbenchSubjectConsistency:
        """Return the reward with a small ViT of random weights."""
        return cls(network=tiny_dino())

    def load(self) -> Network:
        """Return DINO."""
        return dino(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into DINO's input."""
        return for_dino(frames)
