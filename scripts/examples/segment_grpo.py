"""Segment-level GRPO in one file: a tiny video model learns to make bright and steady clips.

    python scripts/examples/segment_grpo.py

The file is meant to be read from top to bottom. It imports one thing of vidrl, the model: a
random denoiser of a few hundred weights. The library does the same work for real models, and
the text of each function names the place where vidrl has it.

Letters: N clips of a round, K denoising steps, C channels, L latent frames, F pixel frames,
S segments. A latent clip is (C, L, h, w). A time t runs from 1 (pure noise) to 0 (a clean
clip).
"""

import math

import torch
from torch import Tensor

from vidrl.backbones.toy import Toy

PROMPTS = ["a cat", "a dog", "a cow", "a hen"]
GROUP = 16  # clips of one prompt in a round, which are compared with each other
STEPS = 6  # denoising steps
ETA = 0.5  # how much noise a step adds; 0 would leave nothing to explore
CLIP = 0.02  # how far the probability of a whole clip may move in a round
ROUNDS = 25  # in each round clips are sampled and scored
UPDATES = 2  # optimiser steps in each round
RATE = 1e-2  # learning rate


def step_gaussian(model: Toy, x: Tensor, t: float, s: float, cond: dict) -> tuple[Tensor, float]:
    """Return the mean and std of x_s, one denoising step after x_t (`transition.step`).

    The network predicts v = ε − x0, where x_t = (1 − t) x0 + t ε. The prediction therefore
    implies an estimate of the clean clip, x0 = x_t − t v, and of the noise, ε = x_t + (1 − t) v.
    The step is the Gaussian x_s ~ N((1 − s) x0 + keep ε, std²).
    """
    v = model.predict(x, torch.full((len(x),), t), cond)
    x0, noise = x - t * v, x + (1 - t) * v
    # The step adds fresh noise of this size, so that the next latent is random and has a
    # density. The last step ends in the clean clip, so it adds none.
    std = ETA * math.sqrt(t - s) if s > 0 else 0.0
    # The fresh noise takes the place of a part of the predicted noise: x_s holds as much
    # noise as the schedule expects at time s.
    keep = s - std**2 / (2 * t)
    return (1 - s) * x0 + keep * noise, std


def log_density(x: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return log N(x; mean, std²) of each segment, (N, S).

    A diagonal Gaussian is a product over its elements, so that the log-density of a clip is
    exactly the sum over its latent frames. Here each latent frame is a segment. The mean over a
    segment's elements, instead of the sum, keeps the ratio of a large clip near 1
    (`transition.log_density`, `segments.pool`).
    """
    each = -((x - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2
    return each.mean((1, 3, 4))


@torch.no_grad()
def rollout(model: Toy, prompts: list[str], draw: torch.Generator) -> tuple[Tensor, list]:
    """Sample clips (N, F, 3, H, W), and keep what training needs of each random step.

    Of each step, x_t, x_s, t, s and the log-density are kept (`rollout.sample`).
    """
    times = model.times(STEPS)
    cond = model.encode(prompts)
    x = torch.randn(len(prompts), *model.shape, generator=draw)
    kept = []
    for t, s in zip(times, times[1:], strict=False):
        mean, std = step_gaussian(model, x, t, s, cond)
        after = mean + std * torch.randn(x.shape, generator=draw)
        if std > 0:  # a step without noise has no density, so it is not trained
            kept.append((x, after, t, s, log_density(after, mean, std)))
        x = after
    return model.decode(x), kept


def reward(clips: Tensor) -> Tensor:
    """Return one number for each frame, (N, F): its brightness less its change.

    The change is the absolute difference of the brightness from the frame before. A real reward
    is `vidrl.rewards.default()`, whose `score.frames` is such a curve too.
    """
    light = clips.mean((2, 3, 4))
    change = torch.cat([torch.zeros(len(light), 1), light.diff(dim=1).abs()], 1)
    return light - change


def segment_advantages(curve: Tensor, group: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    """Return how much better each segment did than the same segment of other clips, (N, S).

    The other clips are those of the same prompt, the group. A segment's credit is the sum of
    its frames' rewards over F, so that the credits of a clip sum to its reward
    (`credit.advantages` with the estimator "segment").
    """
    frames = curve.shape[1]
    credit = torch.stack([curve[:, a:b].sum(1) / frames for a, b in spans], 1)
    advantage = torch.zeros_like(credit)
    for number in group.unique():
        own = credit[group == number]
        # The mean of the *other* clips does not depend on a clip's own noise. Subtracting it
        # therefore lowers the variance of the gradient and leaves its expectation unchanged.
        others = (own.sum(0) - own) / (len(own) - 1)
        advantage[group == number] = own - others
    # All segments are divided by one number. A number for each segment would enlarge the
    # advantages of segments in which all clips are alike.
    return advantage / advantage.square().mean().sqrt().clamp(min=1e-8)


def clipped_loss(new: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    """Return PPO's clipped loss, with one ratio and one advantage for each segment.

    It is the mean of −min(ρ A, clip(ρ, 1 ± ε√S) A) with ρ = exp(new − old) (`grpo.clipped`).
    """
    ratio = (new - old).exp()
    # A mean over fewer elements varies more. The range grows by √S, so that as many ratios
    # are clipped as with a single ratio for the whole clip.
    limit = CLIP * math.sqrt(new.shape[1])
    inside = ratio.clamp(1 - limit, 1 + limit)
    # The smaller of the two values: a clip gains nothing from moving beyond the range, and
    # a clip that became worse is still pulled back.
    return -torch.minimum(ratio * advantage, inside * advantage).mean()


def train(seed: int = 0) -> list[float]:
    """Train the model, and return the mean reward of each round's clips."""
    draw = torch.Generator().manual_seed(seed)
    model = Toy.tiny()
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=RATE, weight_decay=0.0)
    prompts = [prompt for prompt in PROMPTS for _ in range(GROUP)]
    group = torch.arange(len(PROMPTS)).repeat_interleave(GROUP)
    cond = model.encode(prompts)
    # The decoder makes one pixel frame of the first latent frame, and four of each later one.
    spans = model.frame_map
    means = []
    for number in range(ROUNDS):
        clips, kept = rollout(model, prompts, draw)
        curve = reward(clips)
        advantage = segment_advantages(curve, group, spans)
        for _ in range(UPDATES):
            optimizer.zero_grad()
            for x, after, t, s, old in kept:
                mean, std = step_gaussian(model, x, t, s, cond)
                # Before the first update `new` equals `old`, and every ratio is 1. If that
                # does not hold, sampling and training do not run the same model: stop and
                # find out why.
                loss = clipped_loss(log_density(after, mean, std), old, advantage)
                (loss / len(kept)).backward()
            torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
            optimizer.step()
        means.append(float(curve.mean()))
        if number % 4 == 0:
            print(f"round {number:2d}   mean reward {means[-1]:.3f}")
    return means


if __name__ == "__main__":
    means = train()
    print(f"the mean reward rose from {means[0]:.3f} to {means[-1]:.3f}")
