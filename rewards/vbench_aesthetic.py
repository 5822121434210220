"""VBench's aesthetic quality, which the LAION predictor measures on every frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ._networks.hub import load_weights
from .base import About, Card, Samples
from .vbench import Network, Networked, clip, for_clip, tiny_clip


class VbenchAesthetic(Networked):
    """VBench's aesthetic_quality: LAION's linear predictor scores how pretty frames are.

    The value is mean_t (w · z_t / |z_t| + b) / 10. z_t is CLIP ViT-L/14's embedding of the
    central square of a frame whose shorter side is resized to 224, bicubic, without
    antialiasing. Most values are in [0, 1].

    As published: the sides of a wide frame are cut off, and nothing bounds the rating. The
    published code uses half precision on CUDA, this one single precision.

    `weights` is a folder or hub id of CLIP for transformers. `head` is LAION's file
    sa_0_4_vit_l_14_linear.pth, or any callable from (N, 768) to (N, 1).

    Source: VBench, arXiv:2311.17982; LAION aesthetic predictor V1; CLIP, arXiv:2103.00020.

    >>> reward = VbenchAesthetic(network=lambda x: x.mean((2, 3)), head=lambda z: 5 + 0 * z[:, :1])
    >>> reward(Samples(torch.rand(1, 4, 3, 32, 32), [""], 8.0)).value
    tensor([0.5000])
    """

    needs = ("transformers",)
    extra = "learned"
    time_support = "frame"
    card = Card(
        sees="How much each frame looks like pictures that people rated highly.",
        blind_to="Time, the prompt, and the sides of a wide frame.",
        hacks="Painterly, saturated, centred stills: the style drifts towards illustration when "
        "it is optimised.",
        input="Any clip.",
        cost="CLIP ViT-L/14 for each frame, 81 G multiply-adds.",
    )

    def __init__(
        self,
        weights: str = "openai/clip-vit-large-patch14",
        head: str | Network = "",
        network: Network | None = None,
        chunk: int = 16,
        offload: bool = False,
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weights, self.head = weights, head

    @classmethod
    def tiny(cls) -> VbenchAesthetic:
        """Return the reward with a small image network and a head of random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return cls(network=tiny_clip(), head=nn.Linear(16, 1))

    def load(self) -> Network:
        """Return CLIP's image network."""
        return clip(self.weights)

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames into CLIP's input."""
        return for_clip(frames)

    def features(self, samples: Samples) -> Tensor:
        """Return CLIP's embedding of each frame, (B, F, D)."""
        return self.ask(samples.video)

    @torch.no_grad()
    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return a tenth of the rating of each frame, (B, F)."""
        if isinstance(self.head, str):
            self.head = linear_head(self.head)
        if isinstance(self.head, nn.Module):
            self.head.to(features.device)
        marks = self.head(normalize(features.flatten(0, 1), dim=-1))
        return marks.reshape(features.shape[:2]) / 10


def linear_head(path: str) -> nn.Linear:
    """Load a linear layer from a file of its `weight` and `bias`, .safetensors or .pth."""
    if not path:
        raise RuntimeError(
            "VbenchAesthetic needs LAION's linear head: head='sa_0_4_vit_l_14_linear.pth', "
            "a file of the repository LAION-AI/aesthetic-predictor"
        )
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    layer = nn.Linear(state.get("weight", torch.empty(1, 768)).shape[-1], 1)
    load_weights(
        layer,
        state,
        "LAION's linear head, sa_0_4_vit_l_14_linear.pth, the only one with which VBench scores",
    )
    return layer
