"""Simulate raters whose utility is known, to measure how well a fit recovers a taste.

Everything here is a pure function of its arguments and a seed. The utility is read from the
pixels of clips of `vidrl.synthetic`, by the masks of the verifier, so that no feature of a fit
equals it.

Legend: B clips, F frames, N answers. Utilities are in logits: σ(difference) is the probability
with which a careful rater chooses the better clip, ties left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import pad

from vidrl.feedback.bradley_terry import Array, probabilities
from vidrl.feedback.judgments import Choice
from vidrl.rewards import Card, Reward, Samples
from vidrl.synthetic import corruptions, world
from vidrl.synthetic.verifier import centroid, object_mask

# How far apart clips of `pool` lie in each taste: the unit in which weights count.
UNITS = {"smooth": 0.03, "colour": 0.2, "steady": 0.12, "lively": 0.015}
FAULTS = ("shake", "pop", "desaturate", "flicker", "noise", "blur", "stutter", "dim", "average")


class Utility(Reward):
    """The true utility of simulated raters: smooth motion, strong colour, no popping, speed.

    The utility of a frame is Σ weight · measure / unit over four measures of its coloured
    object: smooth, minus the second difference of the centre in widths; colour, the mean
    difference between the largest and the smallest channel; steady, minus the change of the
    logarithm of the area; lively, the way of the centre from frame to frame in widths. The
    units are those of UNITS.

    >>> clip = world.render(world.Scene("circle", "red", "left"))
    >>> shaken = corruptions.corrupt(clip.video, "shake")
    >>> values = Utility()(Samples(torch.stack([clip.video, shaken]), [""] * 2, 8.0)).value
    >>> bool(values[0] > values[1])
    True
    """

    learned = True  # a study's instrument: it is no reward of the folder
    time_support = "pair"
    least_frames = 3
    card = Card(
        sees="How smoothly and how fast the coloured object moves, how strong its colour is, and "
        "whether its size jumps.",
        blind_to="All else.",
        hacks="A still of a strong colour.",
        input="Clips of vidrl.synthetic.world.",
    )

    def __init__(
        self, smooth: float = 1.0, colour: float = 1.0, steady: float = 1.0, lively: float = 0.0
    ) -> None:
        super().__init__()
        self.weights = {"smooth": smooth, "colour": colour, "steady": steady, "lively": lively}

    def terms(self, samples: Samples) -> Tensor:
        """Return the utility of each frame, (B, F)."""
        return torch.stack([self._of_clip(clip) for clip in samples.frames])

    def _of_clip(self, video: Tensor) -> Tensor:
        found = measures(video.float().cpu())
        parts = [self.weights[name] * found[name] / UNITS[name] for name in UNITS]
        return torch.stack(parts).sum(0)


def measures(video: Tensor) -> dict[str, Tensor]:
    """Return smooth, colour, steady and lively of each frame of a clip (F, 3, H, W), each (F,).

    A frame that shows no coloured object has the smooth and the steady of an object that jumps
    by a tenth of the width and doubles its area, and no colour. A step to or from such a frame
    is no motion: its lively is 0.
    """
    mask = object_mask(video)
    mass = mask.sum((1, 2))
    chroma = video.amax(1) - video.amin(1)
    centre = centroid(mask).nan_to_num(0.5)
    jump = centre.diff(n=2, dim=0).norm(dim=1)
    growth = (mass / mask[0].numel() + 1e-3).log().diff().abs()
    seen = (mass > 0.004 * mask[0].numel()).float()
    colour = (chroma * mask).sum((1, 2)) / mass.clamp(min=1e-6) * seen
    way = centre.diff(dim=0).norm(dim=1) * seen[1:] * seen[:-1]
    around = (pad(way[None], (1, 0), "replicate") + pad(way[None], (0, 1), "replicate"))[0]
    smooth = -pad(jump[None], (1, 1), mode="replicate")[0]
    steady = -(pad(growth, (1, 0)) + pad(growth, (0, 1))) / 2
    return {
        "smooth": torch.where(seen > 0, smooth, torch.full_like(smooth, -0.1)),
        "colour": colour,
        "steady": torch.where(seen > 0, steady, torch.full_like(steady, -0.7)),
        "lively": around / 2,
    }


@dataclass(frozen=True)
class Rater:
    """A simulated rater.

    - `temperature` divides the gap of two utilities: above 1, the rater is less certain.
    - `side` is added to the gap: above 0, the rater likes the clip shown first.
    - `lapse` is the share of answers that are drawn evenly from the three.
    - `tie` is the tie parameter τ of `bradley_terry`: −inf never ties.
    - `drift` is how far the taste has moved to another one at the last answer, from 0 to 1.
    """

    name: str = "rater"
    temperature: float = 1.0
    side: float = 0.0
    lapse: float = 0.0
    tie: float = -1.5
    drift: float = 0.0


def chances(rater: Rater, gap: ArrayLike) -> Array:
    """Return the probabilities of the first clip, a tie and the second one, (N, 3).

    >>> chances(Rater(lapse=1.0), [5.0]).round(3).tolist()
    [[0.333, 0.333, 0.333]]
    """
    felt = np.asarray(gap, float) / rater.temperature + rater.side
    return (1 - rater.lapse) * probabilities(felt, rater.tie) + rater.lapse / 3


def answers(
    rater: Rater, gap: ArrayLike, seed: int, drifted: ArrayLike | None = None
) -> np.ndarray:
    """Return a rater's answers to pairs with these gaps of utility, (N,), in the order of time.

    `drifted` are the gaps under the taste to which the rater drifts.
    """
    gaps = np.asarray(gap, float)
    if drifted is not None and rater.drift:
        moved = rater.drift * np.arange(len(gaps)) / max(len(gaps) - 1, 1)
        gaps = (1 - moved) * gaps + moved * np.asarray(drifted, float)
    draw = np.random.default_rng(seed).random(len(gaps))
    first, tie, _ = chances(rater, gaps).T
    return np.where(draw < first, 1, np.where(draw < first + tie, 0, -1))


def ceiling(rater: Rater, gap: ArrayLike) -> float:
    """Return the accuracy on decided pairs of one who knows the utility: the noise ceiling.

    It is Σ max(P(first), P(second)) / Σ (P(first) + P(second)) over the pairs, for a rater who is
    shown each pair in either order.

    >>> round(ceiling(Rater(tie=-np.inf), [0.0, 100.0]), 2)
    0.75
    """
    first, _, second = (chances(rater, gap) + chances(rater, -np.asarray(gap))[:, ::-1]).T
    return float(np.maximum(first, second).sum() / (first + second).sum())


def choices(
    rater: Rater,
    curves: Mapping[str, Tensor],
    prompts: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    seed: int = 0,
    segments: int = 0,
) -> list[Choice]:
    """Return a rater's choices between clips with known curves of utility.

    curves: the utility of each frame of each clip. With `segments`, each choice has as many
    labels, answered with the gap of the segment's means.
    """
    values = {clip: float(curve.mean()) for clip, curve in curves.items()}
    found = answers(rater, [values[a] - values[b] for a, b in pairs], seed)
    labels = [()] * len(pairs)
    if segments:
        local = np.stack([_segments(curves[a] - curves[b], segments) for a, b in pairs])
        drawn = answers(rater, local.ravel(), seed + 1).reshape(local.shape)
        labels = [tuple(map(int, row)) for row in drawn]  # type: ignore[misc]
    return [
        Choice(a, b, int(answer), prompt=prompts[a], rater=rater.name, labels=label)
        for (a, b), answer, label in zip(pairs, found, labels, strict=True)
    ]


def _segments(curve: Tensor, segments: int) -> np.ndarray:
    """Return the mean of a curve over each of as many equal segments."""
    return np.array([float(part.mean()) for part in curve.tensor_split(segments)])


@dataclass(frozen=True)
class Pool:
    """Clips of `vidrl.synthetic.world` with faults, and their prompts: what raters compare."""

    names: list[str]
    prompts: dict[str, str]
    video: Tensor  # (B, F, 3, H, W) in [0, 1]

    def pairs(self) -> list[tuple[str, str]]:
        """Return every pair of two clips of one prompt."""
        return [
            (a, b)
            for i, a in enumerate(self.names)
            for b in self.names[i + 1 :]
            if self.prompts[a] == self.prompts[b]
        ]


def pool(
    prompts: int, per_prompt: int, seed: int = 0, size: int = 32, split: str = "train"
) -> Pool:
    """Return clips of as many prompts, each with up to two faults of random strength."""
    draw = np.random.default_rng(seed)
    scenes = [one for one in world.scenes(split, 4 * prompts, seed) if one.motion != "rest"]
    distinct = list(dict.fromkeys(scenes))[:prompts]
    names, videos = list[str](), list[Tensor]()
    texts: dict[str, str] = {}
    for p, scene in enumerate(distinct):
        for n in range(per_prompt):
            video = world.render(scene, size, seed=int(draw.integers(2**31))).video
            for fault in draw.choice(FAULTS, 2, replace=False):
                video = faulty(video, str(fault), float(draw.random()), int(draw.integers(2**31)))
            names.append(f"p{p:03d}_{n}.mp4")
            texts[names[-1]] = scene.caption
            videos.append(video)
    return Pool(names, texts, torch.stack(videos))


def faulty(video: Tensor, fault: str, strength: float, seed: int) -> Tensor:
    """Return a clip with a fault of `vidrl.synthetic.corruptions`, or with "pop".

    "pop" enlarges the picture by up to a half in a quarter of the frames, which are drawn.
    """
    if fault != "pop":
        return corruptions.corrupt(video, fault, strength, seed)
    draw = torch.Generator().manual_seed(seed)
    late = torch.rand(len(video), generator=draw) < 0.25
    side = video.shape[-1]
    cut = round(side * strength / 6)
    inner = video[late][..., cut : side - cut, cut : side - cut]
    popped = video.clone()
    if late.any():
        popped[late] = torch.nn.functional.interpolate(inner, (side, side), mode="bilinear")
    return popped
