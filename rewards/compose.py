"""Several rewards as one: weights, normalisation, gates, two-sided bands, and the rules for what is not scored.

Shapes: B clips, F frames, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import SUPPORTS, Card, Reward, Samples, Score


class Composite(Reward):
    """sum_p w_p z_p - sum_gates, with z_p = (part_p - centre_p) / scale_p.

    `parts` are rewards, `weights` theirs (1 where not named). `scales` holds (centre, scale) a part, so that parts of
    different units spread alike; `normalise="batch"` takes mean and standard deviation of each call's clips instead.
    `bands` (low, high) of a part: it adds nothing by itself, and its distance from the band, in scales, is taken off.
    `gates` a part: below this value the rest counts less and less: what the whole is above `floor` is multiplied by
    part / gate, so that no other part can pay for it. A clip is NaN where a part is, with the part's reason, but for
    parts named in `optional` that call themselves inapplicable to it: their weight goes to the others.

    Raises ValueError for a weight, scale, band, gate or optional name of a part that is not there.

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
        parts: Mapping[str, Reward],
        weights: Mapping[str, float] | None = None,
        scales: Mapping[str, tuple[float, float]] | None = None,
        bands: Mapping[str, tuple[float, float]] | None = None,
        gates: Mapping[str, float] | None = None,
        floor: float = -10.0,
        normalise: str = "fixed",
        optional: Sequence[str] = (),
    ) -> None:
        super().__init__()
        named = {"weights": weights, "scales": scales, "bands": bands, "gates": gates, "optional": optional}
        _check(parts, {what: list(names or ()) for what, names in named.items()}, normalise)
        self.parts = torch.nn.ModuleDict(dict(parts))
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        self.scales, self.bands, self.gates = dict(scales or {}), dict(bands or {}), dict(gates or {})
        self.floor, self.normalise, self.optional = floor, normalise, tuple(optional)
        self.differentiable = all(part.differentiable for part in parts.values())  # type: ignore[misc]
        self.support = widest([part.support for part in parts.values()])  # type: ignore[misc]
        self.needs = tuple(sorted({need for part in parts.values() for need in part.needs}))  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips; the parts' own are in `parts`, their weights in `weights`."""
        return self.combine({name: part(samples) for name, part in self.parts.items()})

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """The maps of the parts, as `part/map`, each at the size that its part measures at."""
        found = {name: part(samples, maps=True).maps for name, part in self.parts.items()}
        return {f"{name}/{key}": drawn for name, maps in found.items() for key, drawn in maps.items()}

    def stream(self, fps: float, prompt: str = "") -> Any:
        """One long clip in pieces; the parts share one flow."""
        return _Pieces(self, fps, prompt)

    def combine(self, parts: Mapping[str, Score]) -> Score:
        """The composite of scores already made, one a part, of the same clips."""
        absent = {name: self._absent(name, score) for name, score in parts.items()}
        share = torch.stack([abs(self.weights[name]) * (~gone).double() for name, gone in absent.items()]).sum(0)
        regain = sum(abs(w) for w in self.weights.values()) / share.clamp(min=1e-12)  # 1 where no part is left out
        value = torch.stack([self._share(name, s, absent[name])[0] for name, s in parts.items()]).sum(0)
        curve = torch.stack([self._share(name, s, absent[name])[1] for name, s in parts.items()]).sum(0)
        value, curve = value * regain.to(value), curve * regain[:, None].to(value)
        value, curve, open_ = self._gated(value, curve, parts)
        slopes = {name: self._slope(name, s, absent[name]) * regain.to(value) * open_ for name, s in parts.items()}
        why = [reason(parts, self.optional, i) for i in range(len(value))]
        lost = torch.tensor([bool(reason) for reason in why], device=value.device) | (share == 0)
        value, curve = value.masked_fill(lost, math.nan), curve.masked_fill(lost[:, None], math.nan)
        return Score(value, curve, self.support, dict(parts), why, dict(self.weights), slopes)

    def _absent(self, name: str, score: Score) -> Tensor:
        """Where a part that may be left out calls itself inapplicable, (B,)."""
        rows = [name in self.optional and str(why).startswith("inapplicable") for why in score.why]
        return torch.tensor(rows, device=score.value.device)

    def _share(self, name: str, score: Score, absent: Tensor) -> tuple[Tensor, Tensor]:
        """What a part adds: (B,) and (B, F)."""
        centre, scale = self._centre(name, score)
        curve = score.value[:, None] if score.frames is None else score.frames
        if name in self.bands:
            drop = outside(score.value, *self.bands[name]) / scale
            value, curve = -drop, -drop[:, None].expand_as(curve)
        else:
            value, curve = (score.value - centre) / scale, (curve - centre) / scale
        weight = self.weights[name]
        return (weight * value).masked_fill(absent, 0), (weight * curve).masked_fill(absent[:, None], 0)

    def _slope(self, name: str, score: Score, absent: Tensor) -> Tensor:
        """How much the sum rises with a part's value, (B,); the gates, which multiply it, apart."""
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

    def _gated(self, value: Tensor, curve: Tensor, parts: Mapping[str, Score]) -> tuple[Tensor, Tensor, Tensor]:
        open_ = torch.ones_like(value)
        for name, gate in self.gates.items():
            passed = (parts[name].value / gate).clamp(0, 1)
            open_ = open_ * torch.where(torch.isnan(passed), torch.ones_like(passed), passed)
        return self.floor + (value - self.floor) * open_, self.floor + (curve - self.floor) * open_[:, None], open_


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


def reason(parts: Mapping[str, Score], optional: Sequence[str], i: int) -> str | None:
    """Why clip `i` has no composite: the first part that is not scored, unless it may be left out."""
    reasons = [(name, score.why[i]) for name, score in parts.items() if score.why[i] is not None]
    fatal = [(n, why) for n, why in reasons if not (n in optional and str(why).startswith("inapplicable"))]
    left = fatal or (reasons if len(reasons) == len(parts) else [])
    if not left:
        return None
    name, why = left[0]
    kind, _, rest = str(why).partition(": ")
    return f"{kind}: {name}: {rest}"


def default() -> Composite:
    """The composite of the demo: eight rewards, normalised to spread alike, that stillness, copies, blur and the dark
    do not win; `vidrl audit` tells what else does not, and what does.

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
        "flicker": Flicker(),
        "drift": Drift(),
        "dynamic_degree": DynamicDegree(),
        "frame_quality": FrameQuality(log=True),
        "pumping": Pumping(),
        "freeze": Freeze(),
    }
    return Composite(parts, WEIGHTS, SCALES)


# (centre, scale) of each part: mean, and spread among clips of one prompt of vidrl.world, half of them with the faults
# of web video, rounded
SCALES = {
    "motion_consistency": (0.5, 0.35),
    "warp_error": (0.6, 0.25),
    "flicker": (-0.06, 0.08),
    "drift": (-0.05, 0.05),
    "dynamic_degree": (0.8, 0.3),
    "frame_quality": (-1.0, 0.4),
    "pumping": (-0.5, 0.35),
    "freeze": (0.0, 0.4),
}
# A running average evens motion out: motion_consistency likes it, warp_error charges its ghosts
WEIGHTS = {
    "motion_consistency": 0.75,
    "warp_error": 1.5,
    "flicker": 0.75,
    "drift": 0.5,
    "dynamic_degree": 1.25,
    "frame_quality": 1.8,
    "pumping": 0.7,
    "freeze": 1.0,
}


class _Pieces:
    """A stream of a Composite."""

    def __init__(self, composite: Composite, fps: float, prompt: str) -> None:
        from ._stream import Stream

        self.composite = composite
        self.stream = Stream(dict(composite.parts.items()), fps, prompt)  # type: ignore[arg-type]

    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        self.stream.update(frames)

    def result(self) -> Score:
        """The score of all frames so far, B = 1."""
        return self.composite.combine(self.stream.result())


def _check(parts: Mapping[str, Reward], named: Mapping[str, Sequence[str]], normalise: str) -> None:
    if not parts:
        raise ValueError("expected at least one part, got none: pass {name: reward}")
    for what, names in named.items():
        strange = [name for name in names if name not in parts]
        if strange:
            raise ValueError(f"{what} name {strange[0]!r}, which is no part; the parts are {', '.join(parts)}")
    if normalise not in ("fixed", "batch"):
        raise ValueError(f"expected normalise to be 'fixed' or 'batch', got {normalise!r}")
