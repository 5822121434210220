"""RewardBackprop follows the reward's own gradient, through the decoder and the last steps.

It covers DRaFT, AlignProp, ReFL and VADER. Legend: N samples, n rows of a minibatch, K last
steps.
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
    """RewardBackprop differentiates the reward through the decoder and the last steps.

    L = −R(decode(x0)) + β Σ_k mean (v_k − v_ref,k)², k the steps that the gradient goes
    through; a row is a clip. The second term compares predictions at the x_k that were visited,
    and has no gradient through x_k.

    `way` names the published method, and with it the steps that the gradient goes through:

    - "draft": the last K steps of the deterministic sampler (DRaFT-K, arXiv 2309.17400);
    - "lv": the last step. Each clip gives 1 + `renoise` rows: one starts from the sampler's
      own latent before the last step, the others from x0 with new noise at that step's time
      (DRaFT-LV, the same paper; it lowers the variance of the gradient);
    - "alignprop": the last k steps, k drawn from 1 to K once a round (AlignProp,
      2310.03739);
    - "refl": the prediction x̂0 of one step only, drawn from the last K once a round
      (ReFL, 2304.05977; without the hinge of its reward and without its pretraining loss);
    - "vader": as "draft", but only one of `decode_segments` segments is decoded, drawn for
      each update, after the `context` latent frames before it, which the decoder needs; the
      reward scores this segment as a clip (VADER, 2407.08737). A backbone that cannot decode
      such a piece is refused before anything is sampled.

    Further options: `steps` of the sampler; `last` is K, where 0 is the paper's number: 1 for
    "draft", "lv" and "vader", all steps for "alignprop", a quarter of them for "refl";
    `min_width`: steps that are narrower are run and not counted in K, because the last step
    of diffusers' flow grids hardly moves the latent; `updates`, the optimiser steps a round;
    `beta` β; `blind_parts` allows a composite of which some parts carry no gradient.

    Where the gradient goes through several steps, each step is computed again in the backward
    pass, so that memory holds the activations of one step.
    """

    differentiates_reward = True

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
        super().__post_init__()
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
                f"expected last = 1 with way = 'lv', which trains one step, got {self.last}: "
                "lower it, or set way = 'draft', which trains several"
            )
        read = {"lv": ("renoise",), "vader": ("decode_segments", "context")}.get(self.way, ())
        unread = [name for name in ("renoise", "decode_segments", "context") if name not in read]
        given = [name for name in unread if getattr(self, name) != 2]  # 2 is the default of each
        if given:
            raise ValueError(
                f"expected no {' and no '.join(given)} with way = {self.way!r}, which does not "
                "read it: renoise is of 'lv', decode_segments and context are of 'vader'; leave "
                "it out"
            )

    def check(self, reward: Reward, group: int) -> None:
        gradient.check(reward, self.blind_parts)

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        if self.backbone.path.learned and self.way in ("refl", "lv"):
            raise ValueError(
                f"expected a backbone with noise levels for way = {self.way!r}, got "
                f"{type(self.backbone).__name__}, whose latent is one learned Gaussian: set way = "
                "'draft', whose gradient goes through the whole generator"
            )
        # Fail early: the calls below raise ValueError for what the first round could not do.
        self._last_steps(self.backbone.times(self.steps))
        cut = self.decode_segments if self.way == "vader" else 1
        shortest = min(end - start for start, end in frame_spans(self.backbone.frame_map, cut))
        gradient.probe(reward, shortest, self.backbone.fps, self.backbone.device)
        gradient.check_decodes(self.backbone, {b - a for a, b in self._pieces()})

    def _last_steps(self, times: Sequence[float]) -> list[int]:
        """Return the last K steps, of those that are wide enough to count."""
        wide = [k for k in range(self.steps) if times[k] - times[k + 1] >= self.min_width]
        if not max(1, self.last) <= len(wide):
            raise ValueError(
                f"expected last from 1 to {len(wide)}, because so many of {self.steps} steps are "
                f"at least min_width = {self.min_width} wide, got {self.last}: lower last or "
                "min_width, or raise steps"
            )
        published = {"alignprop": len(wide), "refl": max(1, len(wide) // 4)}
        return wide[-(self.last or published.get(self.way, 1)) :]

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        last, first = self._last_steps(times), 0
        if self.way in ("alignprop", "refl"):
            first = int(torch.randint(len(last), (), generator=draw))
        # The rollout keeps the latents before this step, from which `loss` runs again.
        return Plan(times, "ode", 0.0, keep=(last[first],), scored=False)

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        return torch.zeros(len(group), plan.segments)  # not used: the loss has the reward itself

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        rollout, plan = experience.rollout, experience.rollout.plan
        rows_per_clip = 1 + self.renoise if self.way == "lv" else 1
        count = len(experience.group) * rows_per_clip
        seeds = torch.randint(2**62, (count,), generator=experience.draw("noise"))
        segments = experience.draw("segment")
        for item, share in experience.cut(torch.arange(count) // rows_per_clip, self.updates):
            row = experience.here[item // rows_per_clip]
            x, t = rollout.before[row, 0], plan.times[plan.keep[0]]
            # the first row of a clip keeps the sampler's own latent, the others get new noise
            renoised = item % rows_per_clip > 0
            if bool(renoised.any()):
                eps = self._noise(seeds[item[renoised]])
                noised = self.backbone.path.noise(rollout.latents[row[renoised]], eps.to(x), t)
                x = x.index_put((renoised.to(x.device),), noised)
            segment = torch.randint(self.decode_segments, (), generator=segments).expand(len(item))
            yield experience.batch(item // rows_per_clip, share, x=x, segment=segment)

    def _noise(self, seeds: Tensor) -> Tensor:
        """Return one noise for each seed."""
        return self.backbone.noise([torch.Generator().manual_seed(s) for s in seeds.tolist()])

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        x0, distance = self._run_last_steps(policy, batch)
        with without_autocast(x0.device):  # decoders and rewards need float32
            clips = exact(self._decoded(x0, batch).clamp(0, 1))
            references = images(batch.prompts, clips.shape[-2], clips.shape[-1], clips.device)
            samples = Samples(clips.detach(), list(batch.prompts), self.backbone.fps, references)
            value, slope = gradient.value_and_gradient(self.reward, samples)
        # The reward's gradient was computed above, outside autocast and without the network's
        # graph; `Attached` puts it on the clips, so that `backward` goes on from there.
        rewards = gradient.Attached.apply(clips, slope) + value.nan_to_num(0.0)
        return Loss(self.beta * distance - rewards.sum() / len(batch), {"reward": value})

    def _run_last_steps(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the clean latents, and the summed distance of predictions to the reference's."""
        plan, x = batch.plan, batch["x"]
        first, distance = plan.keep[0], x.new_zeros(())
        for k in range(first, first + 1 if self.way == "refl" else self.steps):
            t = torch.full((len(x),), plan.times[k], device=x.device)
            # With a single step, computing it again in the backward pass saves no memory.
            single = self.way == "refl" or k == self.steps - 1 == first
            recomputed = partial(checkpoint, policy.predict, use_reentrant=False)
            predict = policy.predict if single else recomputed
            raw = predict(x, t, batch.cond)
            if self.beta:
                # The distance has no gradient through x: predict again where x has one.
                fixed = predict(x.detach(), t, batch.cond) if x.requires_grad else raw
                distance = distance + self._distance(policy, fixed, x.detach(), t, batch)
            if self.way == "refl":
                return policy.backbone.path.split(raw, x, plan.times[k])[0], distance
            x = plan.gaussian(
                policy.backbone, raw, x, plan.times[k], plan.times[k + 1], noisy=False
            ).mean
        return x, distance

    def _decoded(self, x0: Tensor, batch: Batch) -> Tensor:
        """Decode the clips (n, F, 3, H, W), or with `way` "vader" the batch's segment of them."""
        if self.way != "vader":
            return self.backbone.decode_with(x0, batch.cond)
        j = int(batch["segment"][0])  # all rows of an update have one segment
        a, b = self._pieces()[j]
        start, end = frame_spans(self.backbone.frame_map, self.decode_segments)[j]
        part = x0[:, :, a:b]
        # keep the last end − start pixel frames: the frames before them are of the context
        return self.backbone.decode_with(part, batch.cond)[:, start - end :]

    def _pieces(self) -> list[tuple[int, int]]:
        """Return the latent frames [start, end) to decode for each segment, with their context.

        The result is empty where whole clips are decoded.
        """
        if self.way != "vader":
            return []
        spans = borders(len(self.backbone.frame_map), self.decode_segments)
        return [(max(0, a - self.context), b) for a, b in spans]

    @staticmethod
    def _distance(policy: Policy, raw: Tensor, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """Return the mean squared distance of a prediction from the reference's."""
        with torch.no_grad(), policy.using("reference"):
            other = policy.predict(x, t, batch.cond)
        return (raw - other).square().mean()

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        x = batch["x"]
        t = torch.full((len(x),), batch.plan.times[batch.plan.keep[0]], device=x.device)
        return self._distance(policy, policy.predict(x, t, batch.cond), x, t, batch)
