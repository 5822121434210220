"""Several rewards as one: weights, normalisation, gates, two-sided bands, and the rules for
what is not scored.

Shapes: B clips, F frames, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ._scoring.left_out import reason, where
from ._scoring.long_clips import Stream
from ._scoring.plain import as_reward
from ._scoring.score import STILL, SUPPORTS, join
from .base import Card, Reward, Samples, Score
from .flow import SIZE

# numbers, 16 MB: a reward makes some ten tensors of them, which beyond this leave a CPU's
# cache
PIECE = 4_000_000


class Composite(Reward):
    """sum_p w_p z_p - sum_gates, with z_p = (part_p - centre_p) / scale_p.

    `parts` are rewards or functions fn(samples), `weights` theirs (1 where not named).
    `scales` holds (centre, scale) a part, so that parts of different units spread alike;
    `normalise="batch"` takes mean and standard deviation of each call's clips instead.
    `bands` (low, high) of a part: it adds nothing by itself, and its distance from the
    band, in scales, is taken off. `gates` a part: below this value the rest counts less and
    less: what the whole is above `floor` is multiplied by part / gate, so that no other
    part can pay for it. A clip is NaN where a part is, with the part's reason, but for
    parts named in `optional` that call themselves inapplicable to it: their weight goes to
    the others.

    An image is a clip of one frame. Parts that need more frames are left out of it, and
    their weight does not go to the others: the value is that of a composite of the other
    parts alone, so that the values of images compare with each other. They do not compare
    with those of clips. `left_out` names the parts that were left out of a score.

    The curve of the composite is the same sum at each frame, so that its mean over time is
    the value. A part without curve, one with a band and a gate say nothing of single
    frames: what they add to the value, they add to every frame. Where no part has a curve,
    the composite has none. The composite's support is the widest of its parts', and that of
    a part without curve is "clip".

    Raises ValueError for a weight, scale, band, gate or optional name of a part that is not
    there, for a scale or gate that is not above 0, a band whose low is not below its high,
    and for parts with curves of different lengths.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> one = Composite({"frame_quality": FrameQuality()}, weights={"frame_quality": 2.0})
    >>> one(Samples(torch.full((1, 1, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    card = Card(
        sees="What its parts see; the default's are steady motion of things, change that motion explains, flicker, "
        "drift, enough speed and the quality of frames.",
        blind_to="What no clip tells by itself: playing backwards, slow motion within natural speeds, a seamless loop, "
        "a plausible scene dimmed, saturated or mildly denoised, a thing on a plain ground that a camera follows or a "
        "pan pretends to move. A hard cut costs less when a running average smears it: add the reward cut as a guard.",
        hacks="The blind spots above. Bands relative to the base model's own clips (`bands`, or `[guard]` of a recipe) "
        "and held-out truth keep a generator from them; `vidrl audit` measures the rest.",
        input="At least 4 frames of 8 pixels; half a second or more.",
        cost="The default's: its flow, and about as much again.",
    )

    def __init__(
        self,
        parts: Mapping[str, Reward | Callable[[Samples], Any]],
        weights: Mapping[str, float] | None = None,
        scales: Mapping[str, tuple[float, float]] | None = None,
        bands: Mapping[str, tuple[float, float]] | None = None,
        gates: Mapping[str, float] | None = None,
        floor: float = -10.0,
        normalise: str = "fixed",
        optional: Sequence[str] = (),
    ) -> None:
        super().__init__()
        named = {
            "weights": weights,
            "scales": scales,
            "bands": bands,
            "gates": gates,
            "optional": optional,
        }
        _check(parts, {what: list(names or ()) for what, names in named.items()}, normalise)
        _check_values(scales or {}, bands or {}, gates or {})
        self.parts = {name: as_reward(part, name) for name, part in parts.items()}
        # a ModuleDict takes no "." in a name
        self._modules_of_parts = torch.nn.ModuleList(self.parts.values())
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        self.scales, self.bands, self.gates = (
            dict(scales or {}),
            dict(bands or {}),
            dict(gates or {}),
        )
        self.floor, self.normalise, self.optional = floor, normalise, tuple(optional)
        made = self.parts.values()
        self.differentiable = all(part.differentiable for part in made)  # type: ignore[misc]
        self.time_support = widest([part.time_support for part in made])  # type: ignore[misc]
        self.needs = tuple(sorted({need for part in made for need in part.needs}))  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips; the parts' own are in `parts`, their weights in
        `weights`.

        Parts that can score a clip in pieces score a few clips at a time, and what they
        share of those clips is freed before the next: the numbers are those of all clips at
        once, and neither time nor memory grows with the batch. Any other part, which may
        compare the clips with each other, scores all of them at once.
        """
        single = leaves("whole", self)
        apart = {path: leaf for path, leaf in single.items() if leaf.streams}
        found = {path: leaf(samples) for path, leaf in single.items() if path not in apart}
        each = [{path: leaf(piece) for path, leaf in apart.items()} for piece in few(samples)]
        found |= {path: join([one[path] for one in each]) for path in apart}
        return gathered("whole", self, found)

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """The maps of the parts, as `part/map`, each at the size that its part measures
        at."""
        found = {name: part(samples, maps=True).maps for name, part in self.parts.items()}
        return {
            f"{name}/{key}": drawn for name, maps in found.items() for key, drawn in maps.items()
        }

    @property
    def needed(self) -> int:
        """1 where a part that counts scores images; else the frames that all parts need."""
        frames = [part.needed for name, part in self.parts.items() if self.weights[name]] or [1]
        return 1 if min(frames) == 1 else max(frames)

    @property
    def streams(self) -> bool:
        """Whether all parts can score a clip in pieces."""
        return _adds_up(self) and all(part.streams for part in self.parts.values())

    def stream(self, fps: float, prompt: str = "") -> Any:
        """One long clip in pieces; the parts share one flow."""
        whole = [name for name, part in self.parts.items() if not part.streams] or [
            type(self).__name__
        ]
        if not self.streams:
            raise NotImplementedError(f"{whole[0]} cannot score a clip in pieces: pass it whole")
        return _Pieces(self, fps, prompt)

    def combine(self, parts: Mapping[str, Score]) -> Score:
        """The composite of scores already made, one a part, of the same clips."""
        still = {name: where(score, STILL) for name, score in parts.items()}
        absent = {name: still[name] | self._absent(name, score) for name, score in parts.items()}
        share = self._share_of_weight(absent)
        # 1 where no optional part is left out
        regain = self._share_of_weight(still) / share.clamp(min=1e-12)
        shares = [self._share(name, score, absent[name]) for name, score in parts.items()]
        frames = length(parts)
        value = torch.stack([value for value, _ in shares]).sum(0)
        curve = torch.stack([curve.expand(-1, frames or 1) for _, curve in shares]).sum(0)
        value, curve = value * regain.to(value), curve * regain[:, None].to(value)
        value, curve, open_ = self._gated(value, curve, parts)
        adds = {
            name: torch.stack([add, self._slope(name, score, absent[name])], 1)
            * regain[:, None].to(value)
            for (name, score), (add, _) in zip(parts.items(), shares, strict=True)
        }
        slopes = {name: add[:, 1] * open_ for name, add in adds.items()}
        counted = {name: score for name, score in parts.items() if self.weights[name]}
        why = [reason(parts, self.optional, i, counted) for i in range(len(value))]
        lost = torch.tensor([bool(reason) for reason in why], device=value.device) | (share == 0)
        value, curve = value.masked_fill(lost, math.nan), curve.masked_fill(lost[:, None], math.nan)
        support = widest(
            ["clip" if score.frames is None else score.support for score in parts.values()]
        )
        made = curve if frames else None
        return Score(value, made, support, dict(parts), why, dict(self.weights), slopes, adds=adds)

    def _absent(self, name: str, score: Score) -> Tensor:
        """Where a part that may be left out calls itself inapplicable, (B,)."""
        return where(score, "inapplicable") & (name in self.optional)

    def _share_of_weight(self, gone: Mapping[str, Tensor]) -> Tensor:
        """The sum of the weights of the parts that are there, (B,), float64."""
        return torch.stack(
            [abs(self.weights[name]) * (~lost).double() for name, lost in gone.items()]
        ).sum(0)

    def _share(self, name: str, score: Score, absent: Tensor) -> tuple[Tensor, Tensor]:
        """What a part adds: (B,) to the value, and (B, F) to the curve, or (B, 1) to each
        of its entries."""
        centre, scale = self._centre(name, score)
        curve = score.value[:, None] if score.frames is None else score.frames
        if name in self.bands:
            drop = outside(score.value, *self.bands[name]) / scale
            value, curve = -drop, -drop[:, None]
        else:
            value, curve = (score.value - centre) / scale, (curve - centre) / scale
        weight = self.weights[name]
        return (weight * value).masked_fill(absent, 0), (weight * curve).masked_fill(
            absent[:, None], 0
        )

    def _slope(self, name: str, score: Score, absent: Tensor) -> Tensor:
        """How much the sum rises with a part's value, (B,); the gates, which multiply it,
        apart."""
        slope = torch.full_like(score.value, self.weights[name]) / self._centre(name, score)[1]
        if name in self.bands:
            low, high = self.bands[name]
            slope = slope * ((score.value < low).float() - (score.value > high).float())
        return slope.masked_fill(absent, 0)

    def _centre(self, name: str, score: Score) -> tuple[float | Tensor, float | Tensor]:
        if self.normalise == "fixed":
            return self.scales.get(name, (0.0, 1.0))
        scored = score.value[torch.isfinite(score.value)]
        if len(scored) < 2:
            return 0.0, 1.0
        return scored.mean(), scored.std().clamp(min=1e-6)

    def _gated(
        self, value: Tensor, curve: Tensor, parts: Mapping[str, Score]
    ) -> tuple[Tensor, Tensor, Tensor]:
        open_ = torch.ones_like(value)
        for name, gate in self.gates.items():
            passed = (parts[name].value / gate).clamp(0, 1)
            open_ = open_ * torch.where(torch.isnan(passed), torch.ones_like(passed), passed)
        return (
            self.floor + (value - self.floor) * open_,
            self.floor + (curve - self.floor) * open_[:, None],
            open_,
        )


def outside(x: Tensor, low: float, high: float) -> Tensor:
    """Distance from [low, high].

    >>> outside(torch.tensor([0.0, 1.5, 4.0]), 1.0, 2.0)
    tensor([1., 0., 2.])
    """
    return (low - x).clamp(min=0) + (x - high).clamp(min=0)


def widest(supports: Sequence[str]) -> str:
    """The support of a sum: the one that looks at most.

    >>> widest(["frame", "prefix", "pair"])
    'prefix'
    """
    return max(supports, key=SUPPORTS.index)


def length(parts: Mapping[str, Score]) -> int | None:
    """How many frames the curves of the parts have; None where no part has a curve. Raises
    ValueError if they differ.

    >>> length({"a": Score(torch.zeros(1)), "b": Score(torch.zeros(1), torch.zeros(1, 5))})
    5
    """
    found = {
        name: score.frames.shape[1] for name, score in parts.items() if score.frames is not None
    }
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} of {frames}" for name, frames in found.items())
        raise ValueError(
            f"expected parts with curves of as many numbers as the clip has frames, got {told}"
        )
    return next(iter(found.values()), None)


def leaves(name: str, reward: Reward) -> dict[str, Reward]:
    """The rewards that a reward is made of, by their paths: of composites the parts, and
    the parts of these.

    >>> from vidrl.rewards.flicker import Flicker
    >>> list(leaves("a", Composite({"b": Composite({"c": Flicker()}), "d": Flicker()})))
    ['a/b/c', 'a/d']
    """
    if not _adds_up(reward):
        return {name: reward}
    found = [leaves(f"{name}/{part}", one) for part, one in reward.parts.items()]
    return {path: leaf for some in found for path, leaf in some.items()}


def gathered(name: str, reward: Reward, found: Mapping[str, Score]) -> Score:
    """The score of a reward from those of its `leaves`."""
    if not _adds_up(reward):
        return found[name]
    return reward.combine(
        {part: gathered(f"{name}/{part}", one, found) for part, one in reward.parts.items()}
    )


def _adds_up(reward: Reward) -> TypeGuard[Composite]:
    """Whether a reward is the sum of its parts: a Composite, and no subclass that scores in
    a way of its own."""
    return isinstance(reward, Composite) and type(reward).forward is Composite.forward


def few(samples: Samples) -> Iterator[Samples]:
    """The clips in pieces of about `PIECE` numbers at the size that rewards measure at; at
    least one clip."""
    frames, channels, height, width = samples.video.shape[1:]
    shrunk = min(1.0, SIZE / min(height, width)) ** 2
    size = max(1, int(PIECE / (frames * channels * height * width * shrunk)))
    return iter([samples]) if size >= len(samples) else samples.pieces(size)


def default() -> Composite:
    """The composite of the demo: eight rewards, normalised to spread alike, that stillness,
    copies, blur and the dark do not win; `vidrl audit` tells what else does not, and what
    does.

    >>> sorted(default().weights)
    ['drift', 'dynamic_degree', 'flicker', 'frame_quality', 'freeze', 'motion_consistency', 'pumping', 'warp_error']
    """
    from .drift import Drift
    from .dynamic_degree import DynamicDegree
    from .flicker import Flicker
    from .frame_quality import FrameQuality
    from .freeze import Freeze
    from .motion_consistency import MotionConsistency
    from .pumping import Pumping
    from .warp_error import WarpError

    parts = {
        "motion_consistency": MotionConsistency(),
        "warp_error": WarpError(relative=True),
        # blended slow motion has to cost more than it gains elsewhere
        "flicker": Flicker(detail=0.3),
        "drift": Drift(),
        "dynamic_degree": DynamicDegree(),
        "frame_quality": FrameQuality(log=True),
        "pumping": Pumping(),
        "freeze": Freeze(),
    }
    return Composite(parts, WEIGHTS, SCALES)


# (centre, scale) of each part: mean, and spread among clips of one prompt of
# vidrl.synthetic.world, half of them with the faults of web video, rounded; that of pumping
# by the audit of the scenes of seed 0
SCALES = {
    "motion_consistency": (0.5, 0.35),
    "warp_error": (0.6, 0.25),
    "flicker": (-0.06, 0.08),
    "drift": (-0.05, 0.05),
    "dynamic_degree": (0.8, 0.3),
    "frame_quality": (-1.0, 0.4),
    "pumping": (-0.2, 0.25),
    "freeze": (0.0, 0.4),
}
# A running average evens motion out: motion_consistency likes it, warp_error charges its
# ghosts
WEIGHTS = {
    "motion_consistency": 0.75,
    "warp_error": 1.5,
    "flicker": 0.75,
    "drift": 0.5,
    "dynamic_degree": 1.25,
    "frame_quality": 1.8,
    "pumping": 0.5,
    "freeze": 1.0,
}


class _Pieces:
    """A stream of a Composite."""

    def __init__(self, composite: Composite, fps: float, prompt: str) -> None:
        self.composite = composite
        self.stream = Stream(leaves("whole", composite), fps, prompt)

    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        self.stream.update(frames)

    def result(self) -> Score:
        """The score of all frames so far, B = 1."""
        return gathered("whole", self.composite, self.stream.result())


def _check(parts: Mapping[str, Any], named: Mapping[str, Sequence[str]], normalise: str) -> None:
    if not parts:
        raise ValueError("expected at least one part, got none: pass {name: reward}")
    for what, names in named.items():
        strange = [name for name in names if name not in parts]
        if strange:
            raise ValueError(
                f"{what} name {strange[0]!r}, which is no part; the parts are {', '.join(parts)}"
            )
    if normalise not in ("fixed", "batch"):
        raise ValueError(f"expected normalise to be 'fixed' or 'batch', got {normalise!r}")


def _check_values(
    scales: Mapping[str, tuple[float, float]],
    bands: Mapping[str, tuple[float, float]],
    gates: Mapping[str, float],
) -> None:
    rules = [
        *(
            (
                0 < scale < math.inf,
                f"scales[{name!r}] to be (centre, scale) with scale above 0, got {(centre, scale)}",
            )
            for name, (centre, scale) in scales.items()
        ),
        *(
            (
                low < high,
                f"bands[{name!r}] to be (low, high) with low below high, got {(low, high)}",
            )
            for name, (low, high) in bands.items()
        ),
        *(
            (0 < gate < math.inf, f"gates[{name!r}] to be above 0, got {gate}")
            for name, gate in gates.items()
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise ValueError(f"expected {message}")
