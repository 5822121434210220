"""VBench-I2V's subject: whether the clip keeps what its image shows, by DINO."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Network, ToImage, dino, image_for_dino, square_for_dino, tiny_dino


class VbenchI2vSubject(ToImage):
    """VBench-I2V's i2v_subject: likeness of the clip to the image it was made from, and of
    its frames, in [0, 1].

    a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1}, z_t),
    cosines at least 0, z the class token of DINO ViT-B/16; a, b, c are 0.4, 0.3, 0.3
    (`weighting`). The shorter side of frames and image is resized to 256, bicubic, and the
    middle 224 x 224 is cut out. This is VBench-I2V since July 2024; the beta release before
    it had the weights 0.5, 0.5, 0 and another preparation, and its numbers do not compare.

    The image is the first frame of `Samples.reference`; without one a clip is inapplicable,
    or, with `first`, its own first frame is the image, and the first term always 1.
    `antialias` is whether frames are resized with antialiasing: VBench leaves this to
    torchvision, which does so since its version 0.17 (True), and did not before (False).
    The image is always resized as Pillow does it, antialiased and rounded.

    As published: the maximum over frames lets one faithful frame stand for all.

    Source: VBench++, arXiv:2411.13503; DINO, arXiv:2104.14294.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> still = torch.rand(1, 1, 3, 224, 224).expand(1, 5, 3, 224, 224)
    >>> score = VbenchI2vSubject(network=lambda x: x.mean((2, 3)))(Samples(still, [""], 8.0, reference=still[:, :1]))
    >>> bool((score.value - 1).abs() < 1e-4)
    True
    """

    needs = ("transformers",)
    extra = "learned"
    range = (0.0, 1.0)
    time_support = "clip"
    version = "2"  # 2: frames and image as VBench prepares them since July 2024
    card = Card(
        sees="How near the nearest frame is to the image, and how alike neighbouring frames are, to DINO.",
        blind_to="All frames but the most faithful one, as far as the image goes; which part is the subject.",
        hacks="Freezing the image; one faithful frame and then anything smooth.",
        input="At least 2 frames and a reference image; the longer sides are cut off. A stream has no reference: it "
        "needs first=True. Numbers of VBench under torchvision before 0.17 need antialias=False.",
        cost="DINO ViT-B/16 once a frame: 17 G multiply-adds at 224 x 224.",
    )

    def __init__(
        self,
        weights: str = "facebook/dino-vitb16",
        weighting: tuple[float, float, float] = (0.4, 0.3, 0.3),
        first: bool = False,
        network: Network | None = None,
        chunk: int = 16,
        offload: bool = False,
        antialias: bool = True,
    ) -> None:
        super().__init__(weighting, first, network, chunk, offload)
        self.weights, self.antialias = weights, antialias

    @classmethod
    def tiny(cls) -> VbenchI2vSubject:
        """A small ViT of random weights; the first frame is the image."""
        return cls(network=tiny_dino(), first=True)

    def load(self) -> Network:
        """DINO."""
        return dino(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """As DINO takes them."""
        return square_for_dino(frames, self.antialias)

    def prepare_image(self, frames: Tensor) -> Tensor:
        """The image as DINO takes it."""
        return image_for_dino(frames)
