"""DDPO against its published step, loss and statistics, written down independently in
float64."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from published import Exact, exact, log_prob, played, ppo, same
from published import Step as Gaussian

from vidrl.algorithms.ddpo import DDPO
from vidrl.diffusion.path import discrete
from vidrl.diffusion.transition import log_density
from vidrl.rewards import Score

LEVELS = torch.linspace(0.98, 0.02, 20, dtype=torch.float64)  # ᾱ of 20 trained levels


class Noise(Exact):
    """The toy as DDPO's model: a variance-preserving path whose network predicts the noise,
    on six of its levels."""

    def __init__(self, **options):
        super().__init__(**options)
        self.path = discrete(LEVELS, "eps")

    def times(self, n):
        return [(i + 1) / 20 for i in range(19, -1, -20 // n)][:n] + [0.0]


def ddim(made, batch, which, eta):
    """ddim_with_logprob.py, with ᾱ = 1 at the end."""
    bar = torch.cat([torch.ones(1, dtype=torch.float64), LEVELS])
    now, then = (bar[(batch[key] * 20).round().long()].view(-1, 1, 1, 1, 1) for key in ("t", "s"))
    eps = made.raw(batch, which)
    x0 = (batch["x"] - (1 - now) ** 0.5 * eps) / now**0.5
    std = eta * (((1 - then) / (1 - now)) * (1 - now / then)) ** 0.5
    return Gaussian(then**0.5 * x0 + (1 - then - std**2) ** 0.5 * eps, std)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("estimator", ["sf", "is"])
def test_the_loss_is_the_published_one(estimator, segments):
    eta = 0.9
    made = played(DDPO(estimator=estimator, eta=eta, steps=5, segments=segments), cls=Noise)
    (batch,) = made.batches
    assert len(batch) == 8 * 4  # the step to 0 draws no noise
    new, old = ddim(made, batch, "live", eta), ddim(made, batch, "old", eta)
    losses, a = [], batch["advantage"]
    for j in range(segments):
        part = slice(j, j + 1) if segments > 1 else slice(None)
        log_p, log_old = log_prob(batch["after"], new, part), log_prob(batch["after"], old, part)
        ratio = torch.exp(log_p - log_old)
        losses.append(
            -a[:, j] * log_p
            if estimator == "sf"
            else ppo(ratio, a[:, j], 1e-4 * math.sqrt(segments))
        )
    same(made.algorithm.loss(made.policy, batch).value, torch.stack(losses).mean(), made.policy)
    step = made.algorithm.step(made.policy, batch)
    density = log_density(step, batch["after"]).mean((1, 2, 3, 4))
    assert torch.allclose(density, log_prob(batch["after"], new), rtol=1e-9)


def test_the_first_gradients_of_the_two_estimators_are_one():
    """∇ρ = ∇ log p where ρ = 1: importance sampling begins as the score function."""
    found = []
    for estimator in ("sf", "is"):
        made = played(DDPO(estimator=estimator, steps=5), moved=0.0)
        (batch,) = made.batches
        found.append(
            torch.autograd.grad(
                made.algorithm.loss(made.policy, batch).value, list(made.policy.weights.values())
            )
        )
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


class Tracker:
    """DDPO's PerPromptStatTracker (stat_tracking.py), from its description: a queue of each
    prompt's last rewards."""

    def __init__(self, size, least):
        self.size, self.least, self.stats = size, least, {}

    def update(self, prompts, rewards):
        made = np.zeros_like(rewards)
        for prompt in np.unique(prompts):
            mine = rewards[prompts == prompt]
            self.stats.setdefault(prompt, deque(maxlen=self.size)).extend(mine)
            among = (
                rewards if len(self.stats[prompt]) < self.least else np.array(self.stats[prompt])
            )
            made[prompts == prompt] = (mine - np.mean(among)) / (np.std(among) + 1e-6)
        return made


def rounds(algorithm, number, seed=0):
    """Rounds of rewards of three prompts, two of them each round, and the advantages that
    the algorithm gives."""
    draw, plan = (
        np.random.default_rng(seed),
        algorithm.plan(algorithm.backbone, 0, torch.Generator()),
    )
    for at in range(number):
        prompts = np.repeat(np.array(["a", "b", "c"])[[at % 3, (at + 1) % 3]], 4)
        rewards = draw.normal(size=8) + (prompts == "a") * 3
        score = Score(torch.tensor(rewards))
        yield (
            prompts,
            rewards,
            algorithm.advantages(score, torch.arange(8) // 4, prompts.tolist(), plan)[:, 0].numpy(),
        )


def ready(**options):
    algorithm = DDPO(**options)
    algorithm.setup(exact(), None, 4)
    return algorithm


def test_advantages_are_those_of_the_published_statistics():
    algorithm, theirs = ready(buffer=10, least=6, max_advantage=100.0), Tracker(10, 6)
    for prompts, rewards, got in rounds(algorithm, 9):
        assert np.allclose(got, theirs.update(prompts, rewards), rtol=1e-12)
    assert {len(kept) for kept in algorithm.past.values()} == {10}


def test_the_statistics_go_on_where_a_checkpoint_left_them(tmp_path):
    """Bit-exact: a state from a file gives what the run that was not interrupted has; an
    empty one does not."""
    whole = [got for *_, got in rounds(ready(buffer=10, least=6), 6)]
    first = ready(buffer=10, least=6)
    for _ in rounds(first, 3):
        pass
    torch.save(first.state(), tmp_path / "state.pt")
    second, forgetful = ready(buffer=10, least=6), ready(buffer=10, least=6)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    forgetful.load_state({})

    def later(algorithm):
        draw, plan, made = (
            np.random.default_rng(0),
            algorithm.plan(algorithm.backbone, 0, torch.Generator()),
            [],
        )
        for at in range(6):
            prompts = np.repeat(np.array(["a", "b", "c"])[[at % 3, (at + 1) % 3]], 4)
            rewards = draw.normal(size=8) + (prompts == "a") * 3
            if at >= 3:
                score = Score(torch.tensor(rewards))
                made.append(
                    algorithm.advantages(score, torch.arange(8) // 4, prompts.tolist(), plan)[
                        :, 0
                    ].numpy()
                )
        return made

    assert all((a == b).all() for a, b in zip(later(second), whole[3:], strict=True))
    assert not all(np.allclose(a, b) for a, b in zip(later(forgetful), whole[3:], strict=True))


def test_segments_have_means_of_their_own_and_one_std():
    """By hand, of two segments that a curve gives apart: shares of the value, deviations,
    their root mean square."""
    algorithm = ready(segments=3, max_advantage=100.0)
    plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
    curve = torch.zeros(4, 9, dtype=torch.float64)
    # the last segment alone: 0 or 9 · 4/9
    curve[:, 5:] = torch.tensor([[0.0], [9.0], [0.0], [9.0]])
    got = algorithm.advantages(
        Score(curve.mean(1), curve), torch.zeros(4, dtype=torch.long), ["a"] * 4, plan
    )
    std = math.sqrt((0 + 0 + 2.0**2) / 3) + 1e-6  # variances 0, 0 and 4 of 0, 0 and (0, 4, 0, 4)
    assert torch.allclose(
        got[:, 2], torch.tensor([-2.0, 2.0, -2.0, 2.0], dtype=torch.float64) / std, rtol=1e-12
    )
    assert torch.equal(got[:, :2], torch.zeros(4, 2, dtype=torch.float64))


def test_an_unscored_clip_is_not_remembered_and_moves_nobody():
    algorithm, other = ready(least=2), ready(least=2)
    plan, nan = algorithm.plan(algorithm.backbone, 0, torch.Generator()), math.nan
    group = torch.zeros(4, dtype=torch.long)
    got = algorithm.advantages(Score(torch.tensor([1.0, nan, 3.0, nan])), group, ["a"] * 4, plan)
    few = other.advantages(Score(torch.tensor([1.0, 3.0])), group[:2], ["a"] * 2, plan)
    assert (
        torch.equal(got[[0, 2]], few)
        and got[[1, 3]].tolist() == [[0.0], [0.0]]
        and algorithm.past == other.past
    )


def test_advantages_are_bounded():
    algorithm = ready(max_advantage=0.5)
    plan = algorithm.plan(algorithm.backbone, 0, torch.Generator())
    made = algorithm.advantages(
        Score(torch.tensor([1.0, 2.0, 9.0])), torch.zeros(3, dtype=torch.long), ["a"] * 3, plan
    )
    assert float(made.abs().max()) == 0.5


@pytest.mark.parametrize(
    "options, said",
    [
        ({"estimator": "sf", "updates": 2}, 'updates = 1 with estimator = "sf", got 2'),
        ({"least": 40}, "2 ≤ least ≤ buffer"),
        ({"least": 1}, "2 ≤ least"),
        ({"max_advantage": 0.0}, "max_advantage > 0"),
        ({"eta": 0.0}, "eta > 0"),
    ],
)
def test_options_that_contradict_each_other_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        DDPO(**options)


def test_too_much_noise_for_ddim_is_told_before_any_sampling():
    with pytest.raises(ValueError, match="at most 1 for ddim and cps, got 1.5"):
        DDPO(eta=1.5).setup(exact(), None, 4)
        DDPO(eta=1.5).plan(exact().backbone, 0, torch.Generator())
