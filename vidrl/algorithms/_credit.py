"""`Credited` adds the options of credit, for algorithms that compare the samples of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vidrl import credit
from vidrl.credit import MEASURED, returns
from vidrl.credit.influence import WHOLE, Influence
from vidrl.diffusion.schedule import stochastic_steps
from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Reward, Score
from vidrl.training.chunks import check_one_piece
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from .base import Algorithm


@dataclass(eq=False, kw_only=True)
class Credited(Algorithm):
    """An algorithm whose advantages are those of `vidrl.credit.advantages`.

    Options of credit:
    - `segments` S; 1 is whole-clip credit.
    - `credit`, the estimator of the segments' credit, which `alpha` blends with the whole
      clip's.
    - `influence`, a file that `vidrl influence` wrote; "" is the one in the model's folder.
    - `scale` of advantages with `scale_eps` (`vidrl.credit.estimators.normalise`).
    - `per_part` normalises each part of a composite before the parts are added.
    - `max_advantage` A_max: advantages are clamped to [−A_max, A_max].
    - `discount` γ in [0, 1], for clips made in chunks: a segment is credited with the rewards of
      the later ones too, each times γ for every segment in between (`vidrl.credit.returns`).
    """

    segments: int = 1
    alpha: float = 1.0
    credit: Literal["whole", "segment", "influence", "gls", "posterior"] = "segment"
    influence: str = ""
    scale: Literal["group", "batch", "none", "unbiased", "global"] = "group"
    scale_eps: float = 1e-4
    per_part: bool = False
    max_advantage: float = 5.0
    discount: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1 or self.max_advantage <= 0 or self.scale_eps < 0:
            raise ValueError(
                "expected alpha in [0, 1], max_advantage > 0 and scale_eps ≥ 0, got "
                f"{(self.alpha, self.max_advantage, self.scale_eps)}"
            )
        returns.check(self.discount)
        by_segment = self.segments > 1 and self.alpha > 0 and self.credit != "whole"
        if self.scale in ("unbiased", "global") and by_segment:
            raise ValueError(
                "expected scale group, batch or none for credit of segments (unbiased and global "
                f"are of whole clips), got {self.scale}"
            )

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if group < 2:
            raise ValueError(
                f"train.group: expected at least 2, got {group}: the advantage of a clip is its "
                "reward against the others of its group, so a group of one learns nothing; raise "
                "it, or take ddpo, which compares a clip with those of earlier rounds"
            )
        bounded = sorted({*getattr(reward, "bands", {}), *getattr(reward, "gates", {})})
        if self.per_part and bounded:
            raise ValueError(
                "expected algorithm.options.per_part = false, because more is not always better "
                f"of a part with a band or a gate ({', '.join(bounded)}): set it to false, or "
                "take those away"
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        found = super().unread(reward, pairs)
        if self.segments == 1 or self.credit == "whole":
            found["alpha"] = (
                "it blends credit of segments, and there is none with segments = 1 or "
                'credit = "whole"'
            )
            found["discount"] = found["alpha"]
        if self.scale == "none":
            found["scale_eps"] = 'with scale = "none" nothing is divided'
        if not getattr(reward, "parts", {}):
            found["per_part"] = "the reward has no parts"
        if pairs:
            names = ("credit", "alpha", "scale", "scale_eps", "per_part", "max_advantage")
            reason = "data.pairs says which clip is better, and no advantage is computed"
            found |= dict.fromkeys((*names, "influence"), reason)
        return found

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        if self.discount and self.backbone.chunks == 1:
            raise ValueError(
                "expected algorithm.options.discount = 0, because the segments of this backbone's "
                f"clips are made at once and change each other, got {self.discount}: leave it "
                'out, or take the backbone "long"'
            )
        if self.reads_influence:
            cure = 'use credit = "segment" with a discount'
            check_one_piece(self.backbone, f'credit = "{self.credit}"', cure)
        # The sampler, eta and times are the same in all rounds, so that round 0 can stand for
        # all when the measured influence is compared with the plan.
        plan = self.plan(self.backbone, 0, torch.Generator().manual_seed(0))
        found = Influence.find(self.influence, self.backbone, plan, self.reads_influence)
        self.measured_influence = found
        if self.reads_influence and found:
            steps = stochastic_steps(self.backbone.path, plan.sampler, plan.times, plan.eta)
            # Fail early: both calls raise ValueError if a step or a part was not measured.
            found.segment_moments(WHOLE, [plan.times[k] for k in steps], self.segments)
            found.check(getattr(reward, "parts", {}))

    @property
    def reads_influence(self) -> bool:
        """Return whether the credit needs a measured influence."""
        return self.credit in MEASURED and self.segments > 1 and self.alpha > 0

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        return self.unbounded(score, group, plan).clamp(-self.max_advantage, self.max_advantage)

    def unbounded(self, score: Score, group: Tensor, plan: Plan) -> Tensor:
        """Return advantages before `max_advantage` bounds them, (N, S) or (N, K, S)."""
        spans, moments = frame_spans(self.backbone.frame_map, plan.segments), None
        if self.discount and self.credit != "whole":
            score = returns.causal(score, self.reward, self.backbone.fps)
        if self.measured_influence is not None and self.reads_influence:
            moments = self.measured_influence.moments(
                score, [plan.times[k] for k in plan.keep], plan.segments
            )
        return credit.advantages(
            score,
            group,
            spans,
            self.credit,
            self.alpha,
            self.scale,
            self.per_part,
            moments,
            eps=self.scale_eps,
            discount=self.discount,
        )
