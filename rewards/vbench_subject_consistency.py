"""VBench's subject consistency: how alike DINO finds the frames of a clip."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Followed, Network, dino, for_dino, tiny_dino


class VbenchSubjectConsistency(Followed):
    """VBench's subject_consistency: likeness of each frame to the one before and to the
    first, in [0, 1].

    Mean over t >= 1 of (max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t))) / 2, z the class
    token of DINO ViT-B/16 on frames whose shorter side is resized to 224, bilinear, without
    antialiasing or crop.

    As published: the subject is not looked for, the whole frame counts; over several clips
    one GPU averages all frames and several GPUs average clips (`vbench.aggregate`).
    Position codes of frames that are not square are interpolated as DINO's own code does, a
    tenth of a patch too large.

    Source: VBench, arXiv:2311.17982; DINO, arXiv:2104.14294. `weights` is a folder or hub
    id for transformers.

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
        sees="How far each frame's DINO embedding is from those of its neighbour and of the first frame.",
        blind_to="Which part is the subject; stillness, which is its best score.",
        hacks="Freezing, slow motion, blur; a clip of nothing.",
        input="At least 2 frames; more frames a second score higher.",
        cost="DINO ViT-B/16 once a frame: 17 G multiply-adds at 224 x 224.",
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
        """A small ViT of random weights."""
        return cls(network=tiny_dino())

    def load(self) -> Network:
        """DINO."""
        return dino(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """As DINO takes them."""
        return for_dino(frames)
