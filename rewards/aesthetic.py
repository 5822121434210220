"""A reward that measures how pretty frames are, by the LAION aesthetic predictors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._networks.hub import Network, read_state, weights_file
from ._networks.learned import LearnedReward
from .base import About, Card, Samples
from .encoders import load_pair

# the output widths of the linear layers of the published "improved" predictor
WIDTHS = (1024, 128, 64, 16, 1)


class Aesthetic(LearnedReward):
    """How pretty each frame is to people, predicted from CLIP L/14 features; about 1 to 10.

    A frame scores head(z / |z|), where z is the CLIP embedding of the frame. The value is
    about 1 to 10, the scale on which people rated pictures.

    `head` is a local file, or owner/name/file of the hub, in one of two published layouts.
    The names of the weights decide which layout the file has:

    - "weight" and "bias" are one linear layer (sa_0_4_vit_l_14_linear.pth, whose rating
      VBench divides by 10).
    - "layers.0.weight" and so on are linear layers of widths 768-1024-128-64-16-1 without
      activations between them (sac+logos+ava1-l14-linearMSE.pth, and the default, the copy
      that DDPO used).

    A head with ReLU between its layers (ava+logos-l14-reluMSE.pth) and any other head raise
    ValueError.

    The central square of a frame is cropped as torchvision crops it, as in LAION's code.
    DDPO's code crops with transformers, whose crop may start one pixel earlier where an odd
    number of pixels is cut off. Square frames are the same in both.

    Source: github.com/christophschuhmann/improved-aesthetic-predictor,
    github.com/LAION-AI/aesthetic-predictor.

    >>> import torch
    >>> Aesthetic.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), [""], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: the central square is cropped where torchvision crops it
    card = Card(
        sees="How pretty each frame is to the taste of people who rate pictures on the web.",
        blind_to="The prompt, motion, and everything between frames.",
        hacks="The glow of oil paintings, sunsets, portraits and smooth backgrounds: the style "
        "drifts towards them whatever the prompt says.",
        input="Any frame rate and size. A frame is resized to a shorter side of 224 pixels, and "
        "its central square is used.",
        cost="CLIP L/14 takes 0.16 TFLOP a frame of any size: 12 s on one busy CPU thread.",
    )

    def __init__(
        self,
        model: str = "clip:openai/clip-vit-large-patch14",
        head: str = "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        self.pair = load_pair(model, chunk, dtype, offload)
        find = self.pair.find
        # LAION's code uses torchvision, which rounds the crop's offset; transformers floors it
        self.pair.find = lambda network: replace(find(network), rounded=True)
        self.head = Network(lambda: read_head(read_state(weights_file(head))), offload)

    @classmethod
    def tiny(cls) -> Aesthetic:
        """Return the reward with a small CLIP and a head of random weights."""
        from ._networks.tiny import pair, seeded

        reward = cls()
        reward.pair, reward.head = pair(), Network(lambda: seeded(lambda: layers(16)))
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return the embedding of each frame, (B, F, D)."""
        return self.score_frames(samples, lambda frames, _: self.pair(frames))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the rating of each frame, (B, F)."""
        with self.head.on(features) as head:
            return head(nn.functional.normalize(features, dim=-1))[..., 0]


def layers(width: int) -> nn.Sequential:
    """Return the improved predictor: linear layers without activations.

    The published network has dropout at the places 1, 3 and 5. Dropout does nothing at
    inference; identities take its places, so that the numbers in the names of the weights
    stay the same.
    """
    modules: list[Any] = [
        nn.Linear(i, o) for i, o in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True)
    ]
    for place in (1, 3, 5):
        modules.insert(place, nn.Identity())
    return nn.Sequential(*modules)


def read_head(state: dict[str, Tensor]) -> nn.Module:
    """Return the head of a published file; raise ValueError for any other layout."""
    state = {name.removeprefix("layers."): value for name, value in state.items()}
    first = next((state[name] for name in ("weight", "0.weight") if name in state), torch.empty(0))
    width = first.shape[1] if first.dim() == 2 else 768  # 768 is the width of CLIP L/14
    head: nn.Module = nn.Linear(width, 1) if "weight" in state else layers(width)
    found, expected = _sizes(state), _sizes(head.state_dict())
    if found != expected:
        raise ValueError(
            f"expected a head of LAION's aesthetic predictor: one linear layer, or the linear "
            f"layers {_listed(expected)}; got {_listed(found)}. A file of weights does not say "
            f"which activations are between its layers, so heads of other layers, such as those "
            f"with ReLU, are not read: "
            f"take sac+logos+ava1-l14-linearMSE.pth or sa_0_4_vit_l_14_linear.pth"
        )
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head


def _sizes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight by name."""
    return {name: tuple(value.shape) for name, value in state.items()}


def _listed(sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the names and shapes of weights as text, without the biases."""
    shown = {name: size for name, size in sizes.items() if not name.endswith("bias")}
    return ", ".join(
        f"{name} {' x '.join(map(str, size))}" for name, size in list(shown.items())[:8]
    )
