"""Bases, formulas and totals that the rewards compatible with VBench share.

The arithmetic is that of the published code, with its faults, so that numbers can be
compared; the docstring of each reward names its faults. Networks are loaded at first use.
Weights of others are read, never bundled.

Sources: VBench, arXiv:2311.17982; VBench++ (VBench-I2V), arXiv:2411.13503.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from ._networks.hub import chunked
from ._vbench.networks import (
    ClipImage,
    Dino,
    Network,
    classical_flow,
    clip,
    dino,
    dino_positions,
    flow_network,
    is_raft,
    tiny_clip,
    tiny_dino,
    transformers,
)
from ._vbench.pictures import (
    CLIP,
    IMAGENET,
    colour,
    for_clip,
    for_dino,
    for_dreamsim,
    for_flow,
    for_musiq,
    image_for_dino,
    image_for_dreamsim,
    middle,
    normalised,
    padded_to,
    shorter_side,
    square_for_dino,
    unit,
    whole_levels,
)
from ._vbench.results import read_results
from ._vbench.totals import (
    I2V,
    I2V_QUALITY,
    QUALITY,
    SEMANTIC,
    VBENCH2,
    aggregate,
    i2v_totals,
    totals,
    vbench2_totals,
)
from .base import About, Reward, Samples, Score, all_unscored
from .flow import moving_edge, norm2, warp

__all__ = [
    "CLIP",
    "I2V",
    "I2V_QUALITY",
    "IMAGENET",
    "QUALITY",
    "SEMANTIC",
    "VBENCH2",
    "ClipImage",
    "Dino",
    "Followed",
    "Moving",
    "Network",
    "Networked",
    "ToImage",
    "aggregate",
    "clip",
    "colour",
    "consistency",
    "dino",
    "dino_positions",
    "embeddings",
    "faithfulness",
    "fastest",
    "flow_network",
    "for_clip",
    "for_dino",
    "for_dreamsim",
    "for_flow",
    "for_musiq",
    "i2v_totals",
    "image_for_dino",
    "image_for_dreamsim",
    "likeness",
    "middle",
    "normalised",
    "padded_to",
    "read_results",
    "shorter_side",
    "square_for_dino",
    "tiny_clip",
    "tiny_dino",
    "totals",
    "transformers",
    "trusted",
    "unit",
    "vbench2_totals",
    "whole_levels",
]


class Networked(Reward):
    """Base of the rewards that ask a network about each frame; the network is loaded late.

    `network` is a function from prepared frames to (N, D). `prepare`, which a subclass
    defines, turns frames (N, 3, H, W) in [0, 1] into what the network expects. The network
    sees `chunk` frames at a time on the device of the clips. With `offload`, the network
    goes back to the CPU after each call.
    """

    learned: ClassVar[bool] = True

    def __init__(self, network: Network | None, chunk: int, offload: bool) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"expected chunk, frames at a time, to be 1 or more, got {chunk}")
        self.network, self.chunk = network, chunk
        self.offload = offload

    def load(self) -> Network:
        """Load the network from the weights named in the options and return it."""
        raise RuntimeError(
            f"{type(self).__name__} has no network of its own: pass one as network=..."
        )

    def prepare(self, frames: Tensor) -> Tensor:
        """Turn frames (N, 3, H, W) in [0, 1] into the input of the network."""
        raise NotImplementedError

    def setup(self, device: torch.device | str = "cpu") -> Network:
        """Load the network if needed, move it to `device` and return it."""
        if self.network is None:
            self.network = self.load()
        if isinstance(self.network, nn.Module):
            self.network.eval().to(device)
        return self.network

    @torch.no_grad()
    def ask(self, video: Tensor) -> Tensor:
        """Return the network's output for each frame of (B, F, C, H, W), (B, F, D)."""
        network = self.setup(video.device)

        def asked(part: Tensor) -> Tensor:
            return network(self.prepare(colour(unit(part)))).float()

        outputs = chunked(asked, self.chunk, video.flatten(0, 1))
        if self.offload and isinstance(network, nn.Module):
            network.cpu()
        return outputs.reshape(*video.shape[:2], -1)


class Followed(Networked):
    """Base of the rewards that compare the embeddings of neighbouring frames.

    Each frame is embedded once, also when a clip is scored in pieces. A feature is a pair
    of embeddings, (B, F - 1, 2, D): with pairs, the first frame's embedding is part of the
    features.
    """

    lookahead: ClassVar[int] = 1

    def features(self, samples: Samples) -> Tensor:
        """Return the embeddings of each frame and its neighbour, (B, F - 1, 2, D)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Tensor | None, old: int) -> tuple[Tensor, Tensor]:
        """Return the pairs after the `old` scored frames, and the last embedding."""
        if state is None:
            embedded = self.ask(samples.video)
        else:
            embedded = torch.cat([state, self.ask(samples.video[:, old:])], 1)
        return torch.stack([embedded[:, :-1], embedded[:, 1:]], 2), embedded[:, -1:]

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the published consistency of each pair, (B, F - 1)."""
        return consistency(features)


class ToImage(Followed):
    """Base of the rewards that compare a clip with the image it was made from.

    `faithfulness` is the formula.
    """

    lost: ClassVar[str] = (
        "unscored: no reference image came with the clip, or the network's answer is not finite"
    )

    def __init__(
        self,
        weighting: tuple[float, float, float],
        first: bool,
        network: Network | None,
        chunk: int,
        offload: bool,
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weighting, self.first = weighting, first

    def prepare_image(self, frames: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) in [0, 1] into the input of the network.

        The published code prepares images and frames differently.
        """
        raise NotImplementedError

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        if samples.reference is None and not self.first:
            why = (
                "inapplicable: needs the image that the clip was made from, "
                "Samples(reference=image), or first=True"
            )
            return all_unscored(samples, self.time_support, [why] * len(samples))
        return super().forward(samples)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the terms of each pair, (B, F - 1), NaN if there is no image."""
        if about.reference is not None:
            return faithfulness(
                features, self._embedded(about.reference[:, 0]).to(features), self.weighting
            )
        image = features[:, 0, 0] if self.first else torch.full_like(features[:, 0, 0], torch.nan)
        return faithfulness(features, image, self.weighting)

    @torch.no_grad()
    def _embedded(self, image: Tensor) -> Tensor:
        """Return the embeddings of images (N, C, H, W), (N, D)."""
        return self.setup(image.device)(self.prepare_image(colour(unit(image)))).float().flatten(1)


class Moving(Reward):
    """Base of the rewards that need the flow between two frames, by RAFT or a stand-in.

    `network` is a function from two batches (N, 3, H, W) of 0..255, with sides divisible by
    8, to the flow (N, 2, H, W) in pixels from the first to the second. Without `network`,
    `flow` names the method: "raft:PATH", or a method of `flow.estimate`.
    """

    network: Network | None

    def __init__(self, flow: str, network: Network | None, chunk: int) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(
                f"expected chunk, pairs of frames at a time, to be 1 or more, got {chunk}"
            )
        self.flow, self.network = flow, network
        self.chunk = chunk

    @property
    def classical(self) -> bool:
        """Return whether a flow without weights replaces the published network."""
        return self.network is None and bool(self.flow) and not is_raft(self.flow)

    @torch.no_grad()
    def ask(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the flow (N, 2, H, W) between prepared pictures."""
        if self.classical:
            return classical_flow(first, second, self.flow)[0]
        if self.network is None:
            self.network = flow_network(self.flow, type(self).__name__)
        if isinstance(self.network, nn.Module):
            self.network.eval().to(first.device)
        return self.network(first, second)

    def both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow from first to second, and the flow back."""
        if self.classical:
            return classical_flow(first, second, self.flow)
        return self.ask(first, second), self.ask(second, first)

    @torch.no_grad()
    def speed(self, first: Tensor, second: Tensor, share: float) -> Tensor:
        """Return `fastest` of the flow between frames (N, C, H, W), (N,).

        `chunk` pairs are computed at a time.
        """
        pieces = zip(first.split(self.chunk), second.split(self.chunk))
        return torch.cat([fastest(self.ask(for_flow(a), for_flow(b)), share) for a, b in pieces])


# Formulas that several rewards share


def embeddings(pairs: Tensor) -> Tensor:
    """Return the unit embedding of each frame, (B, F, D), from pairs (B, F - 1, 2, D)."""
    return normalize(torch.cat([pairs[:, :1, 0], pairs[:, :, 1]], 1), dim=-1)


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """Return max(0, cos) along the last dimension, at most 1."""
    return cosine_similarity(first, second, dim=-1).clamp(0, 1)


def consistency(pairs: Tensor) -> Tensor:
    """Return VBench's consistency from pairs of embeddings (B, F - 1, 2, D), (B, F - 1).

    The formula is (max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t))) / 2 for t >= 1.
    """
    z = embeddings(pairs)
    return (likeness(z[:, :-1], z[:, 1:]) + likeness(z[:, :1], z[:, 1:])) / 2


def faithfulness(pairs: Tensor, image: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Return VBench-I2V's score as terms (B, F - 1) whose mean is the value.

    The value is a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1},
    z_t), where `weights` are a, b and c and all cosines are at least 0. The embeddings come
    as pairs (B, F - 1, 2, D) and, for the image, (B, D). Only the middle part has a place
    in time; the other two are the same in every term.
    """
    z = embeddings(pairs)
    best, mean, least = weights
    to_image = likeness(normalize(image, dim=-1)[:, None], z)
    steps = likeness(z[:, :-1], z[:, 1:])
    return (
        best * to_image.amax(1, keepdim=True) + mean * steps + least * steps.amin(1, keepdim=True)
    )


def trusted(forward: Tensor, backward: Tensor) -> Tensor:
    """Return where the flow can be trusted by the rules of Lai et al., bool (N, H, W).

    The rules exclude occlusion and moving edges, by the flows in both directions. Unlike in
    `flow.occluded`, leaving the picture does not count as occlusion, as in the published
    code.
    """
    back = warp(backward, forward, "bilinear")
    hidden = norm2(back + forward) > 0.01 * (norm2(back) + norm2(forward)) + 0.5
    return ~(hidden | moving_edge(forward))


def fastest(flow: Tensor, share: float) -> Tensor:
    """Return the mean length of the int(share H W) longest flow vectors, (N,)."""
    lengths = flow.square().sum(1).sqrt().flatten(1)
    return lengths.topk(int(lengths.shape[1] * share), dim=1).values.mean(1)
