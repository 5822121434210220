"""Every family reaches the optimum that is known of it, on a flow between Gaussians;
`gaussian.py` has the notation.

With the KL's weight τ the best distribution is p*(x) ∝ p(x) exp(g · x/τ). Of p = N(m, s² I)
it is N(m + s² g/τ, s² I).
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from gaussian import MEAN, REWARD, Chain, Gaussian, Linear, kl_to, latents, scored

from vidrl import plugin
from vidrl.algorithms.base import Algorithm, Experience
from vidrl.rewards import Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Rollout, draws, sample, tree

CLOSE = 0.01  # nats; the optima below lie 0.2 to 0.5 nats from where training begins
TAU = 1.25


def made(name: str, backbone: Gaussian, group: int, **options) -> tuple[Algorithm, Policy]:
    algorithm, policy = (
        plugin.load("algorithms", name, **own_options(name, options)),
        Policy(backbone, full=True),
    )
    algorithm.setup(policy, Linear(), group)
    return algorithm, policy


def own_options(name: str, options: dict) -> dict:
    """Those that the algorithm has: the families below share their options but for a
    few."""
    own = {
        field.name for field in dataclasses.fields(plugin.find("algorithms", name)) if field.init
    }
    return {key: value for key, value in options.items() if key in own}


def rolled(algorithm: Algorithm, policy: Policy, n: int, group: int, round: int) -> Rollout:
    """n clips by the algorithm's own plan."""
    plan = algorithm.plan(policy.backbone, round, draws(0, [("plan", round)])[0])
    names = [(round, *divmod(i, group)) for i in range(n)]
    generators = draws(0, [("clips", round)]) * n
    with policy.using(plan.weights):
        return sample(
            policy, policy.backbone.encode([""] * n), generators, plan, tree(plan, 0, names, group)
        )


def given(algorithm: Algorithm, policy: Policy, x: torch.Tensor, round: int = 0) -> Rollout:
    """Clips x (N, 2) as if they were sampled."""
    plan = algorithm.plan(policy.backbone, round, draws(0, [("plan", round)])[0])
    empty = x.new_zeros(len(x), 0)
    return Rollout(policy.backbone.encode([""] * len(x)), latents(x), empty, empty, empty, plan)


def lived(
    algorithm: Algorithm, rollout: Rollout, group: int, round: int = 0, score=None
) -> Experience:
    """A round of these clips, scored by g · x0 or as given."""
    n, score = len(rollout), score or scored(rollout.latents.reshape(-1, 2))
    groups, prompts = torch.arange(n) // group, [str(i // group) for i in range(n)]
    advantage = algorithm.advantages(score, groups, prompts, rollout.plan)
    return Experience(rollout, advantage, groups, prompts, torch.arange(n), 0, round)


def fit(
    algorithm: Algorithm,
    policy: Policy,
    rounds: Iterable[Experience],
    total: int,
    rate: float = 0.1,
) -> None:
    """Adam over the rounds' minibatches, its rate falling from `rate` to 0 over `total`
    rounds."""
    weights = list(policy.weights.values())
    optimiser = torch.optim.Adam(weights, lr=rate)
    for number, seen in enumerate(rounds):
        optimiser.param_groups[0]["lr"] = rate * (1 - number / total)
        for batch in algorithm.minibatches(seen):
            optimiser.zero_grad()
            algorithm.loss(policy, batch).value.backward()
            optimiser.step()


def renoised(seen: Experience, total: int) -> Iterator[Experience]:
    """One round's clips over and over, with other noise: what its loss has as optimum, not
    one step towards it."""
    return (replace(seen, round=number) for number in range(total))


def moments(policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the distribution whose velocity the policy has."""
    return policy.weights["mean"].detach(), (2 * policy.weights["log_std"].detach()).exp()


def drawn(policy: Policy, n: int, seed: int = 0) -> torch.Tensor:
    """Clips of the distribution whose velocity the policy has, (n, 2)."""
    mean, variance = moments(policy)
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    # their moments are exact
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov())).T
    return mean + variance.sqrt() * z


def generated(policy: Policy, n: int = 20_000, steps: int = 100) -> torch.Tensor:
    """Clips by the deterministic sampler, (n, 2)."""
    backbone = policy.backbone
    with torch.no_grad():
        made = backbone.generate(
            backbone.noise(draws(1, [("end",)]) * n), backbone.encode([""] * n), steps
        )
    return made.reshape(-1, 2)


# --- policy gradients

# The first step of ddim with η = 1 forgets the first noise, so that all of a clip is drawn
# by steps.
MEMORYLESS = {
    "sampler": "ddim",
    "eta": 1.0,
    "steps": 6,
    "updates": 1,
    "max_advantage": 100.0,
    "scale": "none",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "dpok", "rloo"])
def test_a_policy_gradient_with_kl_reaches_the_tilted_distribution(name):
    """The best shift moves a step's end by later · std² g/τ, and so the clip's mean by Σ
    later² std² g/τ = Var(p) g/τ.

    p are the base's clips by this sampler. A round has one update, so that every ratio is 1
    and no clip range binds; and the KL of a step is the same wherever it starts, so that
    the gradient which these losses leave out, that of the visited x, is zero.
    """
    algorithm, policy = made(name, Gaussian(steps=6), 256, beta=TAU, **MEMORYLESS)
    chain = Chain.of(policy.backbone.times(6), "ddim", 1.0)
    assert chain.started == pytest.approx(0, abs=1e-12)
    rounds = (lived(algorithm, rolled(algorithm, policy, 512, 256, r), 256, r) for r in range(80))
    fit(algorithm, policy, rounds, 80)
    end = rolled(algorithm, policy, 20_480, 256, 1000).latents.reshape(-1, 2)
    best = MEAN + chain.drawn * REWARD / TAU
    assert kl_to(end, MEAN, chain.drawn) > 0.1 and kl_to(end, best, chain.drawn) < CLOSE
    learnt = policy.weights["shift"].detach()[:5].double() * chain.pull[:5, None]
    right = (chain.later * chain.std**2)[:5, None] * REWARD.double() / TAU
    assert torch.allclose(learnt, right, atol=0.03)  # of 0.14 at most


PLAIN = {
    "grpo": {},
    "rloo": {},
    "dpok": {"beta": 1e-9},
    "ddpo": {"buffer": 256},
    "ddpo-sf": {"buffer": 256, "estimator": "sf"},
}
TREE = {"at": [0, 2, 4], "factors": [2, 2, 2]}


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("name", PLAIN)
def test_the_first_gradient_is_that_of_the_expected_reward(name, segments):
    """∂E[g · x0]/∂shift_k = pull_k later_k g, which the loss has negated, over K steps and
    2 elements a clip.

    DDPO divides by the std of a prompt's rewards, √Var(p) |g|; by segment, by the root of
    the mean variance of what the segments earned, √(Var(p) |g|²/2).
    """
    options = MEMORYLESS | PLAIN[name] | {"segments": segments}
    algorithm, policy = made(name.removesuffix("-sf"), Gaussian(steps=6), 256, **options)
    chain = Chain.of(policy.backbone.times(6), "ddim", 1.0)
    unit = math.sqrt(chain.drawn / segments) if name.startswith("ddpo") else 1.0
    seen = lived(algorithm, rolled(algorithm, policy, 12_288, 256, 0), 256)
    found = gradient(algorithm, policy, seen)["shift"].double()
    right = -(chain.pull * chain.later)[:5, None] * REWARD.double() / 10 / unit
    assert (
        float((found[:5] - right).norm() / right.norm()) < 0.08 and float(found[5].abs().max()) == 0
    )


@pytest.mark.parametrize("baseline", ["depth", "siblings"])
def test_the_first_gradient_of_a_tree_is_that_of_the_expected_reward(baseline):
    """Each step's share less what its own node has in the mean that it is compared with: 1
    − 1/nodes.

    In a tree of three forks into two the steps lie at depths of 2, 2, 4, 4 and 8 nodes;
    siblings are always two.
    """
    algorithm, policy = made("branch", Gaussian(steps=6), 8, baseline=baseline, **MEMORYLESS | TREE)
    chain = Chain.of(policy.backbone.times(6), "ddim", 1.0)
    nodes = torch.tensor([2, 2, 4, 4, 8] if baseline == "depth" else [2] * 5).double()
    seen = lived(algorithm, rolled(algorithm, policy, 8000, 8, 0), 8)
    found = gradient(algorithm, policy, seen)["shift"].double()[:5]
    right = -((chain.pull * chain.later)[:5] * (1 - 1 / nodes))[:, None] * REWARD.double() / 10
    assert float((found - right).norm() / right.norm()) < 0.1


def gradient(algorithm: Algorithm, policy: Policy, seen: Experience) -> dict[str, torch.Tensor]:
    """The gradient of a round's only minibatch, by weight."""
    (batch,) = algorithm.minibatches(seen)
    found = torch.autograd.grad(algorithm.loss(policy, batch).value, list(policy.weights.values()))
    return dict(zip(policy.weights, found, strict=True))


# --- the forward process

# One noise a sample, each its own; advantages in the reward's unit. The reward is a sum
# over frames, and the frames are independent, so that a segment's own advantage has the
# same optimum as the clip's.
FORWARD = {"scale": "none", "max_advantage": 100.0, "updates": 1, "noises": 1, "same_noise": False}


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2])
def test_a_round_of_nft_tilts_by_the_advantage(segments):
    """The minimiser of a round is v_old + Cov(A, v | x_t)/(β A_max) = v_old − λ s² g/(β
    A_max): p exp(A/(β A_max)).

    That is exact without the weights 1/w±. With them, where x̂0⁺ is displaced by y standard
    deviations of x0 given x_t, a displacement is wrong by about y²/3 of itself; here y ≤
    1/A_max.
    """
    top = 5.0
    algorithm, policy = made(
        "nft",
        Gaussian(),
        2048,
        **FORWARD | {"segments": segments, "beta": TAU / top, "kl_beta": 0.0, "max_advantage": top},
    )
    seen = lived(algorithm, given(algorithm, policy, drawn(policy, 2048)), 2048)
    fit(algorithm, policy, renoised(seen, 60), 60)
    reached(policy, MEAN + REWARD / TAU, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2])
def test_awm_with_kl_ends_at_the_tilted_distribution(segments):
    """There its own clips push as hard as the KL pulls: −Cov(A, v | x_t) + τ (v − v_ref) =
    0, or v = v_ref − λ s² g/τ.

    A round has one update, so that every ratio is 1 and no clip range binds.
    """
    algorithm, policy = made(
        "awm",
        Gaussian(),
        1024,
        **FORWARD | {"segments": segments, "kl_beta": TAU, "ema_kl_beta": 0.0},
    )
    fit(algorithm, policy, own(algorithm, policy, 1024, 60), 60)
    reached(policy, MEAN + REWARD / TAU, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2])
def test_one_exact_projection_of_rwr_is_the_tilted_distribution(segments):
    """Matching with the weights exp(A/τ) matches the distribution p exp(A/τ)."""
    algorithm, policy = made(
        "rwr", Gaussian(), 4096, **FORWARD | {"segments": segments, "beta": 1 / TAU}
    )
    seen = lived(algorithm, given(algorithm, policy, drawn(policy, 4096)), 4096)
    fit(algorithm, policy, renoised(seen, 60), 60)
    reached(policy, MEAN + REWARD / TAU, 1.0)


@pytest.mark.slow
def test_rwr_of_a_quadratic_reward_narrows_the_distribution_too():
    """Of r = −½ ‖x − c‖² the optimum p exp(r/τ) has the precision 1/s² + 1/τ; its mean
    weighs m and c by these."""
    centre, precision = torch.tensor([1.5, 0.5]), 1 + 1 / TAU
    algorithm, policy = made("rwr", Gaussian(), 4096, **FORWARD | {"beta": 1 / TAU})
    x = drawn(policy, 4096)
    score = Score(-0.5 * (x - centre).square().sum(1))
    seen = lived(algorithm, given(algorithm, policy, x), 4096, score=score)
    fit(algorithm, policy, renoised(seen, 60), 60)
    reached(policy, (MEAN + centre / TAU) / precision, 1 / precision)


def own(algorithm: Algorithm, policy: Policy, n: int, total: int) -> Iterator[Experience]:
    """Rounds of one group of n clips of the policy's own distribution."""
    for round in range(total):
        yield lived(algorithm, given(algorithm, policy, drawn(policy, n, round), round), n, round)
        algorithm.after(policy, round)


def reached(policy: Policy, mean: torch.Tensor, variance: float) -> None:
    """The policy's clips are CLOSE to a Gaussian from which the base's are not."""
    base = MEAN + torch.randn(20_000, 2, generator=torch.Generator().manual_seed(9))
    assert kl_to(base, mean, variance) > 0.15
    assert kl_to(generated(policy), mean, variance) < CLOSE, moments(policy)


@pytest.mark.slow
def test_supervised_matching_reaches_the_clips():
    """The minimiser is the velocity of the clips' own distribution, here N((−0.5, 1), 0.6²
    I)."""
    there = torch.tensor([-0.5, 1.0])
    algorithm, policy = made("sft", Gaussian(), 2048, **FORWARD)
    x = there + 0.6 * (drawn(policy, 2048) - MEAN)
    fit(algorithm, policy, renoised(lived(algorithm, given(algorithm, policy, x), 2048), 80), 80)
    reached(policy, there, 0.36)


# --- preferences

HALF = {"low": 0.499, "high": 0.501, "noises": 1, "updates": 1}  # at t = ½, and with s = 1, λ is 1


@pytest.mark.slow
def test_dpo_reaches_the_optimum_of_bradley_and_terry():
    """Labels by P(w ≻ l) = σ(g · (w − l)): each clip's reward plus a Gumbel variable is
    compared.

    Under one noise a pair's margin is (β/2) λ² δ · (w − l), since a clip has two elements.
    So the likelihood is greatest at δ = 2 g/(β λ²): the distribution p exp(g · x/τ) with τ
    = β λ² s²/2.
    """
    algorithm, policy = made("dpo", Gaussian(), 2, beta=2 * TAU, **HALF)
    x = drawn(policy, 8192)
    luck = (
        -torch.rand(len(x), generator=torch.Generator().manual_seed(2))
        .clamp(min=1e-9)
        .log()
        .neg()
        .log()
    )
    better = (x @ REWARD + luck).view(-1, 2).argmax(1)
    first = 2 * torch.arange(len(better))
    pairs = torch.stack([first + better, first + 1 - better], 1)
    seen = lived(algorithm, given(algorithm, policy, x), 2)
    seen = replace(seen, pairs=pairs, labels=torch.ones(len(pairs), 1))
    fit(algorithm, policy, renoised(seen, 120), 120)
    reached(policy, MEAN + REWARD / TAU, 1.0)


def test_the_first_gradient_of_kto_is_towards_the_desirable():
    """−β/4 E[h ∂ρ/∂m] with ∂ρ/∂m = λ² (x − m) in the mean over noise, and E[sign(g · (x −
    m)) (x − m)] = s √(2/π) g."""
    beta = 3.0
    algorithm, policy = made("kto", Gaussian(), 1000, beta=beta, scale="none", **HALF)
    seen = lived(algorithm, given(algorithm, policy, drawn(policy, 20_000)), 1000)
    found, right = (
        gradient(algorithm, policy, seen)["mean"],
        -beta / 4 * math.sqrt(2 / math.pi) * REWARD,
    )
    assert float((found - right).norm() / right.norm()) < 0.05


# steps so small that no ratio is clipped
LABELLED = MEMORYLESS | {"temperature": 20.0, "clip_range": 0.9}


def test_the_first_gradient_of_d3po_is_that_of_the_expected_reward():
    """−τ/4 (pull/std)_k E[sign(R) Δε_k] of K steps; R = Σ_j a_j g · Δε_j decides, with a_j
    = later_j std_j.

    E[sign(R) Δε_k] = 2 a_k g/√(π V) with V = Σ a_j² = Var(p); so it is the gradient of E[g
    · x0], times a number.
    """
    algorithm, policy = made("d3po", Gaussian(steps=6), 2, **LABELLED)
    chain = Chain.of(policy.backbone.times(6), "ddim", 1.0)
    seen = lived(algorithm, rolled(algorithm, policy, 12_288, 2, 0), 2)
    found = gradient(algorithm, policy, seen)["shift"].double()[:5]
    right = (
        -20.0
        / (2 * math.sqrt(math.pi * chain.drawn))
        * (chain.pull * chain.later)[:5, None]
        * REWARD.double()
        / 5
    )
    assert float((found - right).norm() / right.norm()) < 0.15  # 0.09 with these 6144 pairs


def likeliest(a: float, total: float) -> float:
    """The c that maximises E log σ(y c v): v ~ N(0, 2), and y = ±1 is +1 with probability
    Φ(a v/√(2 (total − a²)))."""
    v = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    weight = torch.exp(-(v**2) / 4)
    chance = torch.special.ndtr(a * v / math.sqrt(2 * (total - a**2)))
    low, high = 0.0, 100.0
    for _ in range(60):
        c = (low + high) / 2
        slope = (weight * v * (chance - torch.sigmoid(c * v))).sum()
        low, high = (c, high) if slope > 0 else (low, c)
    return c


@pytest.mark.slow
def test_d3po_ends_where_each_step_alone_explains_who_won_and_not_at_the_tilted_distribution():
    """D3PO cannot reach p exp(g · x/τ): it hears who won but not by how much, and regresses
    that on one step at a time.

    Step k's margin is c_k g · Δε_k with c_k = ½ τ pull_k shift_k/std_k, and it is fitted,
    as a logistic regression, to labels whose chance is Φ(a_k g · Δε_k/√(2 (V − a_k²))),
    because the other steps decide the rest. So shift_k ends at 2 c_k std_k g/(τ pull_k),
    whatever the reward's unit. The tilted distribution would have a_k in place of c_k, up
    to one factor for all steps. Here a = 0.19, 0.37, 0.43, 0.35, 0.18 and c = 0.32, 0.70,
    0.90, 0.65, 0.29: c/a lies between 1.64 at the step that decides least and 2.08 at the
    one that decides most.
    """
    algorithm, policy = made("d3po", Gaussian(steps=6), 2, **LABELLED)
    chain = Chain.of(policy.backbone.times(6), "ddim", 1.0)
    a = (chain.later * chain.std)[:5]
    c = torch.tensor([likeliest(float(one), chain.drawn) for one in a], dtype=torch.float64)
    rounds = (lived(algorithm, rolled(algorithm, policy, 2048, 2, r), 2, r) for r in range(120))
    fit(algorithm, policy, rounds, 120, rate=0.02)
    found = (
        policy.weights["shift"].detach()[:5].double() * (chain.pull / chain.std)[:5, None] * 10
    ) @ REWARD.double()
    assert torch.allclose(found, c, rtol=0, atol=0.04), (found, c)  # the noise of the last rounds
    tilted = a * (found @ a) / (a @ a)  # the nearest of the tilted distributions
    assert float((found - tilted).abs().max()) > 0.06, (found, tilted)
    assert (c / a).aminmax() == (pytest.approx(1.644, abs=1e-3), pytest.approx(2.082, abs=1e-3))


# --- through the reward


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 5])
def test_a_reward_gradient_with_a_penalty_reaches_the_best_shift(last):
    """−R + β Σ_k ‖shift_k‖²/2 is least at shift_k = pull_k later_k g/β. No step draws: it
    is no tilted distribution."""
    beta, steps = 2.0, 5
    options = {"steps": steps, "last": last, "beta": beta, "updates": 1}
    algorithm, policy = made("reward_backprop", Gaussian(steps=steps), 8, **options)
    chain = Chain.of(policy.backbone.times(steps), "ode", 0.0)
    rounds = (lived(algorithm, rolled(algorithm, policy, 8, 8, r), 8, r) for r in range(80))
    fit(algorithm, policy, rounds, 80)
    right = (chain.pull * chain.later)[:, None] * REWARD.double() / beta
    right[: steps - last] = 0
    assert torch.allclose(policy.weights["shift"].detach().double(), right, atol=1e-3)
