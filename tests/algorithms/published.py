"""Steps of samplers and losses as their papers and public code write them, in float64, with
none of vidrl's formulas.

Legend: v a prediction, x a latent at the time t, after the latent at the time s < t, dt = s
− t < 0; second is the schedule's level after 1. std is of the whole step.
"""

from math import log, pi
from typing import NamedTuple

import torch
from toys import Brightness, experience

from vidrl.backbones.toy import Toy
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample, tree

OVER = (1, 2, 3, 4)  # the axes of a latent


class Step(NamedTuple):
    mean: torch.Tensor
    std: torch.Tensor  # (n, 1, 1, 1, 1)


def flow_sde(v, x, t, s, second, a):
    """Flow-GRPO, sd3_sde_with_logprob.py: std_dev_t = a √(σ/(1 − σ)), with σ_max for σ
    where σ is 1."""
    sigma, dt = (one.view(-1, 1, 1, 1, 1) for one in (t, s - t))
    g = torch.sqrt(sigma / (1 - torch.where(sigma == 1, torch.full_like(sigma, second), sigma))) * a
    mean = x * (1 + g**2 / (2 * sigma) * dt) + v * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
    return Step(mean, g * torch.sqrt(-dt))


def dance_sde(v, x, t, s, second, eta):
    """DanceGRPO, train_grpo_hunyuan.py: score = −(x − (1 − σ) x0)/σ²."""
    sigma, dt = (one.view(-1, 1, 1, 1, 1) for one in (t, s - t))
    score = -(x - (x - sigma * v) * (1 - sigma)) / sigma**2
    return Step(x + dt * v - 0.5 * eta**2 * score * dt, eta * torch.sqrt(-dt) + 0 * sigma)


SAMPLERS = {"flow_sde": flow_sde, "dance_sde": dance_sde}


def log_prob(after, step, part=slice(None)):
    """Mean over the elements of the latent frames `part`, (n,)."""
    each = -((after - step.mean) ** 2) / (2 * step.std**2) - torch.log(step.std) - log(2 * pi) / 2
    return each[:, :, part].mean(OVER)


def kl(step, other, part=slice(None)):
    """(μ − μ')²/(2 std²), mean over the elements of the latent frames `part`, (n,)."""
    return ((step.mean - other.mean) ** 2 / (2 * step.std**2))[:, :, part].mean(OVER)


def ppo(ratio, a, eps):
    return torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - eps, 1 + eps))


class Exact(Toy):
    """The toy in float64, so that two ways of writing one formula agree to the digit."""

    def noise(self, generators):
        return super().noise(generators).double()

    def encode(self, prompts):
        return {"text": super().encode(prompts)["text"].double()}


def exact(cls=Exact) -> Policy:
    policy = Policy(cls(seed=0), full=True)
    policy.backbone.network.double()
    policy.remember("reference")
    return policy


class Round(NamedTuple):
    """One round of an algorithm on the float64 toy, whose weights have moved since: `raw`
    predicts for a batch."""

    algorithm: object
    policy: Policy
    batches: list
    advantage: torch.Tensor

    def raw(self, batch, which="live"):
        # the rollout was the reference's
        with self.policy.using("reference" if which == "old" else which):
            # a rollout's times are float32
            t = batch["t"].float() if which == "old" else batch["t"]
            raw = self.policy.backbone.predict(batch["x"], t, batch.cond)
        return raw if which == "live" else raw.detach()

    def step(self, batch, which="live"):
        plan = batch.plan
        args = batch["x"], batch["t"], batch["s"], plan.times[1], plan.eta
        return SAMPLERS[plan.sampler](self.raw(batch, which), *args)


def played(algorithm, group=4, n=8, moved=1e-2, advantage=None, cls=Exact) -> Round:
    """Sample n clips in groups, deal them out, and then move the weights a little."""
    policy = exact(cls)
    algorithm.setup(policy, Brightness(), group)
    plan = algorithm.plan(policy.backbone, 0, draws(0, [("plan", 0)])[0])
    names = [(0, *divmod(i, group)) for i in range(n)]
    cond = policy.backbone.encode([f"prompt {i // group}" for i in range(n)])
    rollout = sample(policy, cond, draws(0, names), plan, tree(plan, 0, names, group))
    if advantage is None:
        advantage = torch.linspace(-2, 2, n * plan.segments, dtype=torch.float64).reshape(
            n, plan.segments
        )
    batches = list(
        algorithm.minibatches(experience(rollout, advantage, group=torch.arange(n) // group))
    )
    torch.manual_seed(5)
    for weight in policy.weights.values():
        weight.data += moved * torch.randn_like(weight)
    return Round(algorithm, policy, batches, advantage)


def same(made, theirs, policy, rel=1e-8):
    """Whether a loss is another's, by its value and by its gradient."""
    one, other = (float(loss.detach()) for loss in (made, theirs))
    assert abs(one - other) <= rel * abs(other) + 1e-15, (one, other)
    weights = list(policy.weights.values())
    for mine, other in zip(
        torch.autograd.grad(made, weights), torch.autograd.grad(theirs, weights), strict=True
    ):
        assert float(other.abs().max()) > 0
        assert torch.allclose(mine, other, rtol=1e-6, atol=1e-8 * float(other.abs().max()))
