"""What the VBench-compatible rewards share: bases and formulas, prepared pictures, networks loaded late, and totals.

The arithmetic is the published code's, faults included, so that numbers compare; each reward's card names its faults.
Sources: VBench, arXiv:2311.17982; VBench++ (VBench-I2V), arXiv:2411.13503. Weights of others are read, never bundled.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from ._vbench_networks import (
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
from ._vbench_pictures import (
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
    unit,
    whole_levels,
)
from .base import About, Reward, Samples, Score, nothing
from .flow import moving_edge, norm2, warp

__all__ = [
    "CLIP", "I2V", "I2V_QUALITY", "IMAGENET", "QUALITY", "SEMANTIC", "ClipImage", "Dino", "Followed", "Moving",
    "Network", "Networked", "ToImage", "aggregate", "clip", "colour", "consistency", "dino",
    "dino_positions", "embeddings", "faithfulness", "fastest", "flow_network", "for_clip", "for_dino",
    "for_dreamsim", "for_flow", "for_musiq", "i2v_totals", "image_for_dino", "image_for_dreamsim",
    "likeness", "middle", "normalised", "padded_to", "shorter_side", "tiny_clip", "tiny_dino", "totals",
    "transformers", "trusted", "unit", "whole_levels",
]

QUALITY = {  # least, most, weight
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
I2V = {
    "camera_motion": (0.0, 1.0, 0.1),
    "i2v_subject": (0.1462, 1.0, 1.0),
    "i2v_background": (0.2615, 1.0, 1.0),
}
I2V_QUALITY = {name: QUALITY[name] for name in (
    "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality",
    "imaging_quality")}


class Networked(Reward):
    """Base of the rewards that ask a network, loaded at first use, of each frame; a subclass says how to prepare it.

    `network` takes what `prepare` makes of frames (N, 3, H, W) in [0, 1] and gives (N, D). It sees `chunk` frames at
    a time on the device of the clips, and goes back to the CPU after each call with `offload`.
    """

    learned: ClassVar[bool] = True

    def __init__(self, network: Network | None, chunk: int, offload: bool) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"expected chunk, frames at a time, to be 1 or more, got {chunk}")
        self.network, self.chunk, self.offload = network, chunk, offload

    def load(self) -> Network:
        """The network, from the weights named in the options."""
        raise RuntimeError(f"{type(self).__name__} has no network of its own: pass one as network=...")

    def prepare(self, frames: Tensor) -> Tensor:
        """Frames (N, 3, H, W) in [0, 1] as the network takes them."""
        raise NotImplementedError

    def setup(self, device: torch.device | str = "cpu") -> Network:
        """The network, loaded and on `device`."""
        if self.network is None:
            self.network = self.load()
        if isinstance(self.network, nn.Module):
            self.network.eval().to(device)
        return self.network

    @torch.no_grad()
    def ask(self, video: Tensor) -> Tensor:
        """What the network says of each frame of (B, F, C, H, W): (B, F, D)."""
        network = self.setup(video.device)
        said = [network(self.prepare(colour(unit(part)))).float() for part in video.flatten(0, 1).split(self.chunk)]
        if self.offload and isinstance(network, nn.Module):
            network.cpu()
        return torch.cat(said).reshape(*video.shape[:2], -1)


class Followed(Networked):
    """Base of the rewards that compare embeddings of neighbouring frames; each frame is embedded once, also in pieces.

    A feature is a pair, (B, F - 1, 2, D), so that the first frame's embedding is never lost.
    """

    reach: ClassVar[int] = 1

    def features(self, samples: Samples) -> Tensor:
        """Embeddings of each frame and of its neighbour, (B, F - 1, 2, D)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Tensor | None, old: int) -> tuple[Tensor, Tensor]:
        """The pairs after the `old` frames already scored, and the last frame's embedding."""
        if state is None:
            embedded = self.ask(samples.video)
        else:
            embedded = torch.cat([state, self.ask(samples.video[:, old:])], 1)
        return torch.stack([embedded[:, :-1], embedded[:, 1:]], 2), embedded[:, -1:]

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """The published consistency of each pair, (B, F - 1)."""
        return consistency(features)


class ToImage(Followed):
    """Base of the rewards that compare a clip with the image it was made from, by `faithfulness`."""

    lost: ClassVar[str] = "unscored: no reference image came with the clip, or the network's answer is not finite"

    def __init__(
        self, weighting: tuple[float, float, float], first: bool, network: Network | None, chunk: int, offload: bool
    ) -> None:
        super().__init__(network, chunk, offload)
        self.weighting, self.first = weighting, first

    def prepare_image(self, frames: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] as the network takes them; published code treats them unlike frames."""
        raise NotImplementedError

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips."""
        if samples.reference is None and not self.first:
            why = "inapplicable: needs the image that the clip was made from, Samples(reference=image), or first=True"
            return nothing(samples, self.support, [why] * len(samples))
        return super().forward(samples)

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """One number a pair, (B, F - 1), NaN where there is no image."""
        if about.reference is not None:
            return faithfulness(features, self._embedded(about.reference[:, 0]).to(features), self.weighting)
        image = features[:, 0, 0] if self.first else torch.full_like(features[:, 0, 0], torch.nan)
        return faithfulness(features, image, self.weighting)

    @torch.no_grad()
    def _embedded(self, image: Tensor) -> Tensor:
        return self.setup(image.device)(self.prepare_image(colour(unit(image)))).float().flatten(1)


class Moving(Reward):
    """Base of the rewards that ask for the flow between two frames, by RAFT or by what stands in for it.

    `network` takes two batches (N, 3, H, W) of 0..255, sides divisible by 8, and gives the flow (N, 2, H, W) in pixels
    from the first to the second. Without one, `flow` names it: "raft:PATH", or a method of `flow.estimate`.
    """

    network: Network | None

    def __init__(self, flow: str, network: Network | None, chunk: int) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"expected chunk, pairs of frames at a time, to be 1 or more, got {chunk}")
        self.flow, self.network, self.chunk = flow, network, chunk

    @property
    def classical(self) -> bool:
        """Whether a flow without weights stands in for the published network."""
        return self.network is None and bool(self.flow) and not is_raft(self.flow)

    @torch.no_grad()
    def ask(self, first: Tensor, second: Tensor) -> Tensor:
        """Flow (N, 2, H, W) between pictures that are as the network takes them."""
        if self.classical:
            return classical_flow(first, second, self.flow)[0]
        if self.network is None:
            self.network = flow_network(self.flow, type(self).__name__)
        if isinstance(self.network, nn.Module):
            self.network.eval().to(first.device)
        return self.network(first, second)

    def both(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The flow there and the flow back, as `ask` gives them."""
        if self.classical:
            return classical_flow(first, second, self.flow)
        return self.ask(first, second), self.ask(second, first)

    @torch.no_grad()
    def speed(self, first: Tensor, second: Tensor, share: float) -> Tensor:
        """`fastest` of the flow between frames (N, C, H, W), `chunk` at a time, (N,)."""
        pieces = zip(first.split(self.chunk), second.split(self.chunk))
        return torch.cat([fastest(self.ask(for_flow(a), for_flow(b)), share) for a, b in pieces])


# --- the formulas shared by several ----------------------------------------------------------------------------------


def embeddings(pairs: Tensor) -> Tensor:
    """Pairs of neighbours (B, F - 1, 2, D) as unit vectors of each frame, (B, F, D)."""
    return normalize(torch.cat([pairs[:, :1, 0], pairs[:, :, 1]], 1), dim=-1)


def likeness(first: Tensor, second: Tensor) -> Tensor:
    """max(0, cos) of the last dimension, at most 1."""
    return cosine_similarity(first, second, dim=-1).clamp(0, 1)


def consistency(pairs: Tensor) -> Tensor:
    """(max(0, cos(z_{t-1}, z_t)) + max(0, cos(z_0, z_t))) / 2 for t >= 1, from pairs (B, F - 1, 2, D): (B, F - 1)."""
    z = embeddings(pairs)
    return (likeness(z[:, :-1], z[:, 1:]) + likeness(z[:, :1], z[:, 1:])) / 2


def faithfulness(pairs: Tensor, image: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """VBench-I2V's score, spread so that its mean over pairs is the value, (B, F - 1).

    a max_t cos(z_img, z_t) + b mean_t cos(z_{t-1}, z_t) + c min_t cos(z_{t-1}, z_t), all cosines at least 0, from
    pairs (B, F - 1, 2, D) and the image's embedding (B, D). Only the middle term has a place in time.
    """
    z, best, mean, least = embeddings(pairs), *weights
    to_image = likeness(normalize(image, dim=-1)[:, None], z)
    steps = likeness(z[:, :-1], z[:, 1:])
    return best * to_image.amax(1, keepdim=True) + mean * steps + least * steps.amin(1, keepdim=True)


def trusted(forward: Tensor, backward: Tensor) -> Tensor:
    """Where Lai et al. find neither occlusion nor a moving edge, bool (N, H, W), by the flows both ways.

    Unlike `flow.occluded`, leaving the picture is no occlusion, as in the published code.
    """
    back = warp(backward, forward, "bilinear")
    hidden = norm2(back + forward) > 0.01 * (norm2(back) + norm2(forward)) + 0.5
    return ~(hidden | moving_edge(forward))


def fastest(flow: Tensor, share: float) -> Tensor:
    """Mean length of the int(share H W) longest vectors of a flow (N, 2, H, W), (N,)."""
    lengths = flow.square().sum(1).sqrt().flatten(1)
    return lengths.topk(int(lengths.shape[1] * share), dim=1).values.mean(1)


# --- totals ----------------------------------------------------------------------------------------------------------


def totals(dimensions: Mapping[str, float | None], strict: bool = False) -> dict[str, Any]:
    """Quality, Semantic and Total as VBench's script `scripts/cal_final_score.py` prints them, of raw scores in [0, 1].

    x' = (x - least) / (most - least), times the weight of the dimension (0.5 for dynamic degree, else 1);
    Quality = sum of 7 / 6.5, Semantic = mean of 9, Total = (4 Quality + Semantic) / 5.

    A missing dimension (absent, None or NaN) is what the script makes of it: the raw score 0, before it is scaled. That
    is below the least score of five dimensions, so x' is negative there: a missing motion smoothness counts as -2.42.
    "missing" lists these dimensions; a total with an entry in "missing" does not compare with published totals.
    Raises ValueError for unknown names, for what is no number, and with `strict` for missing dimensions.

    >>> done = totals({"temporal_flickering": 0.97, "dynamic_degree": 0.6})
    >>> [round(done[name], 4) for name in ("quality", "semantic", "total")], len(done["missing"])
    ([-0.2659, -0.0004, -0.2128], 14)
    """
    given = _given(dimensions, [*QUALITY, *SEMANTIC], strict)
    quality, semantic = _weighted(given, QUALITY), _weighted(given, SEMANTIC)
    total = (4 * quality + semantic) / 5
    return {"quality": quality, "semantic": semantic, "total": total, "missing": _missing(given)}


def i2v_totals(dimensions: Mapping[str, float | None], strict: bool = False) -> dict[str, Any]:
    """The I2V score, the Quality score and their mean as VBench's script `scripts/cal_i2v_final_score.py` prints them.

    I2V = (0.1 camera + subject + background) / 2.1, Quality = weighted sum / 5.5 (without temporal flickering), Total =
    their mean. `totals` says how each dimension is scaled, what a missing one counts, and what is raised.

    >>> done = i2v_totals({"camera_motion": 1.0, "i2v_subject": 1.0, "i2v_background": 1.0})
    >>> round(done["i2v"], 4), round(done["quality"], 4), done["missing"][:2]
    (1.0, -0.5359, ['subject_consistency', 'background_consistency'])
    """
    given = _given(dimensions, [*I2V, *I2V_QUALITY], strict)
    to_image, quality = _weighted(given, I2V), _weighted(given, I2V_QUALITY)
    return {"i2v": to_image, "quality": quality, "total": (to_image + quality) / 2, "missing": _missing(given)}


def aggregate(per_frame_scores: Sequence[Sequence[float]], how: Literal["frames", "videos"] = "frames") -> float:
    """One number of a dimension from the terms of each video; NaN videos are left out.

    "frames" is the mean of all terms of all videos, as VBench's consistencies are on one GPU; "videos" the mean of
    videos' means, as on several. They differ where lengths do.

    >>> aggregate([[1.0], [0.0, 0.0, 0.0]], "frames"), aggregate([[1.0], [0.0, 0.0, 0.0]], "videos")
    (0.25, 0.5)
    """
    if how not in ("frames", "videos"):
        raise ValueError(f"expected how to be 'frames' or 'videos', got {how!r}")
    kept = [list(terms) for terms in per_frame_scores if len(terms) and all(map(math.isfinite, terms))]
    if not kept:
        return math.nan
    if how == "frames":
        return math.fsum(map(math.fsum, kept)) / sum(map(len, kept))
    return math.fsum(math.fsum(terms) / len(terms) for terms in kept) / len(kept)


def _given(dimensions: Mapping[str, float | None], known: Sequence[str], strict: bool) -> dict[str, float]:
    """Every known dimension, NaN where it is missing; names may be written with blanks."""
    named = {name.strip().lower().replace(" ", "_"): _number(name, value) for name, value in dimensions.items()}
    unknown = [name for name in named if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        advice = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"VBench has no dimension {unknown[0]!r}: {advice}known: {', '.join(sorted(known))}")
    given = {name: named.get(name, math.nan) for name in known}
    if strict and _missing(given):
        raise ValueError(f"expected every dimension, missing: {', '.join(_missing(given))}; with strict=False each of "
                         "them counts as the raw score 0, as in VBench's script")
    return given


def _number(name: str, value: Any) -> float:
    """The score of a dimension, NaN where there is none. VBench's result files hold [score, clips] instead."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected the score of {name!r} as one number, got {type(value).__name__}: of an entry "
                         "[score, clips] of VBench's result files pass the score alone") from None


def _missing(given: Mapping[str, float]) -> list[str]:
    return [name for name, value in given.items() if math.isnan(value)]


def _weighted(given: Mapping[str, float], table: Mapping[str, tuple[float, float, float]]) -> float:
    """Weighted mean of the scaled scores; a missing one is 0 before it is scaled, as in VBench's script."""
    raw = {name: 0.0 if math.isnan(given[name]) else given[name] for name in table}
    scaled = [(raw[name] - least) / (most - least) * weight for name, (least, most, weight) in table.items()]
    return sum(scaled) / sum(weight for _, _, weight in table.values())
