"""VBench's imaging quality, which MUSIQ measures on every frame."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from ._networks.hub import load_weights
from .base import Card, Samples
from .vbench import Network, Networked, for_musiq


class VbenchImaging(Networked):
    """VBench's imaging_quality: MUSIQ measures the technical quality of each frame.

    The value is the mean over all frames of MUSIQ-SPAQ's rating, divided by 100. Most
    values are in [0, 1]. Frames whose longer side is above 512 pixels are resized to 512,
    bilinear, without antialiasing.

    As published: VBench's list of clips has ratings from 0 to 100, and its total divides
    them by 100; the value here is the divided one.

    `network` is a function from (N, 3, H, W) in [0, 1] to ratings from 0 to 100, (N,) or
    (N, 1). Without `network`, pyiqa builds MUSIQ with the weights at `weights`, the
    published musiq_spaq_ckpt-358bb6af.pth. The licences of pyiqa's parts differ and some
    are non-commercial, so vidrl never installs pyiqa.

    Source: VBench, arXiv:2311.17982; MUSIQ, arXiv:2108.05997.

    >>> reward = VbenchImaging(network=lambda x: 100 * x.mean((1, 2, 3)))
    >>> reward(Samples(torch.full((1, 4, 3, 32, 32), 0.25), [""], 8.0)).value
    tensor([0.2500])
    """

    time_support = "frame"
    card = Card(
        sees="Noise, blur, over-exposure and other faults of single frames, as people rated "
        "photographs.",
        blind_to="Time: flicker, jumps and stillness; the prompt.",
        hacks="Sharpening, false detail such as a fine grid, high contrast; any good still, "
        "frozen.",
        input="Any clip. Above 512 pixels, MUSIQ sees a smaller picture, without antialiasing.",
        cost="MUSIQ at several scales for each frame.",
    )

    def __init__(
        self,
        weights: str = "",
        network: Network | None = None,
        chunk: int = 1,
        offload: bool = False,
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weights = weights

    @classmethod
    def tiny(cls) -> VbenchImaging:
        """Return the reward with a small network of random weights instead of MUSIQ."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = (
                nn.Conv2d(3, 4, 5, 3),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 1),
            )
            return cls(network=nn.Sequential(*layers, nn.Sigmoid(), _Percent()), chunk=8)

    def load(self) -> Network:
        """Return MUSIQ, built by pyiqa."""
        return musiq(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into MUSIQ's input."""
        return for_musiq(frames)

    def terms(self, samples: Samples) -> Tensor:
        """Return a hundredth of the rating of each frame, (B, F)."""
        return self.ask(samples.video)[..., 0] / 100


class _Percent(nn.Module):
    """A layer that multiplies by 100."""

    def forward(self, share: Tensor) -> Tensor:
        return 100 * share


def musiq(weights: str) -> nn.Module:
    """Load MUSIQ with the weights of a file."""
    if not weights:
        raise RuntimeError(
            "VbenchImaging needs MUSIQ: weights='musiq_spaq_ckpt-358bb6af.pth' with pyiqa "
            "installed, or network=..."
        )
    try:
        architecture = importlib.import_module("pyiqa.archs.musiq_arch")
    except ImportError as error:
        raise ImportError(
            "MUSIQ's architecture comes from pyiqa: pip install pyiqa, or pass network=..."
        ) from error
    network = architecture.MUSIQ(pretrained=False)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    load_weights(network, state.get("params", state), "MUSIQ")
    return network
