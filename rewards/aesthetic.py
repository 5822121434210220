"""How pretty frames are, by the LAION aesthetic predictors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._networks.hub import Network, published, read_state
from ._networks.learned import LearnedReward
from .base import About, Card, Samples
from .encoders import load_pair

WIDTHS = (1024, 128, 64, 16, 1)


class Aesthetic(LearnedReward):
    """Prettiness of each frame, about 1 to 10, as people rated pictures: a small head over
    CLIP L/14.

    head(z / |z|), z the embedding of a frame. `head` is a file, or owner/name/file of the
    hub, of one of the two published layouts, told apart by their names: "weight" and "bias"
    of one linear layer (sa_0_4_vit_l_14_linear.pth, which VBench divides by 10), or
    "layers.0.weight" ... of linear layers 768-1024-128-64-16-1 without activations
    (sac+logos+ava1-l14-linearMSE.pth, and the default, which is the copy that DDPO was run
    with). Raises ValueError for any other, such as a head with ReLU between its layers
    (ava+logos-l14-reluMSE.pth). The frame's middle is cut out as LAION's code does it, by
    torchvision; DDPO's code, by transformers, may start one pixel earlier where an odd
    number of pixels is left over, which no square frame has.
    github.com/christophschuhmann/improved-aesthetic-predictor,
    github.com/LAION-AI/aesthetic-predictor.

    >>> import torch
    >>> Aesthetic.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), [""], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: the middle is cut out where torchvision does
    card = Card(
        sees="How pretty each frame is by the taste of people who rate pictures on the web.",
        blind_to="The prompt, motion, everything between frames.",
        hacks="Oil-painting glow, sunsets, portraits, smooth backgrounds: the style drifts whatever the prompt says.",
        input="Any frame rate and size; frames are resized to 224 pixels, and the longer sides cut off.",
        cost="CLIP L/14: 0.16 TFLOP a frame of any size: 12 s on one busy CPU thread.",
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
        # LAION's code crops by torchvision
        self.pair.find = lambda network: replace(find(network), rounded=True)
        self.head = Network(lambda: read_head(read_state(published(head))), offload)

    @classmethod
    def tiny(cls) -> Aesthetic:
        """A small CLIP and a head of random weights."""
        from ._networks.tiny import pair, seeded

        reward = cls()
        reward.pair, reward.head = pair(), Network(lambda: seeded(lambda: layers(16)))
        return reward

    def features(self, samples: Samples) -> Tensor:
        """The embedding of each frame, (B, F, D)."""
        return self.each(samples, lambda frames, _: self.pair(frames))

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """One number a frame, (B, F)."""
        with self.head.on(features) as head:
            return head(nn.functional.normalize(features, dim=-1))[..., 0]


def layers(width: int) -> nn.Sequential:
    """The improved predictor: linear layers alone; its dropouts, 1, 3 and 5, do nothing
    here but keep the numbering."""
    sizes: list[Any] = [nn.Linear(i, o) for i, o in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True)]
    for place in (1, 3, 5):
        sizes.insert(place, nn.Identity())
    return nn.Sequential(*sizes)


def read_head(state: dict[str, Tensor]) -> nn.Module:
    """The head of a published file; ValueError where it is of neither layout."""
    state = {name.removeprefix("layers."): value for name, value in state.items()}
    first = next((state[name] for name in ("weight", "0.weight") if name in state), torch.empty(0))
    width = first.shape[1] if first.dim() == 2 else 768
    head: nn.Module = nn.Linear(width, 1) if "weight" in state else layers(width)
    found, expected = _sizes(state), _sizes(head.state_dict())
    if found != expected:
        raise ValueError(
            f"expected a head of LAION's aesthetic predictor: one linear layer, or the linear layers "
            f"{_told(expected)}; got {_told(found)}. The file does not say what stands between its layers, "
            f"so heads of other layers, as those with ReLU, are not read: "
            f"take sac+logos+ava1-l14-linearMSE.pth or sa_0_4_vit_l_14_linear.pth"
        )
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head


def _sizes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _told(sizes: Mapping[str, tuple[int, ...]]) -> str:
    """The names and sizes of weights in words, biases left out."""
    shown = {name: size for name, size in sizes.items() if not name.endswith("bias")}
    return ", ".join(
        f"{name} {' x '.join(map(str, size))}" for name, size in list(shown.items())[:8]
    )
