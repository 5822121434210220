"""A composite combines several rewards: weights, normalisation, gates, two-sided bands.

It also has the rules for clips that some of its parts do not score. Shapes: B clips, F
frames, P parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ._scoring.left_out import has_reason, reason_of_clip
from ._scoring.long_clips import Stream
from ._scoring.plain import as_reward
from ._scoring.score import STILL, SUPPORTS, join
from .base import Card, Reward, Samples, Score
from .flow import SIZE

# Pixel values in a piece, 7 MB: rewards make many tensors of that size, and larger ones no longer
# fit a CPU's cache. In smaller pieces, the calls themselves cost more than the cache saves.
PIECE = 1_700_000
# Pixel values above which one clip is scored FRAMES frames at a time: 40 MB in float32.
LARGE = 10_000_000
FRAMES = 8


class Composite(Reward):
    """A weighted sum of rewards that gates can lower.

    The sum is sum_p w_p (part_p - centre_p) / scale_p over the parts p.

    - `parts`: rewards, or functions fn(samples), by name.
    - `weights` maps a part to its weight w_p, 1 where it is not named.
    - `scales` maps a part to (centre, scale), so that parts of different units have similar
      spread; (0, 1) where it is not named.
    - `bands` maps a part to (low, high). Such a part adds nothing while it is inside its
      band, and -w_p (distance from the band) / scale outside it.
    - `gates` maps a part to a threshold. While the part is below it, total = floor + (total
      - floor) * part / threshold, so a gain elsewhere cannot make up for a failed gate.
    - `floor`: the total that a gate of 0 gives; it should be below the total of any clip.
    - `normalise`: "fixed" takes `scales`; "batch" takes mean and standard deviation of the
      clips of each call instead.
    - `optional` names parts that may be inapplicable to a clip. The clip is then scored by
      the others, and the weight of the missing part is divided among them.

    A clip is NaN where a part is NaN, with the reason of that part, unless the part is
    optional and inapplicable to the clip.

    An image is a clip of one frame. Parts that need more frames are left out of it, and
    their weight is not given to the others: the value is that of a composite of the other
    parts alone, so that values of images can be compared with each other, but not with
    those of clips. `left_out` names the parts that were left out of a score.

    The curve of the composite is the same sum at each frame, so that its mean over time is
    the value. A part without a curve, a part with a band, and a gate say nothing about
    single frames: what they add to the value is added to every frame. Where no part has a
    curve, the composite has none. The support of the composite is the widest support of its
    parts; that of a part without a curve is "clip".

    Raises ValueError for a weight, scale, band, gate or optional name of a part that does
    not exist, for a scale or gate that is not above 0, for a band whose low is not below
    its high, and for parts with curves of different lengths.

    >>> from vidrl.rewards.frame_quality import FrameQuality
    >>> one = Composite({"frame_quality": FrameQuality()}, weights={"frame_quality": 2.0})
    >>> one(Samples(torch.full((1, 1, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    card = Card(
        sees="What its parts see; the default's are steady motion of things, change that motion "
        "explains, flicker, drift, enough speed and the quality of frames.",
        blind_to="What a clip alone does not show: playing backwards, slow motion within natural "
        "speeds, a seamless loop, a plausible scene dimmed, saturated or mildly denoised, a thing "
        "on a plain ground that a camera follows or a pan seems to move. A hard cut lowers the "
        "value less when a running average smears it: add the reward cut as a guard.",
        hacks="The blind spots above. Bands relative to the base model's own clips (`bands`, or "
        "`[guard]` of a recipe) and held-out truth keep a generator from them; `vidrl audit` "
        "measures the rest.",
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
        given = {"weights": weights, "scales": scales, "bands": bands, "gates": gates}
        names = {what: list(values or ()) for what, values in given.items()}
        _check(parts, names | {"optional": list(optional)}, normalise)
        _check_values(scales or {}, bands or {}, gates or {})
        self.parts = {name: as_reward(part, name) for name, part in parts.items()}
        # a ModuleList, because a ModuleDict accepts no "." in a name
        self._modules_of_parts = torch.nn.ModuleList(self.parts.values())
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        self.scales, self.bands = dict(scales or {}), dict(bands or {})
        self.gates, self.floor = dict(gates or {}), floor
        self.normalise, self.optional = normalise, tuple(optional)
        members = self.parts.values()
        needs = sorted({need for part in members for need in part.needs})
        # These facts depend on the parts, so each instance has its own.
        self.differentiable = all(part.differentiable for part in members)  # type: ignore[misc]
        self.time_support = widest([part.time_support for part in members])  # type: ignore[misc]
        self.needs = tuple(needs)  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips, with those of the parts in `parts`.

        Parts that can score a clip in pieces score a few clips at a time. The flow that
        they share is freed before the next few clips, so that neither the time per clip nor
        the memory grows with the batch; the numbers are those of all clips at once. A large
        clip on a CPU is scored a few frames at a time. Other parts may compare the clips with
        each other, so they score all clips at once.
        """
        rewards = leaves("whole", self)
        by_piece = {path: leaf for path, leaf in rewards.items() if leaf.streams}
        scores = {path: leaf(samples) for path, leaf in rewards.items() if path not in by_piece}
        # All rewards score a piece before the next piece, so that they share its flow.
        scores_of_pieces = [scores_of(by_piece, piece) for piece in few_at_a_time(samples)]
        scores |= {path: join([found[path] for found in scores_of_pieces]) for path in by_piece}
        return score_from_leaves("whole", self, scores)

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return the maps of the parts as `part/map`, each at the size of its part."""
        found = {name: part(samples, maps=True).maps for name, part in self.parts.items()}
        return {
            f"{name}/{key}": drawn for name, maps in found.items() for key, drawn in maps.items()
        }

    def remarks(self) -> list[str]:
        """Return the remarks of the parts that count."""
        counted = [part for name, part in self.parts.items() if self.weights[name]]
        return [sentence for part in counted for sentence in part.remarks()]

    @property
    def needed(self) -> int:
        """The least number of frames: 1 where a part that counts scores images.

        Otherwise it is the number of frames that all parts need.
        """
        frames = [part.needed for name, part in self.parts.items() if self.weights[name]] or [1]
        return 1 if min(frames) == 1 else max(frames)

    @property
    def streams(self) -> bool:
        """Whether all parts can score a clip in pieces."""
        return _adds_up(self) and all(part.streams for part in self.parts.values())

    def stream(self, fps: float, prompt: str = "") -> Any:
        """Return a scorer of one long clip in pieces; the parts share one flow."""
        if not self.streams:
            names = [name for name, part in self.parts.items() if not part.streams]
            name = names[0] if names else type(self).__name__
            raise NotImplementedError(f"{name} cannot score a clip in pieces: pass it whole")
        return _Pieces(self, fps, prompt)

    def combine(self, parts: Mapping[str, Score]) -> Score:
        """Return the composite of scores of its parts, of the same clips."""
        still = {name: has_reason(score, STILL) for name, score in parts.items()}
        absent = {name: still[name] | self._absent(name, score) for name, score in parts.items()}
        present = self._sum_of_weights(absent)
        # The factor that gives the weight of absent optional parts to the others; 1 without
        # such parts. The weight of parts that are left out of an image is in neither sum.
        regain = self._sum_of_weights(still) / present.clamp(min=1e-12)
        added = [self._contribution(name, score, absent[name]) for name, score in parts.items()]
        frames = length(parts)
        value = torch.stack([value for value, _ in added]).sum(0)
        curve = torch.stack([curve.expand(-1, frames or 1) for _, curve in added]).sum(0)
        value, curve = value * regain.to(value), curve * regain[:, None].to(value)
        value, curve, gate_product = self._gated(value, curve, parts)
        adds = {
            name: torch.stack([add, self._slope(name, score, absent[name])], 1)
            * regain[:, None].to(value)
            for (name, score), (add, _) in zip(parts.items(), added, strict=True)
        }
        slopes = {name: add[:, 1] * gate_product for name, add in adds.items()}
        counted = {name: score for name, score in parts.items() if self.weights[name]}
        why = [reason_of_clip(parts, self.optional, i, counted) for i in range(len(value))]
        lost = torch.tensor([bool(reason) for reason in why], device=value.device) | (present == 0)
        value, curve = value.masked_fill(lost, math.nan), curve.masked_fill(lost[:, None], math.nan)
        support = widest(
            ["clip" if score.frames is None else score.support for score in parts.values()]
        )
        shown = curve if frames else None
        return Score(value, shown, support, dict(parts), why, dict(self.weights), slopes, adds=adds)

    def _absent(self, name: str, score: Score) -> Tensor:
        """Return where an optional part is inapplicable, bool (B,)."""
        return has_reason(score, "inapplicable") & (name in self.optional)

    def _sum_of_weights(self, gone: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the absolute weights of the parts that are not `gone`, (B,)."""
        return torch.stack(
            [abs(self.weights[name]) * (~lost).double() for name, lost in gone.items()]
        ).sum(0)

    def _contribution(self, name: str, score: Score, absent: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a part adds to the value, (B,), and to the curve, (B, F) or (B, 1).

        (B, 1) is added to every entry of the curve.
        """
        centre, scale = self._centre(name, score)
        curve = score.value[:, None] if score.frames is None else score.frames
        if name in self.bands:
            drop = distance_from(score.value, *self.bands[name]) / scale
            value, curve = -drop, -drop[:, None]
        else:
            value, curve = (score.value - centre) / scale, (curve - centre) / scale
        weight = self.weights[name]
        return (weight * value).masked_fill(absent, 0), (weight * curve).masked_fill(
            absent[:, None], 0
        )

    def _slope(self, name: str, score: Score, absent: Tensor) -> Tensor:
        """Return how much the sum rises with a part's value, (B,), before the gates."""
        slope = torch.full_like(score.value, self.weights[name]) / self._centre(name, score)[1]
        if name in self.bands:
            low, high = self.bands[name]
            slope = slope * ((score.value < low).float() - (score.value > high).float())
        return slope.masked_fill(absent, 0)

    def _centre(self, name: str, score: Score) -> tuple[float | Tensor, float | Tensor]:
        """Return centre and scale of a part."""
        if self.normalise == "fixed":
            return self.scales.get(name, (0.0, 1.0))
        scored = score.value[torch.isfinite(score.value)]
        if len(scored) < 2:
            return 0.0, 1.0
        return scored.mean(), scored.std().clamp(min=1e-6)

    def _gated(
        self, value: Tensor, curve: Tensor, parts: Mapping[str, Score]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return value and curve after the gates, and the product of the gates, (B,).

        The factor of a gate is part / threshold, cut to [0, 1].
        """
        gate_product = torch.ones_like(value)
        for name, gate in self.gates.items():
            passed = (parts[name].value / gate).clamp(0, 1)
            # a part that is left out of an image is NaN, and lowers nothing
            gate_product = gate_product * torch.where(
                torch.isnan(passed), torch.ones_like(passed), passed
            )
        return (
            self.floor + (value - self.floor) * gate_product,
            self.floor + (curve - self.floor) * gate_product[:, None],
            gate_product,
        )


def distance_from(x: Tensor, low: float, high: float) -> Tensor:
    """Return the distance of x from the interval [low, high].

    >>> distance_from(torch.tensor([0.0, 1.5, 4.0]), 1.0, 2.0)
    tensor([1., 0., 2.])
    """
    return (low - x).clamp(min=0) + (x - high).clamp(min=0)


def widest(supports: Sequence[str]) -> str:
    """Return the support of a sum: the one that depends on most frames.

    >>> widest(["frame", "prefix", "pair"])
    'prefix'
    """
    return max(supports, key=SUPPORTS.index)


def length(parts: Mapping[str, Score]) -> int | None:
    """Return how many frames the curves of the parts have; None where no part has a curve.

    Raises ValueError if the curves differ in length.

    >>> length({"a": Score(torch.zeros(1)), "b": Score(torch.zeros(1), torch.zeros(1, 5))})
    5
    """
    found = {
        name: score.frames.shape[1] for name, score in parts.items() if score.frames is not None
    }
    if len(set(found.values())) > 1:
        got = ", ".join(f"{name} of {frames}" for name, frames in found.items())
        raise ValueError(
            f"expected parts with curves of as many numbers as the clip has frames, got {got}"
        )
    return next(iter(found.values()), None)


def leaves(name: str, reward: Reward) -> dict[str, Reward]:
    """Return the rewards that a reward is made of, by their paths.

    A composite is replaced by its parts, and a part that is a composite by its own parts.

    >>> from vidrl.rewards.flicker import Flicker
    >>> list(leaves("a", Composite({"b": Composite({"c": Flicker()}), "d": Flicker()})))
    ['a/b/c', 'a/d']
    """
    if not _adds_up(reward):
        return {name: reward}
    found = [leaves(f"{name}/{part}", inner) for part, inner in reward.parts.items()]
    return {path: leaf for leaves_of_part in found for path, leaf in leaves_of_part.items()}


def score_from_leaves(name: str, reward: Reward, found: Mapping[str, Score]) -> Score:
    """Return the score of a reward from the scores of its `leaves`."""
    if not _adds_up(reward):
        return found[name]
    return reward.combine(
        {
            part: score_from_leaves(f"{name}/{part}", inner, found)
            for part, inner in reward.parts.items()
        }
    )


def _adds_up(reward: Reward) -> TypeGuard[Composite]:
    """Return whether a reward is the sum of its parts.

    It is a Composite, and no subclass with a `forward` of its own.
    """
    return isinstance(reward, Composite) and type(reward).forward is Composite.forward


def few_at_a_time(samples: Samples) -> Iterator[Samples]:
    """Yield the clips in pieces of about PIECE numbers at the size of measurement.

    A piece has at least one clip.
    """
    frames, channels, height, width = samples.video.shape[1:]
    shrunk = min(1.0, SIZE / min(height, width)) ** 2
    size = max(1, int(PIECE / (frames * channels * height * width * shrunk)))
    return iter([samples]) if size >= len(samples) else samples.pieces(size)


def scores_of(rewards: Mapping[str, Reward], piece: Samples) -> dict[str, Score]:
    """Return the scores of a few clips by rewards that can score a clip in pieces.

    The flow and the pixels that rewards derive from one large clip on a CPU take more memory
    than the clip, so it is scored FRAMES frames at a time. The numbers are the same.
    """
    by_frame = {path: leaf for path, leaf in rewards.items() if is_large(piece, leaf)}
    scores = {path: leaf(piece) for path, leaf in rewards.items() if path not in by_frame}
    if by_frame:
        meta = piece.meta[0] if piece.meta else None
        stream = Stream(by_frame, piece.fps, piece.prompts[0], None, meta)
        for frames in piece.video[0].split(FRAMES):
            stream.update(frames)
        scores |= stream.result()
    return scores


def is_large(piece: Samples, reward: Reward) -> bool:
    """Return whether a reward without weights scores these samples a few frames at a time.

    They are one clip of more than LARGE numbers on a CPU, without a reference and a gradient.
    """
    video = piece.video
    plain = piece.reference is None and not (torch.is_grad_enabled() and video.requires_grad)
    alone = len(piece) == 1 and video.numel() > LARGE and video.device.type == "cpu"
    return alone and plain and not reward.learned


def default() -> Composite:
    """Return the composite of the demo: eight rewards, normalised to a similar spread.

    The parts were chosen so that still, copied, blurred and dark clips do not win; `vidrl
    audit` reports which other changes win and which do not.

    >>> sorted(default().weights)
    ['drift', 'dynamic_degree', 'flicker', 'frame_quality', 'freeze', 'motion_consistency', ...]
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
        # slow motion made by blending frames gains elsewhere; this loss outweighs the gain
        "flicker": Flicker(detail=0.3),
        "drift": Drift(),
        "dynamic_degree": DynamicDegree(),
        "frame_quality": FrameQuality(log=True),
        "pumping": Pumping(),
        "freeze": Freeze(),
    }
    return Composite(parts, WEIGHTS, SCALES)


# (centre, scale) of each part: the mean, and the spread among clips of one prompt, of clips of
# vidrl.synthetic.world, half of them with the faults of web video; rounded. Those of pumping
# come from the audit of the scenes of seed 0.
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
# A running average over frames evens motion out, which raises motion_consistency; its ghosts
# lower warp_error, which therefore has twice the weight.
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
    """A stream that scores one long clip by a Composite."""

    def __init__(self, composite: Composite, fps: float, prompt: str) -> None:
        self.composite = composite
        self.stream = Stream(leaves("whole", composite), fps, prompt)

    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        self.stream.update(frames)

    def result(self) -> Score:
        """Return the score of all frames so far, B = 1."""
        return score_from_leaves("whole", self.composite, self.stream.result())


def _check(parts: Mapping[str, Any], named: Mapping[str, Sequence[str]], normalise: str) -> None:
    """Raise ValueError for names that are no parts, or a wrong `normalise`."""
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
    """Raise ValueError for a scale, band or gate that is out of range."""
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
