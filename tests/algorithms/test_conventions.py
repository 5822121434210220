"""Conventions of other trainers, written out from their public formulas, against the
recipes of docs/guides/coming_from.md.

On equal tensors each recipe's advantages, ratios, KL, loss and gradients are the host's.
Flow-GRPO: yifan123/flow_grpo, scripts/train_sd3.py, flow_grpo/stat_tracking.py and
diffusers_patch/sd3_sde_with_logprob.py. DanceGRPO: XueZeyue/DanceGRPO,
fastvideo/train_grpo_hunyuan.py. Flow-Factory: X-GenGroup/Flow-Factory, trainers/grpo.py and
advantage/advantage_processor.py. MixGRPO: arXiv 2507.21802, algorithm 1.
"""

import re
import tomllib
from math import log, pi
from pathlib import Path

import pytest
import torch
from toys import Brightness, credited, experience

from vidrl import config
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.rewards import Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample, tree

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "coming_from.md").read_text()
RECIPES = [
    made
    for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    if (made := tomllib.loads(text))["algorithm"]["name"] == "grpo"
]
HOSTS = {
    name: made["algorithm"]["options"]
    for name, made in zip(
        ("flow_grpo", "dance_grpo", "mix_grpo", "flow_factory"), RECIPES, strict=True
    )
}
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
REWARDS = torch.tensor([0.1, 0.4, 0.3, 2.0, 2.6, 2.1], dtype=torch.float64)
SPANS = [(0, 9)]


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param


def algorithm(host, **more):
    every_step = {"window": 0, "window_stride": 1, "window_schedule": "progressive"}
    asked = HOSTS[host] | {"steps": 6, "updates": 1, "train_steps": 0} | every_step | more
    # without a KL there is none to measure
    return GRPO(**(asked if asked.get("beta") else asked | {"kl": "step"}))


def advantages(host):
    """The host's advantages of six clips of two prompts, before they are clamped."""
    made = torch.zeros(6, dtype=torch.float64)
    for prompt in (0, 1):
        mine = REWARDS[prompt == GROUP]
        std = {
            "flow_grpo": REWARDS.std(unbiased=False) + 1e-4,
            "mix_grpo": mine.std() + 1e-8,
            "dance_grpo": mine.std() + 1e-8,
            "flow_factory": REWARDS.std(unbiased=False).clamp(min=1e-6),
        }[host]
        made[prompt == GROUP] = (mine - mine.mean()) / std
    return made


def test_the_advantages_are_the_hosts(host):
    ours = algorithm(host)
    plan = ours.plan(Toy.tiny(), 0, torch.Generator())
    got = credited(
        ours, Score(REWARDS, REWARDS[:, None].expand(-1, 9)), GROUP, plan, Toy.tiny().frame_map
    )
    assert got.shape == (6, 1) and torch.allclose(got[:, 0], advantages(host), rtol=1e-12, atol=0)


def scheduler_step(host, raw, x, t, s, second):
    """(mean, g, std of the step) as the host's scheduler writes them down, (n, 1, 1, 1,
    1)."""
    sigma, dt = t.view(-1, 1, 1, 1, 1), (s - t).view(-1, 1, 1, 1, 1)
    if host == "dance_grpo":
        eta = 0.3
        score = -(x - (x - sigma * raw) * (1 - sigma)) / sigma**2
        return x + dt * raw - 0.5 * eta**2 * score * dt, eta, eta * (-dt).sqrt()
    g = torch.sqrt(sigma / (1 - torch.where(sigma == 1, second, sigma))) * 0.7
    mean = x * (1 + g**2 / (2 * sigma) * dt) + raw * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, g, g * (-dt).sqrt()


def log_prob(after, mean, std):
    return (-((after - mean) ** 2) / (2 * std**2) - torch.log(std) - log(2 * pi) / 2).mean(
        dim=(1, 2, 3, 4)
    )


def host_loss(host, batch, raw, old_raw, base_raw, beta):
    """(loss, ratios, KL) of a minibatch by the host's loop."""
    second = torch.tensor(batch.plan.times[1], dtype=torch.float64)
    x, after, a = batch["x"].double(), batch["after"].double(), batch["advantage"][:, 0].double()
    step = lambda v: scheduler_step(host, v, x, batch["t"], batch["s"], second)  # noqa: E731
    (mean, g, std), (old, _, _), (base, _, _) = step(raw), step(old_raw), step(base_raw)
    ratio = torch.exp(log_prob(after, mean, std) - log_prob(after, old, std))
    limit = 1e-4
    loss = torch.mean(torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - limit, 1 + limit)))
    kl = (
        torch.mean((raw - base_raw) ** 2)
        if host == "flow_factory"
        else torch.mean((mean - base) ** 2 / (2 * g**2))
    )
    return loss + beta * kl, ratio, kl


def exact():
    """A policy of float64, so that two ways of writing one formula agree to the digit."""
    toy = Toy(seed=0)
    toy.network.double()
    toy.noise = lambda generators: Toy.noise(toy, generators).double()
    policy = Policy(toy, full=True)
    toy.network.double()
    policy.remember("reference")
    return policy


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_ratios_kl_loss_and_gradients_are_the_hosts(host, beta):
    if beta and host in ("dance_grpo", "mix_grpo"):
        pytest.skip("it has no KL")
    ours, policy, old, base = algorithm(host, beta=beta), *(exact() for _ in range(3))
    cond = {"text": policy.backbone.encode([f"{i}" for i in range(6)])["text"].double()}
    plan = ours.plan(policy.backbone, 0, torch.Generator())
    names = [(0, *divmod(i, 3)) for i in range(6)]
    rollout = sample(policy, cond, draws(0, names), plan, tree(plan, 0, names, 3))
    advantage = credited(
        ours, Score(REWARDS, REWARDS[:, None].expand(-1, 9)), GROUP, plan, Toy.tiny().frame_map
    )
    ours.setup(policy, Brightness(), 3)
    (batch,) = ours.minibatches(experience(rollout, advantage, group=GROUP))
    torch.manual_seed(5)
    for weight in policy.weights.values():
        weight.data += 1e-2 * torch.randn_like(weight)
    raw, base_raw = (p.backbone.predict(batch["x"], batch["t"], batch.cond) for p in (policy, base))
    # a rollout's times are float32
    old_raw = old.backbone.predict(batch["x"], batch["t"].float(), batch.cond)
    theirs, ratio, kl = host_loss(host, batch, raw, old_raw.detach(), base_raw.detach(), beta)
    made = ours.loss(policy, batch)
    assert torch.allclose(made.metrics["ratio"][:, 0], ratio, rtol=1e-9)
    assert 0.1 < float(made.metrics["clip_share"].mean()) <= 1 and float(kl) > 0
    assert float(made.value) == pytest.approx(float(theirs), rel=1e-9, abs=1e-15)
    weights = list(policy.weights.values())
    for mine, other in zip(
        torch.autograd.grad(made.value, weights), torch.autograd.grad(theirs, weights), strict=True
    ):
        assert torch.allclose(mine, other, rtol=1e-7, atol=1e-9 * float(other.abs().max()))


def test_the_kl_of_a_step_is_the_hosts_over_its_length():
    """Of one step of length 1/6, six times the host's: by hand, (μ − μ')²/(2 g² Δt) against
    (μ − μ')²/(2 g²)."""
    from vidrl.diffusion.schedule import divergence_weight

    t, s = (
        torch.tensor([0.5, 0.4], dtype=torch.float64),
        torch.tensor([0.5 - 1 / 6, 0.3], dtype=torch.float64),
    )
    from vidrl.diffusion.path import flow

    made = {
        kl: divergence_weight(flow(), "dance_sde", t, s, 0.3, None, kl)
        for kl in ("step", "time", "mean")
    }
    assert made["step"].tolist() == [1, 1] and made["time"].tolist() == pytest.approx([1 / 6, 0.1])
    assert made["mean"].tolist() == pytest.approx([2 * 0.09 / 6, 2 * 0.09 * 0.1])  # 2 η² (t − s)


def test_the_window_stays_for_an_interval_of_rounds_and_moves_by_one():
    """MixGRPO's algorithm with shift interval τ and stride 1: l ← min(l + 1, last) every τ
    iterations, then again."""
    options = HOSTS["mix_grpo"]
    ours, steps, width, interval = (
        GRPO(**options),
        options["steps"],
        options["window"],
        options["window_stride"],
    )
    last = steps - 1 - width
    expected, at = [], 0
    for round in range(1, 3 * interval * (last + 1)):
        expected.append(tuple(range(at, at + width)))
        if round % interval == 0:
            at = at + 1 if at < last else 0
    got = [ours.plan(Toy.tiny(), r, torch.Generator()).stochastic for r in range(len(expected))]
    assert got == expected


def test_the_unconditional_branch_carries_no_gradient_where_asked():
    """Flow-GRPO detaches it; the velocity is the same, and the gradient is guidance times
    that of the caption's."""
    pytest.importorskip("diffusers", reason="needs vidrl[train]")
    from vidrl.backbones.wan import Wan

    found = {}
    for detached in (False, True):
        wan = Wan.tiny()
        wan.guidance, wan.detach_negative = 4.5, detached
        cond = wan.encode(["a red circle moves left"])
        weight = next(
            p for n, p in wan.network.named_parameters() if n.endswith("attn2.to_v.weight")
        )
        weight.requires_grad_(True)
        x = torch.randn(1, *wan.shape, generator=torch.Generator().manual_seed(0))
        raw = wan.predict(x, torch.tensor([0.5]), cond)
        found[detached] = raw.detach(), torch.autograd.grad(raw.square().sum(), weight)[0]
        wan.guidance = 1.0
        alone = wan.predict(x, torch.tensor([0.5]), cond)
        expected = torch.autograd.grad((2 * raw.detach() * 4.5 * alone).sum(), weight)[0]
    assert torch.allclose(found[False][0], found[True][0], atol=1e-6)
    assert not torch.allclose(found[False][1], found[True][1], rtol=1e-2)
    assert torch.allclose(
        found[True][1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize("scale", ["unbiased", "global"])
def test_scales_of_whole_clips_are_refused_for_segments(scale):
    with pytest.raises(
        ValueError, match="expected scale group, batch or none for credit of segments"
    ):
        GRPO(segments=3, scale=scale)
    GRPO(segments=3, scale=scale, credit="whole")


@pytest.mark.parametrize("made", RECIPES, ids=HOSTS)
def test_the_recipes_are_recipes(made):
    backbone = {
        "options": {"model": "assets/tiny-wan"} | made.get("backbone", {}).get("options", {})
    }
    config.check_plugins(config.build({"run": "x"} | made | {"backbone": backbone}, files=False))
