"""The reward's own gradient, through the decoder and the last denoising steps: DRaFT,
AlignProp, ReFL, VADER.

Legend: N samples, n rows of a minibatch, K last steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vidrl.backbones.base import Denoiser, without_autocast
from vidrl.data.references import images
from vidrl.diffusion.path import exact
from vidrl.diffusion.segments import borders, frame_spans
from vidrl.rewards import Reward, Samples, Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from . import _reward_gradient as gradient
from .base import Algorithm, Batch, Experience, Loss


@dataclass(eq=False, kw_only=True)
class RewardBackprop(Algorithm):
    """The gradient of the reward itself, through the decoder and the last denoising steps.

    L = −R(decode(x0)) + β Σ_k mean (v_k − v_ref,k)², k the steps that the gradient goes
    through; a row is a clip.

    The second term compares predictions at the x_k that were visited, and has no gradient
    through x_k.

    `way`, and what the gradient goes through:

    - "draft": the last K steps of the deterministic sampler (DRaFT-K, arXiv 2309.17400);
    - "lv": the last step, for each clip from where the sampler was before it, and from
      `renoise` times x0 noised anew (DRaFT-LV, the same paper);
    - "alignprop": the last k steps, k drawn from 1 to K once a round (AlignProp,
      2310.03739);
    - "refl": the prediction x̂0 of one step alone, drawn from the last K once a round
      (ReFL, 2304.05977; without the hinge of its reward and without its pretraining loss);
    - "vader": as "draft", but only one of `decode_segments` segments is decoded, drawn for
      each update, after the `context` latent frames before it, which the decoder looks back
      at; the reward scores this segment as a clip (VADER, 2407.08737). A backbone that
      cannot decode such a piece is refused before anything is sampled.

    `last` is K; 0 is that of the paper: 1 for "draft", "lv" and "vader", all for
    "alignprop", a quarter for "refl". Steps narrower than `min_width` are run and not
    counted: the last step of diffusers' flow grids moves nothing. `steps` of a rollout,
    `updates` a round, `beta` β. `blind_parts` allows a composite of which some parts carry
    no gradient. Where the gradient goes through several steps, each is computed again in
    the backward pass, so that memory holds the activations of one.
    """

    way: Literal["draft", "lv", "alignprop", "refl", "vader"] = "draft"
    steps: int = 10
    last: int = 0
    min_width: float = 0.01
    renoise: int = 2
    decode_segments: int = 2
    context: int = 2
    updates: int = 2
    beta: float = 0.0
    blind_parts: bool = False

    def __post_init__(self) -> None:
        if (
            min(self.last, self.beta) < 0
            or min(self.steps, self.renoise, self.context, self.updates) < 1
        ):
            got = self.last, self.beta, self.steps, self.renoise, self.context, self.updates
            raise ValueError(
                f"expected last, beta ≥ 0 and steps, renoise, context, updates ≥ 1, got {got}"
            )
        if self.way == "lv" and self.last > 1:
            raise ValueError(
                f"expected last = 1 with way = 'lv', which trains one step, got {self.last}: lower it, or "
                "set way = 'draft', which trains several"
            )

        read = {"lv": ("renoise",), "vader": ("decode_segments", "context")}.get(self.way, ())
        unread = [name for name in ("renoise", "decode_segments", "context") if name not in read]
        given = [name for name in unread if getattr(self, name) != 2]  # 2 is the default of each
        if given:
            raise ValueError(
                f"expected no {' and no '.join(given)} with way = {self.way!r}, which does not read it: "
                "renoise is of 'lv', decode_segments and context are of 'vader'; leave it out"
            )

    def check(self, reward: Reward, group: int) -> None:
        gradient.check(reward, self.blind_parts)

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        self._late(self.backbone.times(self.steps))
        cut = self.decode_segments if self.way == "vader" else 1
        shortest = min(end - start for start, end in frame_spans(self.backbone.frame_map, cut))
        gradient.probe(reward, shortest, self.backbone.fps, self.backbone.device)
        gradient.check_decodes(self.backbone, {b - a for a, b in self._pieces()})

    def _late(self, times: Sequence[float]) -> list[int]:
        """The last K steps, of those that are wide enough to count."""
        wide = [k for k in range(self.steps) if times[k] - times[k + 1] >= self.min_width]
        if not max(1, self.last) <= len(wide):
            raise ValueError(
                f"expected last from 1 to {len(wide)}, because so many of {self.steps} steps are at least "
                f"min_width = {self.min_width} wide, got {self.last}: lower last or min_width, or raise "
                "steps"
            )
        usual = {"alignprop": len(wide), "refl": max(1, len(wide) // 4)}
        return wide[-(self.last or usual.get(self.way, 1)) :]

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        late = self._late(times := backbone.times(self.steps))
        drawn = (
            int(torch.randint(len(late), (), generator=draw))
            if self.way in ("alignprop", "refl")
            else 0
        )
        return Plan(times, "ode", 0.0, keep=(late[drawn],), scored=False)

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        return torch.zeros(len(group), plan.segments)  # the loss has the reward itself

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        each = 1 + self.renoise if self.way == "lv" else 1
        seeds = torch.randint(2**62, (len(seen.group) * each,), generator=seen.draw("noise"))
        segments = seen.draw("segment")
        for item, share in seen.cut(torch.arange(len(seeds)) // each, self.updates):
            row = seen.here[item // each]
            x, at = seen.rollout.before[row, 0], seen.rollout.plan.times[seen.rollout.plan.keep[0]]
            again = item % each > 0
            if bool(again.any()):
                eps = self.backbone.noise(
                    [torch.Generator().manual_seed(s) for s in seeds[item[again]].tolist()]
                )
                x = x.index_put(
                    (again.to(x.device),),
                    self.backbone.path.noise(seen.rollout.latents[row[again]], eps.to(x), at),
                )
            segment = torch.randint(self.decode_segments, (), generator=segments).expand(len(item))
            yield seen.batch(item // each, share, x=x, segment=segment)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        x0, away = self._clean(policy, batch)
        with without_autocast(x0.device):
            clips = exact(self._decoded(x0, batch).clamp(0, 1))
            given = images(batch.prompts, clips.shape[-2], clips.shape[-1], clips.device)
            samples = Samples(clips.detach(), list(batch.prompts), self.backbone.fps, given)
            value, slope = gradient.value_and_gradient(self.reward, samples)
        mean = (gradient.Attached.apply(clips, slope) + value.nan_to_num(0.0)).sum() / len(batch)
        return Loss(self.beta * away - mean, {"reward": value})

    def _clean(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """The clean latents, and how far the predictions on the way are from the
        reference's."""
        plan, x, path = batch.plan, batch["x"], policy.backbone.path
        first, away = plan.keep[0], x.new_zeros(())
        for k in range(first, first + 1 if self.way == "refl" else self.steps):
            t = torch.full((len(x),), plan.times[k], device=x.device)
            alone = self.way == "refl" or k == self.steps - 1 == first
            predict = (
                policy.predict
                if alone
                else partial(checkpoint, policy.predict, use_reentrant=False)
            )
            raw = predict(x, t, batch.cond)
            if self.beta:  # the prediction at x held fixed, as the reference is
                held = predict(x.detach(), t, batch.cond) if x.requires_grad else raw
                away = away + self._off(policy, held, x.detach(), t, batch)
            if self.way == "refl":
                return path.split(raw, x, plan.times[k])[0], away
            x = plan.gaussian(
                policy.backbone, raw, x, plan.times[k], plan.times[k + 1], noisy=False
            ).mean
        return x, away

    def _decoded(self, x0: Tensor, batch: Batch) -> Tensor:
        """The clips (n, F, 3, H, W), or those of the batch's segment."""
        if self.way != "vader":
            return self.backbone.decode_with(x0, batch.cond)
        j = int(batch["segment"][0])
        a, b = self._pieces()[j]
        start, end = frame_spans(self.backbone.frame_map, self.decode_segments)[j]
        part = x0[:, :, a:b]
        return self.backbone.decode_with(part, batch.cond)[:, start - end :]

    def _pieces(self) -> list[tuple[int, int]]:
        """The latent frames [start, end) that are decoded for each segment; none where all
        are always."""
        spans = (
            borders(len(self.backbone.frame_map), self.decode_segments)
            if self.way == "vader"
            else []
        )
        return [(max(0, a - self.context), b) for a, b in spans]

    @staticmethod
    def _off(policy: Policy, raw: Tensor, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """The mean squared distance of a prediction from the reference's."""
        with torch.no_grad(), policy.using("reference"):
            other = policy.predict(x, t, batch.cond)
        return (raw - other).square().mean()

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        x = batch["x"]
        t = torch.full((len(x),), batch.plan.times[batch.plan.keep[0]], device=x.device)
        return self._off(policy, policy.predict(x, t, batch.cond), x, t, batch)
