"""VBench-I2V's background: whether the clip keeps what its image shows, by DreamSim."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Card
from .vbench import Network, ToImage, for_dreamsim, image_for_dreamsim


class VbenchI2vBackground(ToImage):
    """VBench-I2V's i2v_background: likeness of the clip to the image it was made from, and
    of its frames, in [0, 1].

    a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1}, z_t),
    cosines at least 0, z DreamSim's embedding of frames resized to 224 x 224, bicubic; a,
    b, c are 0.4, 0.3, 0.3 (`weighting`). The image is the first frame of
    `Samples.reference`; without one a clip is inapplicable, or, with `first`, its own first
    frame is the image, and the first term always 1.

    `antialias` is whether frames are resized with antialiasing: VBench leaves this to
    torchvision, which does so since its version 0.17 (True), and did not before (False).
    The image is always resized as Pillow does it, antialiased and rounded.

    As published: no mask, the whole frame counts; the aspect is not kept; the maximum over
    frames lets one faithful frame stand for all.

    `network` takes (N, 3, 224, 224) in about [0, 1] and gives (N, D):
    `dreamsim(pretrained=True)[0].embed` of the package dreamsim, which vidrl does not
    install.

    Source: VBench++, arXiv:2411.13503; DreamSim, arXiv:2306.09344.

    >>> from vidrl.rewards import Samples
    >>> still = torch.rand(1, 1, 3, 224, 224).expand(1, 5, 3, 224, 224)
    >>> score = VbenchI2vBackground(network=lambda x: x.mean((2, 3)))(Samples(still, [""], 8.0, reference=still[:, :1]))
    >>> bool((score.value - 1).abs() < 1e-4)
    True
    """

    range = (0.0, 1.0)
    time_support = "clip"
    version = "2"  # 2: frames and image as VBench prepares them since July 2024
    card = Card(
        sees="How near the nearest frame is to the image, and how alike neighbouring frames are, to DreamSim.",
        blind_to="All frames but the most faithful one, as far as the image goes; what is background.",
        hacks="Freezing the image; one faithful frame and then anything smooth.",
        input="At least 2 frames and a reference image. A stream has no reference: it needs first=True. Numbers of "
        "VBench under torchvision before 0.17 need antialias=False.",
        cost="DreamSim, three ViT-B/16, once a frame: about 50 G multiply-adds.",
    )

    def __init__(
        self,
        weighting: tuple[float, float, float] = (0.4, 0.3, 0.3),
        first: bool = False,
        network: Network | None = None,
        chunk: int = 16,
        offload: bool = False,
        antialias: bool = True,
    ) -> None:
        super().__init__(weighting, first, network, chunk, offload)
        self.antialias = antialias

    @classmethod
    def tiny(cls) -> VbenchI2vBackground:
        """With a small network of random weights, not DreamSim's; the first frame is the
        image."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
            return cls(network=nn.Sequential(*layers), first=True)

    def load(self) -> Network:
        """An error: DreamSim comes as a network."""
        raise RuntimeError(
            "VbenchI2vBackground needs DreamSim: network=dreamsim(pretrained=True)[0].embed"
        )

    def prepare(self, frames: Tensor) -> Tensor:
        """As DreamSim takes them."""
        return for_dreamsim(frames, self.antialias)

    def prepare_image(self, frames: Tensor) -> Tensor:
        """The image as DreamSim takes it."""
        return image_for_dreamsim(frames)
