"""VBench-I2V's subject: DINO measures whether a clip keeps what its image shows."""

from __future__ import annotations

from torch import Tensor

from .base import Card
from .vbench import Network, ToImage, dino, image_for_dino, square_for_dino, tiny_dino


class VbenchI2vSubject(ToImage):
    """VBench-I2V's i2v_subject: DINO measures how well the clip keeps its image.

    The value is a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1},
    z_t), in [0, 1]. Cosines are at least 0. z is the class token of DINO ViT-B/16.
    `weighting` is (a, b, c), by default 0.4, 0.3, 0.3. Frames and image are resized to a
    shorter side of 256, bicubic, and the central 224 x 224 is used. This is VBench-I2V
    since July 2024. The beta release before had the weights 0.5, 0.5, 0 and another
    preparation; its numbers cannot be compared.

    The image is the first frame of `Samples.reference`. Without a reference a clip is
    inapplicable; with `first`, its own first frame is then the image, and the first part is
    always 1. `antialias` says whether frames are resized with antialiasing. VBench leaves
    this to torchvision, which does so since version 0.17 (True) and did not before (False).
    The image is always resized as Pillow does, antialiased and rounded.

    As published: the maximum over frames lets a single faithful frame replace all others.

    Source: VBench++, arXiv:2411.13503; DINO, arXiv:2104.14294.

    >>> import torch
    >>> from vidrl.rewards import Samples
    >>> still = torch.rand(1, 1, 3, 224, 224).expand(1, 5, 3, 224, 224)
    >>> reward = VbenchI2vSubject(network=lambda x: x.mean((2, 3)))
    >>> score = reward(Samples(still, [""], 8.0, reference=still[:, :1]))
    >>> bool((score.value - 1).abs() < 1e-4)
    True
    """

    needs = ("transformers",)
    extra = "learned"
    range = (0.0, 1.0)
    time_support = "clip"
    version = "2"  # 2: frames and image as VBench prepares them since July 2024
    card = Card(
        sees="How near the nearest frame is to the image, and how alike neighbouring frames "
        "are, in DINO's embedding.",
        blind_to="All frames except the most faithful one, in the comparison with the image; which "
        "part is the subject.",
        hacks="Freezing the image; one faithful frame, and then anything smooth.",
        input="At least 2 frames and a reference image; the sides of a wide frame are cut off. "
        "A stream has no reference and needs first=True. To repeat numbers that VBench "
        "gave under torchvision before 0.17, use antialias=False.",
        cost="DINO ViT-B/16 for each frame, 17 G multiply-adds at 224 x 224.",
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
        """Return the reward with a small ViT of random weights.

        The first frame is the image.
        """
        return cls(network=tiny_dino(), first=True)

    def load(self) -> Network:
        """Return DINO."""
        return dino(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into DINO's input."""
        return square_for_dino(frames, self.antialias)

    def prepare_image(self, frames: Tensor) -> Tensor:
        """Turn the image into DINO's input."""
        return image_for_dino(frames)
