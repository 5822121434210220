"""Segment credit in other people's loops: the examples of docs/guides/adapters.md, as they stand
there, against stand-ins.

The stand-ins repeat what the published loops compute, in their names, shapes and order:
flow_grpo's Wan 2.1 script (scripts/train_wan2_1.py, its pipeline and stat tracker) and
Flow-Factory's schedulers and GRPO-Guard trainer.
"""

import doctest
import math
import re
import sys
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace

import numpy as np
import pytest
import stand_ins
import torch
from torch import nn

from vidrl import credit
from vidrl.diffusion import segments
from vidrl.diffusion.path import flow
from vidrl.diffusion.transition import log_density, step
from vidrl.rewards import Reward, Samples, Score

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "adapters.md").read_text()
SECTION = PAGE[PAGE.index("## Segment credit in your trainer") :]
B, C, L, H, W, STEPS = 4, 3, 5, 4, 4, 6
SHAPE = (B, C, L, H, W)


def published():
    """What the page defines, by running its first block and its section on credit."""
    text = PAGE[: PAGE.index("## Flow-GRPO")] + SECTION
    names: dict = {}
    with stand_ins.installed():
        for example in doctest.DocTestParser().get_examples(text):
            exec(compile(example.source, "adapters.md", "exec"), names)
    return SimpleNamespace(**names)


DOC = published()


def shares(n, frames=L):
    return torch.tensor([(b - a) / frames for a, b in segments.borders(frames, n)])


# --- Flow-GRPO


class Pipeline:
    """The scheduler's part of theirs: sigmas that fall from 1 to 0, with shift 3."""

    def __init__(self, steps=STEPS):
        even = torch.linspace(1, 0, steps + 1)
        self.sigmas = 3 * even / (1 + 2 * even)


class Velocity(nn.Module):
    """A network small enough to look through: a velocity with three weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, -0.2, 0.1]))

    def forward(self, latents, sigma):
        a, b, c = self.weight
        return a * latents + b * latents.roll(1, 2) + c * sigma


def sde_step_with_logprob(
    pipeline, model_output, i, sample, prev_sample=None, return_dt_and_std_dev_t=False
):
    """One step of their Wan sampler: g = σ_min + (σ_max − σ_min) σ, and the Gaussian's mean
    log-density."""
    sigma, after = pipeline.sigmas[i].view(1, 1, 1, 1, 1), pipeline.sigmas[i + 1]
    low, high = pipeline.sigmas[-1], pipeline.sigmas[1]
    dt, g = after - sigma, low + (high - low) * sigma
    mean = (
        sample * (1 + g**2 / (2 * sigma) * dt)
        + model_output * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
    )
    root = torch.sqrt(-dt)
    if prev_sample is None:
        prev_sample = mean + g * root * torch.randn_like(mean)
    each = -((prev_sample.detach() - mean) ** 2) / (2 * (g * root) ** 2) - torch.log(g * root)
    log_prob = (each - math.log(2 * math.pi) / 2).mean(dim=(1, 2, 3, 4))
    if return_dt_and_std_dev_t:
        return prev_sample, log_prob, mean, g, root
    return prev_sample, log_prob, mean, g * root


def rollout(pipeline, transformer, n=None):
    """Their sampling loop, as it is, or with (B, S) appended as the page says."""
    latents = torch.randn(SHAPE)
    kept, log_probs = [latents], []
    with torch.no_grad():
        for i in range(STEPS):
            velocity = transformer(latents, pipeline.sigmas[i])
            latents, log_prob, prev_latents_mean, std_dev_t = sde_step_with_logprob(
                pipeline, velocity, i, latents
            )
            kept.append(latents)
            own = (
                log_prob
                if n is None
                else DOC.segment_log_prob(latents, prev_latents_mean, std_dev_t, n)
            )
            log_probs.append(own)
    latents = torch.stack(kept, dim=1)
    return {
        "latents": latents[:, :-1],
        "next_latents": latents[:, 1:],
        "log_probs": torch.stack(log_probs, dim=1),
    }


def compute_log_prob(transformer, pipeline, sample, j):
    velocity = transformer(sample["latents"][:, j], pipeline.sigmas[j])
    return sde_step_with_logprob(
        pipeline,
        velocity,
        j,
        sample["latents"][:, j],
        prev_sample=sample["next_latents"][:, j],
        return_dt_and_std_dev_t=True,
    )


def their_loss(log_prob, old, advantages, clip_range, adv_clip_max):
    """2.7: mean of max(−A ρ, −A clip(ρ, 1 ± ε)), advantages clamped, all (B,)."""
    a = torch.clamp(advantages, -adv_clip_max, adv_clip_max)
    rho = torch.exp(log_prob - old)
    return torch.mean(
        torch.maximum(-a * rho, -a * torch.clamp(rho, 1.0 - clip_range, 1.0 + clip_range))
    )


def stat_tracker(prompts, rewards):
    """Their advantages: of each prompt (r − mean)/(std + 1e-4), in float64; rewards (N,) or
    (N, anything)."""
    prompts, rewards = np.array(prompts), np.array(rewards, dtype=np.float64)
    made = np.zeros_like(rewards)
    for prompt in np.unique(prompts):
        mine = rewards[prompts == prompt]
        made[prompts == prompt] = (mine - mine.mean(0, keepdims=True)) / (
            mine.std(0, keepdims=True) + 1e-4
        )
    return made


def segment_log_probs(transformer, pipeline, sample, j, n):
    """Their training step with the page's line after it: (B, S), and their own scalar."""
    prev_sample, log_prob, mean, std_dev_t, dt = compute_log_prob(transformer, pipeline, sample, j)
    return DOC.segment_log_prob(prev_sample, mean, std_dev_t * dt, n), log_prob


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("j", [0, 3, STEPS - 1])
def test_segments_weighted_by_size_are_the_loops_log_prob(n, j):
    pipeline, transformer = Pipeline(), Velocity()
    own, theirs = segment_log_probs(transformer, pipeline, rollout(pipeline, transformer), j, n)
    assert own.shape == (B, n) and own.dtype == torch.float32
    assert torch.allclose(own @ shares(n), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_old_log_probs_are_kept_a_segment_and_the_first_ratio_is_one(n):
    pipeline, transformer = Pipeline(), Velocity()
    sample = rollout(pipeline, transformer, n)
    assert sample["log_probs"].shape == (B, STEPS, n)
    for j in range(STEPS):
        new, _ = segment_log_probs(transformer, pipeline, sample, j, n)
        assert torch.equal(torch.exp(new - sample["log_probs"][:, j]), torch.ones(B, n))


def test_a_change_of_one_segments_mean_moves_its_log_prob_alone():
    x, mean = torch.randn(SHAPE), torch.randn(SHAPE)
    moved = mean.clone()
    moved[:, :, 3:] += 0.1
    before, after = (DOC.segment_log_prob(x, m, torch.tensor(0.5), 2) for m in (mean, moved))
    assert torch.equal(before[:, 0], after[:, 0]) and bool((before[:, 1] != after[:, 1]).all())


def test_gradients_reach_the_policy_and_not_the_sample():
    x, mean = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, requires_grad=True)
    DOC.segment_log_prob(x, mean, torch.tensor(0.5), 2).sum().backward()
    assert x.grad is None and bool((mean.grad != 0).all())


def test_the_loops_rearrangements_hold_with_segments():
    """Permuted over samples and steps, masked, cut into micro-batches: each row keeps its
    own numbers."""
    pipeline, transformer = Pipeline(), Velocity()
    samples = rollout(pipeline, transformer, 3)
    samples["advantages"] = torch.randn(B, 3)
    samples["advantages"][1] = 0  # what the loop throws out
    mask = samples["advantages"].abs().sum(dim=1) != 0
    assert mask.tolist() == [True, False, True, True]
    samples = {k: v[mask] for k, v in samples.items()}
    samples = {k: v[torch.tensor([2, 0, 1])] for k, v in samples.items()}
    perms = torch.stack([torch.randperm(STEPS) for _ in range(3)])
    for key in ["latents", "next_latents", "log_probs"]:
        samples[key] = samples[key][torch.arange(3)[:, None], perms]
    batched = {k: v.reshape(-1, 1, *v.shape[1:]) for k, v in samples.items()}
    for i in range(3):
        step_of = int(perms[i, 4])
        row = {key: batched[key][i] for key in ("latents", "next_latents")}
        velocity = transformer(row["latents"][:, 4], pipeline.sigmas[step_of])
        out = sde_step_with_logprob(
            pipeline, velocity, step_of, row["latents"][:, 4], row["next_latents"][:, 4]
        )
        assert torch.allclose(
            DOC.segment_log_prob(out[0], out[2], out[3], 3),
            batched["log_probs"][i][:, 4],
            atol=1e-6,
        )


# Advantages

PROMPTS = ["cat", "dog", "dog", "cat", "cat", "dog"]
# padded tokens of the prompts
IDS = torch.tensor([[5, 1, 0], [5, 2, 0], [5, 2, 0], [5, 1, 0], [5, 1, 0], [5, 2, 0]])


def gathered(n=3, frames=17):
    """What the loop has gathered: arrays of all processes' samples, "avg" spread over the
    steps."""
    curve = torch.randn(6, frames) + torch.tensor([3.0, 0, 0, 3, 3, 0])[:, None]
    value = curve.mean(1)
    spans = segments.frame_spans([(0, 1)] + [(4 * k - 3, 4 * k + 1) for k in range(1, 5)], n)
    local = credit.segment_sums(Score(value, curve), spans)
    # less kl_reward times the KL of each step
    spread = value.unsqueeze(-1) - 0.0 * torch.zeros(6, STEPS)
    made = {"ori_avg": value, "avg": spread, "segments": local, "curve": curve}
    return {key: value.cpu().numpy() for key, value in made.items()}


@pytest.mark.parametrize("n", [1, 3])
def test_without_alpha_every_segment_has_the_trackers_advantage(n):
    given = gathered(n)
    theirs = torch.as_tensor(stat_tracker(PROMPTS, given["ori_avg"])).float()
    got = DOC.segment_advantages(given, IDS.numpy(), alpha=0.0)
    assert got.shape == (6, n) and torch.allclose(got, theirs[:, None].expand(-1, n), atol=1e-6)


def test_with_alpha_one_segments_have_their_own_over_one_std_and_blends_lie_between():
    given = gathered(3)
    own, group = (
        torch.as_tensor(given["segments"]),
        torch.tensor([PROMPTS.index(prompt) for prompt in PROMPTS]),
    )
    away = torch.stack([row - own[group == g].mean(0) for row, g in zip(own, group)])
    theirs = torch.stack(
        [row / away[group == g].square().mean().sqrt() for row, g in zip(away, group)]
    )
    ends = [DOC.segment_advantages(given, IDS, alpha=alpha) for alpha in (0.0, 1.0)]
    assert torch.allclose(ends[1], theirs, atol=5e-3)  # but for the ε beside the std
    assert torch.allclose(
        DOC.segment_advantages(given, IDS, alpha=0.3), 0.7 * ends[0] + 0.3 * ends[1], atol=1e-6
    )


def test_one_segment_is_the_whole_clip_whatever_alpha():
    given = gathered(1)
    assert torch.allclose(
        *(DOC.segment_advantages(given, IDS, alpha=alpha) for alpha in (0.0, 1.0)), atol=5e-3
    )


def test_an_unscored_clip_has_no_advantage_and_moves_no_other():
    given = gathered(3)
    lost = {key: value.copy() for key, value in given.items()}
    for value in lost.values():
        value[3] = np.nan
    got = DOC.segment_advantages(lost, IDS)
    kept = [0, 1, 2, 4, 5]
    rest = DOC.segment_advantages({key: value[kept] for key, value in given.items()}, IDS[kept])
    assert torch.equal(got[3], torch.zeros(3)) and torch.allclose(got[kept], rest, atol=1e-6)


def test_influence_credits_what_a_segments_noise_moves_and_leaves_the_rest():
    """Two segments that move each its own half of the frames: a fault in the second half is
    the second's alone."""
    influence = torch.zeros(2, 8)
    influence[0, :4], influence[1, 4:] = 1.0, 1.0
    curve = 0.3 * torch.randn(16, 8)
    curve[3, 4:] -= 3.0
    given = {"ori_avg": curve.mean(1), "curve": curve}
    made = DOC.segment_advantages(given, torch.zeros(16, 1), influence=influence)
    assert made.shape == (16, 2) and float(made.square().mean()) == pytest.approx(1.0, abs=1e-3)
    assert made[3, 1] < -2 and abs(float(made[3, 0])) < 1 and int(made[:, 1].argmin()) == 3


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_each_process_gets_its_own_rows_back(processes):
    """Their gather puts the processes one after the other; their reshape takes a process's
    part out again."""
    given = gathered(3)
    local = [
        {k: torch.as_tensor(v).chunk(processes)[p] for k, v in given.items()}
        for p in range(processes)
    ]
    gather = {key: torch.cat([one[key] for one in local]).numpy() for key in given}
    advantages = torch.as_tensor(DOC.segment_advantages(gather, IDS))
    whole = DOC.segment_advantages(given, IDS)
    for rank in range(processes):
        own = advantages.reshape(processes, -1, advantages.shape[-1])[rank]
        assert torch.equal(own, whole.chunk(processes)[rank])


def test_what_the_reward_gives_passes_through_the_loops_cat():
    """Each value becomes a float tensor of its batch, is joined over batches, gathered, and
    logged by its mean."""
    reward_fn = DOC.segment_reward(DOC.FrameQuality(), 16, DOC.WAN, 3)
    batches = [
        reward_fn(torch.rand(2, 9, 3, 32, 32), ["a", "b"], [{}, {}], only_strict=True)[0]
        for _ in range(2)
    ]
    joined = {
        key: torch.cat([torch.as_tensor(one[key]).float() for one in batches]) for key in batches[0]
    }
    shapes = {key: tuple(value.shape) for key, value in joined.items()}
    assert shapes == {"avg": (4,), "segments": (4, 3), "curve": (4, 9)}
    assert torch.allclose(joined["curve"].mean(1), joined["avg"], atol=1e-5)
    sizes = torch.tensor([1.0, 4, 4]) / 9
    assert torch.allclose(joined["segments"] @ sizes, joined["avg"], atol=1e-5)
    assert all(isinstance(float(value.mean()), float) for value in joined.values())


class Curveless(Reward):
    def forward(self, samples):
        return Score(samples.frames.mean((1, 2, 3, 4)), support="clip")


def test_a_reward_without_a_curve_credits_every_segment_with_the_clip():
    rewards, _ = DOC.segment_reward(Curveless(), 16, DOC.WAN, 3)(
        torch.rand(2, 9, 3, 8, 8), ["a", "b"], [{}, {}]
    )
    assert sorted(rewards) == ["avg", "segments"]
    assert torch.equal(rewards["segments"], rewards["avg"][:, None].expand(-1, 3))


# The loss


@pytest.mark.parametrize("clip_range", [1e-3, 0.05, 0.5])
def test_the_loss_of_one_segment_is_the_loops(clip_range):
    log_prob = (0.1 * torch.randn(64)).requires_grad_()
    old, advantages = torch.zeros(64), 4 * torch.randn(64)
    theirs = their_loss(log_prob, old, advantages, clip_range, 5.0)
    ours = DOC.policy_loss(log_prob[:, None], old[:, None], advantages[:, None], clip_range, 5.0)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(loss, log_prob)[0] for loss in (ours, theirs)))


def test_a_step_of_the_loop_with_one_segment_is_theirs():
    """From latents to the gradient of the weights, with their factor after the loss."""
    pipeline, transformer = Pipeline(), Velocity()
    sample = rollout(pipeline, transformer, 1)
    advantages = torch.randn(B)
    with torch.no_grad():
        transformer.weight += 0.01
    losses = []
    for ours in (True, False):
        prev_sample, log_prob, mean, std_dev_t, dt = compute_log_prob(
            transformer, pipeline, sample, 2
        )
        old = sample["log_probs"][:, 2]
        if ours:
            log_prob = DOC.segment_log_prob(prev_sample, mean, std_dev_t * dt, 1)
            loss = DOC.policy_loss(log_prob, old, advantages[:, None], 1e-2, 5.0)
        else:
            loss = their_loss(log_prob, old[:, 0], advantages, 1e-2, 5.0)
        losses.append(loss * std_dev_t.mean() / dt.mean())
    ours, theirs = losses
    grads = [torch.autograd.grad(loss, transformer.weight)[0] for loss in losses]
    assert torch.allclose(ours, theirs, atol=1e-7, rtol=1e-6) and torch.allclose(
        *grads, atol=1e-7, rtol=1e-5
    )
    assert bool((grads[0] != 0).any())


@pytest.mark.parametrize("n, even", [(5, True), (2, False), (3, False)])
def test_equal_advantages_give_the_whole_clips_gradient_by_shares(n, even):
    """At ratio 1. The plain mean does so only where the segments are of one size."""
    pipeline, transformer = Pipeline(), Velocity()
    sample, advantages = rollout(pipeline, transformer), torch.randn(B)

    def gradient(n, weigh):
        log_prob, _ = segment_log_probs(transformer, pipeline, sample, 1, n)
        each = DOC.clipped(
            torch.exp(log_prob - log_prob.detach()), advantages[:, None].expand(-1, n), 1e-3
        )
        loss = (each * shares(n)).sum(1).mean() if weigh else each.mean()
        return torch.autograd.grad(loss, transformer.weight)[0]

    whole = gradient(1, weigh=False)
    assert torch.allclose(gradient(n, weigh=True), whole, rtol=1e-4, atol=1e-6)
    assert torch.allclose(gradient(n, weigh=False), whole, rtol=1e-4, atol=1e-6) == even


def test_log_ratios_spread_by_the_root_of_the_number_of_segments():
    """Why the clip range has the factor √S: for a small change of the mean, elsewhere for
    each element."""
    x, mean = torch.randn(400, 2, 6, 4, 4), torch.zeros(400, 2, 6, 4, 4)
    moved = mean + 0.01 * torch.randn(mean.shape)
    spread = {
        n: float(
            (
                DOC.segment_log_prob(x, moved, torch.tensor(1.0), n)
                - DOC.segment_log_prob(x, mean, torch.tensor(1.0), n)
            ).std()
        )
        for n in (1, 2, 3, 6)
    }
    for n in (2, 3, 6):
        assert spread[n] / spread[1] == pytest.approx(math.sqrt(n), rel=0.08)


def test_the_clip_range_grows_with_the_segments():
    for n, loss in [(1, 1.01), (4, 1.02)]:
        got = DOC.policy_loss(
            torch.full((2, n), 0.5), torch.zeros(2, n), -torch.ones(2, n), 0.01, 5.0
        )
        # a negative advantage's rise is not clipped
        assert float(got) == pytest.approx(math.exp(0.5))
        got = DOC.policy_loss(
            torch.full((2, n), 0.5), torch.zeros(2, n), torch.ones(2, n), 0.01, 5.0
        )
        assert float(got) == pytest.approx(-loss)


def test_updates_raise_the_segments_that_were_good_and_lower_the_others():
    """The whole loop: rollout, advantages, an update; the means move to the samples where
    the advantage is positive."""
    pipeline, transformer = Pipeline(), nn.Module()
    transformer.bias = nn.Parameter(torch.zeros(1, 1, L, 1, 1))
    transformer.forward = lambda latents, sigma: transformer.bias.expand_as(latents)
    sample = rollout(pipeline, transformer, 5)
    advantages = torch.tensor([[1.0, -1.0, 0.0, 0.0, 0.0]]).repeat(B, 1)
    optimiser = torch.optim.SGD([transformer.bias], lr=0.1)
    for j in range(STEPS - 1):
        log_prob, _ = segment_log_probs(transformer, pipeline, sample, j, 5)
        DOC.policy_loss(log_prob, sample["log_probs"][:, j], advantages, 10.0, 5.0).backward()
    optimiser.step()
    change = sum(
        segment_log_probs(transformer, pipeline, sample, j, 5)[0] - sample["log_probs"][:, j]
        for j in range(STEPS - 1)
    ).mean(0)
    assert change[0] > 0 > change[1] and torch.equal(change[2:], torch.zeros(3))


# --- Flow-Factory


def scheduler_step(
    dynamics_type, noise_pred, sigma, sigma_prev, latents, level, second, next_latents=None
):
    """Their scheduler's step (2.1, 2.2, 2.3): next_latents, next_latents_mean, std_dev_t,
    dt, log_prob, and the std."""
    shaped = [torch.as_tensor(x).view(-1, *[1] * (latents.dim() - 1)) for x in (sigma, sigma_prev)]
    t, s = shaped
    dt = s - t
    if dynamics_type == "CPS":
        std_dev_t = whole = s * math.sin(level * math.pi / 2)
        x0, x1 = latents - t * noise_pred, latents + (1 - t) * noise_pred
        mean = (1 - s) * x0 + torch.sqrt(s**2 - std_dev_t**2) * x1
    else:
        top = torch.where(t == 1, second, t)
        std_dev_t = (
            torch.sqrt(t / (1 - top)) * level
            if dynamics_type == "Flow-SDE"
            else torch.full_like(t, level)
        )
        whole = std_dev_t * torch.sqrt(-dt)
        slope = std_dev_t**2 / (2 * t)
        mean = latents * (1 + slope * dt) + noise_pred * (1 + slope * (1 - t)) * dt
    if next_latents is None:
        next_latents = mean + whole * torch.randn_like(mean)
    each = -((next_latents.detach() - mean) ** 2)
    if dynamics_type != "CPS":  # CPS drops all constants there, and 1/(2 std²)
        each = each / (2 * whole**2) - torch.log(whole) - math.log(2 * math.pi) / 2
    log_prob = each.mean(dim=tuple(range(1, each.ndim)))
    return SimpleNamespace(
        next_latents=next_latents,
        next_latents_mean=mean,
        std_dev_t=std_dev_t,
        dt=dt,
        log_prob=log_prob,
        whole=whole,
    )


SAMPLERS = {"Flow-SDE": ("flow_sde", 0.7), "Dance-SDE": ("dance_sde", 0.3), "CPS": ("cps", 0.7)}


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("times", [(1.0, 0.9), (0.6, 0.45)])
@pytest.mark.parametrize("dynamics", ["Flow-SDE", "Dance-SDE"])
def test_from_noise_pred_the_transition_gives_their_log_prob(dynamics, times, n):
    """Without their mean and std: the sampler of the same name, (B, S) from the velocity
    alone."""
    latents, noise_pred = torch.randn(SHAPE), torch.randn(SHAPE)
    sampler, level = SAMPLERS[dynamics]
    sigma, sigma_prev = (torch.full((B,), t) for t in times)
    theirs = scheduler_step(
        dynamics, noise_pred, sigma, sigma_prev, latents, level, torch.tensor(0.9)
    )
    gaussian = step(flow(), sampler, noise_pred, latents, sigma, sigma_prev, level, 0.9)
    own = segments.pool(log_density(gaussian, theirs.next_latents), n)
    assert torch.allclose(own @ shares(n), theirs.log_prob, rtol=1e-5, atol=1e-5)
    also = DOC.segment_log_prob(theirs.next_latents, theirs.next_latents_mean, theirs.whole, n)
    assert torch.allclose(also @ shares(n), theirs.log_prob, rtol=1e-6, atol=1e-6)


def test_what_they_average_for_cps_pools_to_their_log_prob():
    latents, noise_pred = torch.randn(SHAPE), torch.randn(SHAPE)
    theirs = scheduler_step(
        "CPS", noise_pred, torch.full((B,), 0.6), torch.full((B,), 0.45), latents, 0.7, None
    )
    own = segments.pool(-((theirs.next_latents - theirs.next_latents_mean) ** 2), 3)
    assert torch.allclose(own @ shares(3), theirs.log_prob, rtol=1e-6, atol=1e-6)
    density = DOC.segment_log_prob(theirs.next_latents, theirs.next_latents_mean, theirs.whole, 3)
    constant = float(theirs.whole[0].log()) + math.log(2 * math.pi) / 2
    assert torch.allclose(
        density, own / (2 * float(theirs.whole[0]) ** 2) - constant, rtol=1e-4, atol=1e-4
    )


class State:
    """Their LatentState: tensors by component."""

    def __init__(self, latent):
        self.components = {"latent": latent}


def replayed(shift=0.0):
    """A stored step, the policy's output for it, and their old and new scalar log_prob."""
    latents, noise_pred = torch.randn(2, C, 3, H, W), torch.randn(2, C, 3, H, W)
    times = torch.full((2,), 0.6), torch.full((2,), 0.45)
    old = scheduler_step("Flow-SDE", noise_pred, *times, latents, 0.7, torch.tensor(0.9))
    new = scheduler_step(
        "Flow-SDE", noise_pred + shift, *times, latents, 0.7, torch.tensor(0.9), old.next_latents
    )
    output = SimpleNamespace(
        next_state_mean=State(new.next_latents_mean),
        std_dev_t={"latent": new.std_dev_t},
        dt={"latent": new.dt},
        log_prob=new.log_prob,
    )
    return (
        SimpleNamespace(next_state=State(old.next_latents)),
        output,
        State(old.next_latents_mean),
        old,
        new,
    )


def test_the_guards_ratio_by_segment():
    replay, output, kept, old, new = replayed(shift=0.2)
    ratio = DOC.SegmentGRPO()._guard_ratio(output, replay, kept, step_index=0)
    assert ratio.shape == (2, 3)
    assert torch.allclose(ratio.log() @ shares(3, 3), new.log_prob - old.log_prob, atol=1e-6)
    replay, output, kept, _, _ = replayed(shift=0.0)
    assert torch.equal(DOC.SegmentGRPO()._guard_ratio(output, replay, kept), torch.ones(2, 3))


class Light(Reward):
    """How light each frame is: differs from clip to clip, and from frame to frame."""

    def terms(self, samples):
        return samples.frames.mean((2, 3, 4))


class Processor:
    """Their AdvantageProcessor's topology, for `count` processes whose samples are
    given."""

    def __init__(self, everyone, rank, same_rank):
        self.group_on_same_rank, self.everyone, self.asked = same_rank, everyone, 0
        self.accelerator = SimpleNamespace(
            device="cpu", gather=self._gather, num_processes=len(everyone), process_index=rank
        )

    def _gather(self, mine):
        """The other processes' tensor of the same call: each process's own are computed by
        itself."""
        self.asked += 1
        return torch.cat([given[self.asked - 1] for given in self.everyone])

    def _to_local(self, values):
        if self.group_on_same_rank:
            return torch.as_tensor(values)
        many = torch.as_tensor(values).reshape(
            self.accelerator.num_processes, -1, *values.shape[1:]
        )
        return many[self.accelerator.process_index]

    def compute_advantages(self, samples, rewards, store_to_samples, aggregation_func):
        return aggregation_func(self, samples, rewards, store_to_samples)


def clips_of(ids):
    return [
        SimpleNamespace(
            video=torch.rand(9, 3, 32, 32), prompt="a cat", unique_id=i, extra_kwargs={}
        )
        for i in ids
    ]


def test_advantages_by_unique_id_over_processes(monkeypatch):
    """Two processes with two clips each, a prompt's clips on both, against all four on
    one."""
    monkeypatch.setitem(DOC.segment_credit.__globals__, "FrameQuality", Light)
    ids = [[2**40 + 1, 7], [7, 2**40 + 1]]  # a hash of 64 bits must not pass through float32
    samples = [clips_of(one) for one in ids]
    spans = segments.frame_spans(DOC.WAN, DOC.S)
    sent = []
    for mine, one in zip(samples, ids):
        video = torch.stack([s.video for s in mine])
        score = Light()(DOC.Samples(video, ["a cat"] * 2, 16))
        sent.append([credit.segment_sums(score, spans), torch.tensor(one)])
    trainers = [
        SimpleNamespace(advantage_processor=Processor(sent, rank, False)) for rank in range(2)
    ]
    got = [
        DOC.SegmentGRPO.compute_advantages(trainer, mine, {})
        for trainer, mine in zip(trainers, samples)
    ]
    alone = SimpleNamespace(advantage_processor=Processor([], 0, same_rank=True))
    whole = DOC.SegmentGRPO.compute_advantages(alone, [*clips_again(samples)], {})
    assert (
        whole.shape == (4, DOC.S)
        and torch.allclose(torch.cat(got), whole, atol=1e-6)
        and whole.abs().min() > 0.1
    )
    # two of a group: opposite
    assert torch.allclose(got[0] + got[1].flip(0), torch.zeros(2, DOC.S), atol=1e-4)
    assert torch.equal(torch.stack([s.extra_kwargs["advantage"] for s in samples[1]]), got[1])


def clips_again(samples):
    return [SimpleNamespace(**{**vars(s), "extra_kwargs": {}}) for mine in samples for s in mine]


def test_the_trainer_type_is_found_as_arguments_and_as_trainer(monkeypatch):
    """Flow-Factory looks one name up twice; a trainer's own path is refused where it wants
    arguments."""
    module, page = ModuleType("my_trainer"), published()
    module.SegmentArguments, module.SegmentGRPO = page.SegmentArguments, page.SegmentGRPO
    monkeypatch.setitem(sys.modules, "my_trainer", module)
    (said,) = re.findall(r"trainer_type: (\S+?)`", SECTION)
    assert stand_ins.get_training_args_class(said) is page.SegmentArguments
    assert stand_ins.get_trainer_class(said) is page.SegmentGRPO
    assert DOC.SegmentArguments().clip_range == (-1e-4, 1e-4)  # still those of grpo-guard
    with pytest.raises(ImportError, match="Could not resolve"):
        stand_ins.get_training_args_class("my_trainer.SegmentGRPO")


def alone(clips, n=1):
    """The page's advantages of one process, with n segments."""
    processor = Processor([], 0, same_rank=True)
    names = {**vars(DOC), "S": n, "FrameQuality": Light}
    return FunctionType(DOC.segment_credit.__code__, names)(processor, clips, {}, True), processor


def weighted_sum(rewards, groups, global_std):
    """Their `sum`: (r - mean of the group) / std, of the group or of all, as float64."""
    made, rewards = np.zeros(len(rewards)), np.asarray(rewards, dtype=np.float64)
    for group in np.unique(groups):
        mine = rewards[groups == group]
        made[groups == group] = (mine - mine.mean()) / max(
            (rewards if global_std else mine).std(), 1e-6
        )
    return torch.tensor(made, dtype=torch.float32)


def test_one_segment_is_the_loops_with_the_std_of_each_group():
    clips = clips_of([3, 3, 3, 3, 8, 8, 8, 8])
    for i, sample in enumerate(clips):  # another spread of rewards in the second group
        sample.video = torch.full_like(
            sample.video, 0.5 + (0.1 if i < 4 else 0.02) * (i % 4) ** 2 / 9
        )
    rewards = Light()(Samples(torch.stack([s.video for s in clips]), ["a"] * 8, 16.0)).value
    groups = np.array([s.unique_id for s in clips])
    made, _ = alone(clips)
    assert made.shape == (8, 1)
    assert torch.allclose(made[:, 0], weighted_sum(rewards, groups, global_std=False), atol=0.03)
    assert not torch.allclose(made[:, 0], weighted_sum(rewards, groups, global_std=True), atol=0.1)


def test_a_clip_that_is_not_scored_is_out_of_its_group_and_counted():
    clips = clips_of([3, 3, 3, 8, 8])
    without, _ = alone(clips_again([[*clips[:2], *clips[3:]]]), 3)
    clips[2].video = torch.full_like(clips[2].video, math.nan)
    made, processor = alone(clips, 3)
    assert torch.equal(made[2], torch.zeros(3)) and torch.isfinite(made).all()
    assert torch.allclose(made[[0, 1, 3, 4]], without, atol=1e-5) and bool((without != 0).any())
    logged = processor._pending_advantage_metrics
    assert logged["train/unscored"] == pytest.approx(0.2) and math.isfinite(
        logged["train/reward_mean"]
    )


def test_the_ratio_where_there_is_no_guard_ratio_to_override():
    """The line of the page for versions whose loop makes the ratio itself; the std is (B,
    1, 1, 1, 1) there."""
    _, _, _, old, new = replayed(shift=0.2)
    (line,) = re.findall(r"^ +(ratio = self\._segment_ratio\(.*\))$", SECTION, re.MULTILINE)
    names = {
        "self": DOC.SegmentGRPO(),
        "next_latents": old.next_latents,
        "output": new,
        "scale_factor": new.whole,
        "old_next_latents_mean": old.next_latents_mean,
    }
    exec(line, names)
    assert names["ratio"].shape == (2, 3)
    assert torch.allclose(
        names["ratio"].log() @ shares(3, 3), new.log_prob - old.log_prob, atol=1e-6
    )


# --- Other shapes


def packed(latents, patch=1, patch_t=1):
    """LTX's packing: (B, C, L, h, w) → (B, L/p_t · h/p · w/p, C p_t p p), a latent frame's
    tokens after another's."""
    b, c, frames, h, w = latents.shape
    cut = latents.reshape(b, c, frames // patch_t, patch_t, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * patch_t * patch * patch)


def test_tokens_of_packed_video_latents_are_frame_by_frame():
    latents = torch.randn(SHAPE)
    tokens = packed(latents)
    assert torch.equal(tokens.unflatten(1, (L, H, W)).movedim(-1, 1), latents)
    token = torch.arange(L * H * W)
    assert torch.equal(
        tokens[:, token], latents[:, :, token // (H * W), token // W % H, token % W].transpose(1, 2)
    )


@pytest.mark.parametrize("patch, patch_t", [(1, 1), (2, 1), (2, 2)])
def test_packed_log_densities_pool_as_their_latents_do(patch, patch_t):
    each = torch.randn(2, C, 6, H, W)  # of every element, before the mean
    tokens = packed(each, patch, patch_t)
    back = tokens.unflatten(1, (6 // patch_t, H // patch, W // patch)).movedim(-1, 1)
    assert torch.allclose(segments.pool(back, 3), segments.pool(each, 3), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (2, 64, 64)])  # SD3's latents; Flux's tokens
def test_an_image_is_one_segment_its_own_mean(shape):
    each = torch.randn(shape)
    assert torch.allclose(
        segments.pool(each, 1), each.mean(dim=tuple(range(1, each.ndim)))[:, None], atol=1e-6
    )


def test_the_examples_are_short():
    found = re.findall(r"^>>> def \w+.*\n(?:^\.\.\. .*\n)*", SECTION, re.MULTILINE)
    assert len(found) == 6
    for definition in found:
        assert len(definition.splitlines()) <= 20, definition
