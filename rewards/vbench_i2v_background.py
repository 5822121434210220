"""VBench-I2V's background: DreamSim measures whether a clip keeps what its image shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Card
from .vbench import Network, ToImage, for_dreamsim, image_for_dreamsim


class VbenchI2vBackground(ToImage):
    """VBench-I2V's i2v_background: DreamSim measures how well the clip keeps its image.

    The value is a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1},
    z_t), in [0, 1]. Cosines are at least 0. z is DreamSim's embedding of a frame resized to
    224 x 224, bicubic. `weighting` is (a, b, c), by default 0.4, 0.3, 0.3. The image is the
    first frame of `Samples.reference`. Without a reference a clip is inapplicable; with
    `first`, its own first frame is then the image, and the first part is always 1.

    `antialias` says whether frames are resized with antialiasing. VBench leaves this to
    torchvision, which does so since version 0.17 (True) and did not before (False). The
    image is always resized as Pillow does, antialiased and rounded.

    As published: there is no mask, so the whole frame counts; the aspect is not kept; the
    maximum over frames lets a single faithful frame replace all others.

    `network` is a function from (N, 3, 224, 224) in about [0, 1] to (N, D):
    `dreamsim(pretrained=True)[0].embed` of the package dreamsim, which vidrl does not
    install.

    Source: VBench++, arXiv:2411.13503; DreamSim, arXiv:2306.09344.

    >>> from vidrl.rewards import Samples
    >>> still = torch.rand(1, 1, 3, 224, 224).expand(1, 5, 3, 224, 224)
    >>> reward = VbenchI2vBackground(network=lambda x: x.mean((2, 3)))
    >>> score = reward(Samples(still, [""], 8.0, reference=still[:, :1]))
    >>> bool((score.value - 1).abs() < 1e-4)
    True
    """

    range = (0.0, 1.0)
    time_support = "clip"
    version = "2"  # 2: frames and image as VBench prepares them since July 2024
    card = Card(
        sees="How near the nearest frame is to the image, and how alike neighbouring frames "
        "are, in DreamSim's embedding.",
        blind_to="All frames except the most faithful one, in the comparison with the image; which "
        "part is background.",
        hacks="Freezing the image; one faithful frame, and then anything smooth.",
        input="At least 2 frames and a reference image. A stream has no reference and needs "
        "first=True. To repeat numbers that VBench gave under torchvision before 0.17, "
        "use antialias=False.",
        cost="DreamSim, three ViT-B/16, for each frame: about 50 G multiply-adds.",
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
        """Return the reward with a small network of random weights instead of DreamSim.

        The first frame is the image.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Conv2d(3, 8, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
            return cls(network=nn.Sequential(*layers), first=True)

    def load(self) -> Network:
        """Raise RuntimeError: DreamSim has to be passed as `network`."""
        raise RuntimeError(
            "VbenchI2vBackground needs DreamSim: network=dreamsim(pretrained=True)[0].embed"
        )

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into DreamSim's input."""
        return for_dreamsim(frames, self.antialias)

    def prepare_image(self, frames: Tensor) -> Tensor:
        """Turn the image into DreamSim's input."""
        return image_for_dreamsim(frames)
