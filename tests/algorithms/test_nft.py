"""DiffusionNFT: the published loss and its gradient in float64, the old weights, what is
not computed twice."""

import pytest
import torch
from noised import GROUP, N, calls, exact, gradient, move, prediction, recipe_of, round_of, spans

from vidrl.algorithms import _forward
from vidrl.algorithms.nft import NFT


def published(policy, batch, segments, beta, top, kl_beta):
    """Equation 5 of arXiv 2509.16117 with its adaptive weights, written for one segment of
    one row after another."""
    x, v = prediction(policy, batch)
    old, base = prediction(policy, batch, "old")[1], prediction(policy, batch, "reference")[1]
    total = kl_beta * ((v - base) ** 2).mean()
    for i in range(len(batch)):
        t, x0 = float(batch["t"][i]), batch["x0"][i]
        v_plus, v_minus = (1 - beta) * old[i] + beta * v[i], (1 + beta) * old[i] - beta * v[i]
        for j, (share, frames) in enumerate(spans(segments)):
            r = torch.clamp(batch["advantage"][i, j] / top, -1, 1) / 2 + 0.5
            for chance, direction in ((r, v_plus), (1 - r, v_minus)):
                away = ((x[i] - t * direction) - x0)[:, frames]
                w = max(float(away.detach().abs().mean()), 1e-5)
                total = total + share * top / beta * chance * (away**2).mean() / w / len(batch)
    return total


@pytest.mark.parametrize("segments", [1, 2, 5])
@pytest.mark.parametrize("beta, kl_beta", [(1.0, 0.0), (0.1, 0.0), (0.3, 0.05)])
def test_loss_and_gradient_are_the_published_ones(segments, beta, kl_beta):
    algorithm, policy = (
        NFT(steps=4, segments=segments, beta=beta, kl_beta=kl_beta, max_advantage=2.0),
        exact(),
    )
    move(policy, 1, "reference")
    seen = round_of(algorithm, policy)
    move(policy, 2)  # the second update of a round: live is no longer old
    for batch in algorithm.minibatches(seen):
        ours, theirs = (
            algorithm.loss(policy, batch).value,
            published(policy, batch, segments, beta, 2.0, kl_beta),
        )
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-12)
        assert torch.allclose(
            gradient(policy, ours), gradient(policy, theirs), rtol=1e-9, atol=1e-12
        )


def test_the_recipe_for_those_who_come_from_diffusion_nft_is_its_config():
    """config/base.py and config/nft.py: beta 1, train.beta 1e-4, adv_clip_max 5, nine of
    ten times, decay type 1."""
    algorithm, policy = NFT(**recipe_of("nft")), exact()
    move(policy, 1, "reference")
    seen = round_of(algorithm, policy)
    (batch,) = algorithm.minibatches(seen)
    assert seen.rollout.plan.weights == "old" and len(batch) == 9 * N
    ours, theirs = algorithm.loss(policy, batch).value, published(policy, batch, 1, 1.0, 5.0, 1e-4)
    assert torch.allclose(gradient(policy, ours), gradient(policy, theirs), rtol=1e-9, atol=1e-12)
    assert _forward.old_decay(40, algorithm.decay_type) == decay_of_the_public_code(40, 1)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_where_live_is_old_the_gradient_is_that_of_the_weighted_error_whatever_beta(beta):
    """∇L = A ∇‖x̂0 − x0‖²/w: a weighted regression."""
    algorithm, policy = NFT(steps=4, segments=2, beta=beta), exact()
    batch = next(algorithm.minibatches(round_of(algorithm, policy)))
    x, v = prediction(policy, batch)
    away, plain = x - batch["t"].view(-1, 1, 1, 1, 1) * v - batch["x0"], 0
    for j, (share, frames) in enumerate(spans(2)):
        part = away[:, :, frames].flatten(1)
        plain = (
            plain
            + share
            * (batch["advantage"][:, j] * (part**2).mean(1) / part.detach().abs().mean(1)).mean()
        )
    assert torch.allclose(
        gradient(policy, algorithm.loss(policy, batch).value), gradient(policy, plain), atol=1e-12
    )


def test_zero_advantages_give_no_gradient_where_live_is_old_and_pull_back_where_it_is_not():
    algorithm, policy = NFT(steps=4, segments=2), exact()
    seen = round_of(algorithm, policy, torch.zeros(N, 2, dtype=torch.float64))
    batch = next(algorithm.minibatches(seen))
    assert float(gradient(policy, algorithm.loss(policy, batch).value).abs().max()) < 1e-14
    move(policy, 3)
    before = [w.detach().clone() for w in policy.weights.values()]
    found = torch.autograd.grad(algorithm.loss(policy, batch).value, list(policy.weights.values()))
    moved = [a - b for a, b in zip(before, policy.sets["old"], strict=True)]
    assert (
        sum(float((g * m).sum()) for g, m in zip(found, moved, strict=True)) > 0
    )  # downhill leads back to old


def test_an_advantage_beyond_the_bound_counts_as_the_bound_because_credit_is_clamped():
    """r stays in [0, 1], as in the public code."""
    from vidrl.rewards import Score

    algorithm, policy = NFT(steps=4, max_advantage=0.5), exact()
    plan = round_of(algorithm, policy).rollout.plan
    value = torch.tensor([9.0, 0.0, 0.0, 1.0, 2.0, 3.0])
    made = algorithm.advantages(Score(value, value[:, None].expand(-1, 17)), GROUP, [""] * N, plan)
    r = made / (2 * algorithm.max_advantage) + 0.5
    assert float(r.min()) >= 0 and float(r.max()) == 1


# --- the old weights


def decay_of_the_public_code(step, kind):
    """return_decay of scripts/train_nft_sd3.py, from its table of constants."""
    flat, rate, most = {0: (0, 0.0, 0.0), 1: (0, 0.001, 0.5), 2: (75, 0.0075, 0.999)}[kind]
    return 0.0 if step < flat else min((step - flat) * rate, most)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_the_decay_of_the_old_weights_is_that_of_the_public_code(kind):
    steps = [0, 1, 10, 74, 75, 76, 200, 300, 600, 5000]
    expected = [decay_of_the_public_code(step, kind) for step in steps]
    assert [_forward.old_decay(step, kind) for step in steps] == pytest.approx(expected)


@pytest.mark.parametrize(
    "options, decay",
    [
        ({}, 0.0),
        ({"decay": 0.3}, 0.3),
        ({"decay_type": 1}, 0.024),
        ({"decay_type": 2, "updates": 50}, 0.999),
    ],
)
def test_after_a_round_the_old_weights_have_moved_by_the_schedule(options, decay):
    algorithm, policy = NFT(steps=4, **({"updates": 3} | options)), exact()
    algorithm.setup(policy, None, 3)
    before = [w.clone() for w in policy.sets["old"]]
    move(policy, 4)
    algorithm.after(policy, 7)  # the eighth round: 24 optimiser steps by then, or 400
    for old, was, live in zip(policy.sets["old"], before, policy.weights.values(), strict=True):
        assert torch.allclose(old, decay * was + (1 - decay) * live, atol=1e-12)


@pytest.mark.parametrize("who", ["old", "live"])
def test_the_weights_that_sample_are_those_of_the_plan(who):
    algorithm, policy = NFT(steps=4, sample_from=who), exact()
    first = round_of(algorithm, policy).rollout
    assert first.plan.weights == who
    move(policy, 5)
    from vidrl.training.rollout import draws, sample

    with policy.using(first.plan.weights):
        again = sample(policy, first.cond, draws(0, [(i,) for i in range(N)]), first.plan)
    assert torch.equal(again.latents, first.latents) == (who == "old")


# --- nothing is computed twice


@pytest.mark.parametrize("kl_beta, calls_of_each_update", [(0.0, [1, 2]), (0.1, [1, 3])])
def test_the_network_runs_once_where_old_and_reference_are_the_live_weights(
    kl_beta, calls_of_each_update
):
    """A round's first update costs no second call, and no KL costs no third."""
    algorithm, policy = NFT(steps=4, kl_beta=kl_beta), exact()
    seen, counted = round_of(algorithm, policy), calls(policy)
    for batch, expected in zip(algorithm.minibatches(seen), calls_of_each_update, strict=True):
        counted.clear()
        algorithm.loss(policy, batch)
        assert counted == [len(batch)] * expected
        move(policy, 6)


def test_what_is_not_computed_twice_changes_no_digit(monkeypatch):
    algorithm, policy = NFT(steps=4, segments=2, kl_beta=0.1), exact()
    batch = next(algorithm.minibatches(round_of(algorithm, policy)))
    short = algorithm.loss(policy, batch).value
    monkeypatch.setattr(_forward, "equal", lambda *_: False)
    long = algorithm.loss(policy, batch).value
    assert torch.equal(short, long)
    assert torch.equal(gradient(policy, short), gradient(policy, long))


# --- bad options


@pytest.mark.parametrize(
    "options, said",
    [
        ({"beta": 0.0}, "beta > 0"),
        ({"beta": -1.0}, "beta > 0"),
        ({"kl_beta": -1e-4}, "kl_beta ≥ 0"),
        ({"max_advantage": 0.0}, "max_advantage > 0"),
        ({"decay": 1.0}, r"decay in \[0, 1\)"),
        ({"decay": 0.2, "decay_type": 1}, "have their own schedule"),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        NFT(**options)
