"""How pretty frames are, by the LAION aesthetic predictors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ._hub import Network, published, read_state
from ._learned import LearnedReward
from .base import About, Card, Samples
from .encoders import load_pair

WIDTHS = (1024, 128, 64, 16, 1)


class Aesthetic(LearnedReward):
    """Prettiness of each frame, about 1 to 10, as people rated pictures: a small head over CLIP L/14.

    head(z / |z|), z the embedding of a frame. `head` is a file, or owner/name/file of the hub, of one of the two
    published layouts, told apart by their names: "weight" and "bias" of one linear layer (sa_0_4_vit_l_14_linear.pth,
    which VBench divides by 10), or "layers.0.weight" ... of linear layers 768-1024-128-64-16-1 without activations
    (sac+logos+ava1-l14-linearMSE.pth, and the default, which is the copy that DDPO was run with). Raises ValueError for
    any other. github.com/christophschuhmann/improved-aesthetic-predictor, github.com/LAION-AI/aesthetic-predictor.

    >>> import torch
    >>> Aesthetic.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), [""], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    card = Card(
        sees="How pretty each frame is by the taste of people who rate pictures on the web.",
        blind_to="The prompt, motion, everything between frames.",
        hacks="Oil-painting glow, sunsets, portraits, smooth backgrounds: the style drifts whatever the prompt says.",
        input="Any frame rate and size; frames are resized to 224 pixels, and the longer sides cut off.",
        cost="CLIP L/14: 0.16 TFLOP a frame of any size: 12 s on one busy CPU thread.",
    )

    def __init__(
        self, model: str = "clip:openai/clip-vit-large-patch14",
        head: str = "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth", chunk: int = 16, dtype: str = "float32",
        offload: bool = False, frames: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(chunk, dtype, offload, frames)
        self.pair = load_pair(model, chunk, dtype, offload)
        self.head = Network(lambda: read_head(read_state(published(head))), offload)

    @classmethod
    def tiny(cls) -> Aesthetic:
        """A small CLIP and a head of random weights."""
        from ._tiny import pair, seeded

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
    """The improved predictor: linear layers alone; its dropouts, 1, 3 and 5, do nothing here but keep the numbering."""
    sizes: list[Any] = [nn.Linear(i, o) for i, o in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True)]
    for place in (1, 3, 5):
        sizes.insert(place, nn.Identity())
    return nn.Sequential(*sizes)


def read_head(state: dict[str, Tensor]) -> nn.Module:
    """The head of a published file; ValueError where it is of neither layout."""
    if set(state) == {"weight", "bias"}:
        head: nn.Module = nn.Linear(state["weight"].shape[1], 1)
    elif "layers.0.weight" in state:
        state = {name.removeprefix("layers."): value for name, value in state.items()}
        head = layers(state["0.weight"].shape[1])
    else:
        raise ValueError(f"expected weights of a LAION aesthetic predictor, got names {', '.join(sorted(state)[:4])}")
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head
