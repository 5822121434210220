"""The base class of rewards, and the facts that a reward states about itself.

Shapes: B clips, F frames, C channels, H W height and width, T = F - lookahead terms.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from . import flow as optical_flow
from ._networks.budget import budget
from ._scoring.curves import (
    LONGEST,
    LOST,
    all_unscored,
    curve_of_terms,
    interleave,
    nearest_odd,
    refusals,
    rows_of_batch,
    score_of_curves,
)
from ._scoring.long_clips import Single
from ._scoring.samples import About, Samples, check_samples
from ._scoring.score import Score, as_score, on_device
from .flow import SIZE, Motion

# Former names of functions, kept for rewards that import them from here.
finish, nothing = score_of_curves, all_unscored
spread = curve_of_terms

# Former names of what a reward class defines, and the names of today.
_FORMER = {"support": "time_support", "reach": "lookahead", "conclude": "terms_of_clip"}


@dataclass(frozen=True)
class Card:
    """A card says what a person should know about a reward before trusting it.

    `vidrl show rewards NAME` prints the card. `sees` and `blind_to` name what changes the
    value and what does not; `hacks` names what raises the value of a clip that is no
    better; `input` names the frame rate, size and length that the reward needs; `cost` is
    the time on one CPU thread, with the size of the clip that was measured.
    """

    sees: str
    blind_to: str
    hacks: str
    input: str = "Any frame rate and size."
    cost: str = ""


class Reward(nn.Module):
    """A reward gives each clip a value, higher for better clips, and a curve over time.

    The arguments of the constructor are the options of the reward; class attributes state
    its facts. A reward defines one of three things:

    - `terms(samples)`, (B, F - lookahead), if the value is a mean of local terms. A term
      reads one frame (`lookahead` 0), two neighbouring frames (1), three in a row (2) or
      more.
    - `features(samples)`, (B, F - lookahead, ...), and `terms_of_clip(features, about)`, if
      frames that are far apart are compared. The features are a few numbers for each
      frame, and all that is kept in memory of a long clip; `terms_of_clip` computes the
      terms from the features of the whole clip.
    - `forward(samples)`, which returns a Score, for anything else.

    From terms or features the base class derives `forward`, the curve, the reasons why
    clips cannot be scored, and `stream`, which scores a long clip in pieces.

    Class attributes:

    - `differentiable`: the gradient of the value in the pixels is right. Optical flow is
      held fixed under differentiation.
    - `needs`: modules that the reward imports, other than torch and numpy; `extra`: the
      extra of pyproject.toml that installs them.
    - `learned`: the reward reads trained weights that are not part of vidrl.
    - `remote`: a server computes the value, so that this process only waits for it; several
      threads may then call the reward at once.
    - `learns`: the reward learns from the clips of each round of a training, by `refresh`.
    - `in_logits`: a gap d between the values of two clips means that people choose the better
      one with probability σ(d), ties left out. The page of a run then says how often they
      would choose the trained clip.
    - `lowered_by`: names in vidrl.synthetic.corruptions; each corruption lowers the value.
    - `range`: the smallest and the largest possible value.
    - `card`: see `Card`.
    - `time_support`: which frames an entry of the curve depends on: "frame" (its own),
      "pair" (its own and its neighbours), "prefix" (all frames up to its own), "clip"
      (all). Segment credit reads it.
    - `lookahead`: how many frames after its first one a term reads.
    - `least_frames`, `least_side`: the shortest clip and the smallest side, in pixels, that
      can be scored. `least_frames` counts where it is more than lookahead + 1.
    - `rate`: frames per second at which the reward measures; see `stride`. With None, it
      measures at the rate of the clip.
    - `lost`: the reason that is given for a clip whose terms are NaN.
    - `shrinks`: the reward reads `samples.small(self.working_size)` only, so that a stream
      keeps only the shrunk frames.
    - `flow`: the method of optical flow, see `vidrl.rewards.flow.estimate`; `flow_size`:
      the shorter side, in pixels, at which flow is estimated, 0 for the usual one.
    - `memory`: the GB (1e9 bytes) that a forward pass of the reward's networks may take, beside
      weights and clips; it then decides how many frames are read at once, in place of the option
      `chunk`. 0, the usual value, sets no budget. A recipe sets it by `reward.memory`.
    - `on_host`: why the reward must run on the CPU, as the library that it calls; "" for a
      reward that runs where the clips are. Clips of a GPU are copied for such a reward, once
      for all of them, and its score goes back to the GPU.

    The former names `support`, `reach` and `conclude` of `time_support`, `lookahead` and
    `terms_of_clip` are still accepted in subclasses, with a DeprecationWarning.
    """

    differentiable: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    learned: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    in_logits: ClassVar[bool] = False
    lowered_by: ClassVar[tuple[str, ...]] = ()
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    card: ClassVar[Card | None] = None
    time_support: ClassVar[str] = "frame"
    lookahead: ClassVar[int] = 0
    least_frames: ClassVar[int] = 1
    least_side: ClassVar[int] = 8
    rate: ClassVar[float | None] = None
    lost: ClassVar[str] = LOST
    shrinks: ClassVar[bool] = False
    on_host: ClassVar[str] = ""
    flow: str = "auto"
    flow_size: int = 0
    memory: float = 0.0

    def __init_subclass__(cls, **options: Any) -> None:
        """Accept the former names of `time_support`, `lookahead` and `terms_of_clip`."""
        super().__init_subclass__(**options)
        former = [name for name in _FORMER if name in vars(cls)]
        if former:
            today = ", ".join(f"{name} -> {_FORMER[name]}" for name in former)
            warnings.warn(f"rename in {cls.__name__}: {today}", DeprecationWarning, stacklevel=2)
        for name in former:
            setattr(cls, _FORMER[name], vars(cls)[name])
            delattr(cls, name)
        # Both names hold the same function, so that super().conclude() of a subclass finds it.
        if "terms_of_clip" in vars(cls):
            cls.conclude = cls.terms_of_clip  # type: ignore[method-assign]

    @property
    def support(self) -> str:
        """The former name of `time_support`."""
        return self.time_support

    @support.setter
    def support(self, support: str) -> None:
        self.time_support = support  # type: ignore[misc]

    @property
    def reach(self) -> int:
        """The former name of `lookahead`."""
        return self.lookahead

    @reach.setter
    def reach(self, reach: int) -> None:
        self.lookahead = reach  # type: ignore[misc]

    def __call__(self, samples: Samples, maps: bool = False) -> Score:
        """Return the score of whole clips, with its pixel maps if `maps`.

        The score carries a gradient only if the reward is `differentiable`. Raises
        ValueError for anything but Samples, and for a forward() that returns neither a
        Score of these clips nor numbers that `as_score` accepts.
        """
        check_samples(samples)
        if self.on_host and samples.video.device.type != "cpu":
            copied = samples.memo("on the host", lambda: samples.to("cpu"))
            return on_device(self(copied, maps), samples.video.device)
        grad = torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled())
        with grad, budget(self.memory):
            score = as_score(super().__call__(samples), samples, type(self).__name__)
            if maps:
                score.maps = self._maps(samples)
        return score

    def _maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return the maps of all clips, NaN for a clip that cannot be scored."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return {}
        phases = samples.pick(rows).phases(self.stride(samples.fps, samples.video.shape[1]))
        maps_of_phases = [self.maps(phase) for phase in phases]
        return {
            name: rows_of_batch(interleave([maps[name] for maps in maps_of_phases]), rows, len(why))
            for name in maps_of_phases[0]
        }

    @classmethod
    def tiny(cls) -> Reward:
        """Return an instance that needs no download.

        A learned reward returns its real architecture at a small size with random weights;
        any other reward returns an instance with its default options.
        """
        return cls()

    # What a reward that `learns` defines. The others are never asked.

    def check_learns(self) -> None:
        """Raise ValueError for a reward that lacks what it would learn from, before any work."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def refresh(self, samples: Samples, round: int) -> dict[str, float]:
        """Learn from clips of a round; return numbers that the round logs.

        The result must depend on the state, the clips and the round alone. Between two calls the
        reward must give a clip one and the same value.
        """
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must keep: nested tensors, numbers, text, lists and dicts."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def save(self, path: Path) -> None:
        """Write what was learned to a file, from which the reward can be built again."""
        raise NotImplementedError(f"{type(self).__name__} does not learn")

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return maps of where in the picture a fault lies: name to (B, F, H, W).

        H and W are those of the size at which the reward measures. The base class has no
        maps.
        """
        return {}

    def terms(self, samples: Samples) -> Tensor:
        """Return a number for each `lookahead` + 1 frames in a row, (B, F - lookahead)."""
        raise NotImplementedError(f"{type(self).__name__} gives neither terms() nor forward()")

    def features(self, samples: Samples) -> Tensor:
        """Return a few numbers for each frame, (B, F - lookahead, ...), for `terms_of_clip`."""
        return self.terms(samples)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the terms, (B, F - lookahead), from the features of whole clips.

        `about` holds the prompts, the frame rate and the size of the clips.
        """
        return features

    conclude = terms_of_clip  # the former name

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        chosen = samples.pick(rows)
        phases = chosen.phases(self.stride(samples.fps, samples.video.shape[1]))
        terms = [self.terms_of_clip(self.features(phase), phase.about) for phase in phases]
        curves = [curve_of_terms(each, self.lookahead) for each in terms]
        return score_of_curves(interleave(curves), self.time_support, why, rows, self.lost)

    def stride(self, fps: float, frames: int) -> int:
        """Return how many frames apart the frames are that the reward compares.

        A second difference over frames has another meaning at 30 frames a second than at 8.
        So a clip of a higher rate is taken apart into `stride` interleaved clips of about
        `rate` frames a second each. The stride is odd: with an even stride, a clip
        that alternates between bright and dark frames would be taken apart into a bright
        clip and a dark clip, and the alternation would be lost. Clips that are too short
        to be taken apart have stride 1.
        """
        stride = 1 if self.rate is None else nearest_odd(fps / self.rate)
        return stride if frames >= stride * LONGEST else 1

    def stream(self, fps: float, prompt: str = "") -> Any:
        """Return a scorer of one long clip in pieces.

        Call `update(frames)`, with frames (F, C, H, W), for each piece in the order of
        time, then `result()`, which returns a Score of one clip. The numbers are those of
        `forward` on the whole clip; only one piece and a few numbers for each frame are
        kept in memory. Raises NotImplementedError for a reward that needs the whole clip.
        """
        if not self.streams:
            raise NotImplementedError(
                f"{type(self).__name__} cannot score a clip in pieces: pass it whole"
            )
        return Single(self, fps, prompt)

    def remarks(self) -> list[str]:
        """Return sentences on this reward for the page of a run; most rewards have none."""
        return []

    @property
    def needed(self) -> int:
        """The number of frames of the shortest clip that can be scored; 1 for an image."""
        return max(self.lookahead + 1, self.least_frames)

    @property
    def streams(self) -> bool:
        """Whether a clip can be scored in pieces."""
        cls = type(self)
        return cls.terms is not Reward.terms or cls.features is not Reward.features

    @property
    def context(self) -> int:
        """How many last frames of a piece a stream keeps for the first terms of the next."""
        return self.lookahead

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """Return the features of a piece of a clip, and the state that the next piece needs.

        The first `old` frames of `samples` are those that the stream kept of the previous
        piece; only features that end in a later frame are returned. `state` is the state
        that the call for the previous piece returned, None for the first piece.
        """
        return self.features(samples)[:, max(0, old - self.lookahead) :], state

    def motion(self, samples: Samples) -> Motion:
        """Return the flow of the clips, computed once for all rewards of the same Samples."""
        method, size = self.flow_method(samples), self.working_size
        return samples.memo(
            ("motion", method, size),
            lambda: optical_flow.estimate(self._frames(samples), method, size),
        )

    def energy(self, samples: Samples) -> Tensor:
        """Return the mean squared slope of each frame, (B, F), once for all rewards.

        See `flow.energy`; nothing is added to it.
        """
        size = self.working_size
        # what was computed without a gradient must not serve a reward that needs one
        return samples.memo(
            ("energy", size, torch.is_grad_enabled()),
            lambda: optical_flow.energy(self._frames(samples), 0.0),
        )

    def _frames(self, samples: Samples) -> Tensor:
        """Return the frames at the working size as float, once for all rewards."""
        size = self.working_size
        key = ("frames", size, torch.is_grad_enabled())
        return samples.memo(key, lambda: optical_flow.shrink(samples.small(size), size))

    def flow_method(self, samples: Samples) -> str:
        """Return the method of flow: `flow`, where "auto" is resolved by the clips' device."""
        return optical_flow.method_on(self.flow, samples.video.device)

    @property
    def working_size(self) -> int:
        """The shorter side, in pixels, to which larger frames are shrunk."""
        return self.flow_size or SIZE
