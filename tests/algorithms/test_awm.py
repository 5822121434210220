"""Advantage-weighted matching: the published loss and its gradient in float64, and what
holds the policy."""

from math import sqrt

import pytest
import torch
from noised import N, calls, exact, gradient, move, prediction, recipe_of, round_of, spans

from vidrl.algorithms.awm import AWM

WEIGHTINGS = ("uniform", "t", "t**2", "huber", "ghuber")


def log_prob(policy, batch, frames, how, name="live"):
    """compute_log_prob_awm of the authors' scripts/train_sd3_awm.py, of some latent frames,
    (n,)."""
    v, t = prediction(policy, batch, name)[1], batch["t"]
    found = -(((v - (batch["eps"] - batch["x0"])) ** 2)[:, :, frames]).mean(dim=(1, 2, 3, 4))
    tiny = 1e-10
    return {
        "uniform": lambda: found,
        "t": lambda: found * t,
        "t**2": lambda: found * t**2,
        "huber": lambda: -(torch.sqrt(-found + tiny) - 1e-5) * t,
        "ghuber": lambda: -(torch.pow(-found + tiny, 0.25) - tiny**0.25) * t / 0.25,
    }[how]()


def published(policy, batch, segments, how, limit, beta, ema_beta, sampler="old"):
    """The loss of the authors' loop ("exp_first"), for each segment."""
    v = prediction(policy, batch)[1]
    base, old = (prediction(policy, batch, name)[1] for name in ("reference", "old"))
    total = beta * ((v - base) ** 2).mean() + ema_beta * ((v - old) ** 2).mean()
    limit = limit * sqrt(segments)  # means over fewer elements vary more
    for j, (share, frames) in enumerate(spans(segments)):
        ratio = torch.exp(
            log_prob(policy, batch, frames, how) - log_prob(policy, batch, frames, how, sampler)
        )
        a = batch["advantage"][:, j]
        total = (
            total
            + share
            * torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - limit, 1 + limit)).mean()
        )
    return total


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("how", WEIGHTINGS)
def test_loss_and_gradient_are_the_published_ones(how, segments):
    options = {"weighting": how, "clip_range": 2e-3, "kl_beta": 0.3, "ema_kl_beta": 0.7}
    algorithm, policy = AWM(steps=4, segments=segments, **options), exact()
    move(policy, 1, "reference")
    seen = round_of(algorithm, policy)
    move(policy, 2)  # the second update of a round
    shares = []
    for batch in algorithm.minibatches(seen):
        loss, theirs = (
            algorithm.loss(policy, batch),
            published(policy, batch, segments, how, 2e-3, 0.3, 0.7),
        )
        assert float(loss.value.detach()) == pytest.approx(float(theirs.detach()), rel=1e-11)
        assert torch.allclose(
            gradient(policy, loss.value), gradient(policy, theirs), rtol=1e-9, atol=1e-12
        )
        shares.append(float(loss.metrics["clip_share"].mean()))
    assert 0 < sum(shares) / len(shares) < 1  # some ratios are clipped, and some are not


def test_the_recipe_for_those_who_come_from_the_authors_code_is_five_times_their_loss():
    """config/dgx_awm.py, geneval: advantages of ± 5 become ± 1, ghuber 0.25, clip range 1,
    beta 0.003, ema_beta 1."""
    algorithm, policy = AWM(**recipe_of("awm")), exact()
    move(policy, 1, "reference")
    seen = round_of(algorithm, policy)
    move(policy, 2)
    for batch in algorithm.minibatches(seen):
        assert len(batch) == 3 * N  # six levels a clip, in two updates
        ours = gradient(policy, algorithm.loss(policy, batch).value)
        batch.data["advantage"] /= 5
        theirs = gradient(policy, published(policy, batch, 1, "ghuber", 1.0, 0.003, 1.0))
        assert torch.allclose(ours, 5 * theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("who, sampler", [("live", "sampler"), ("old", "old")])
def test_the_ratio_is_to_the_weights_that_sampled_and_the_moving_reference_lags_behind(
    who, sampler
):
    options = {"steps": 4, "segments": 2, "sample_from": who, "decay": 0.6, "ema_kl_beta": 0.7}
    algorithm, policy = AWM(**options), exact()
    algorithm.setup(policy, None, 3)
    move(policy, 3)
    algorithm.after(policy, 0)
    started = [w.detach().clone() for w in policy.weights.values()]
    batch = next(algorithm.minibatches(again(algorithm, policy)))
    ratio = algorithm.loss(policy, batch).metrics
    assert ("ratio" in ratio) == (
        who == "live"
    )  # only where the live weights sampled is it 1 at first
    if who == "live":
        assert float((ratio["ratio"] - 1).abs().max()) == 0
        assert all(torch.equal(a, b) for a, b in zip(policy.sets["sampler"], started, strict=True))
    move(policy, 4)
    ours, theirs = (
        algorithm.loss(policy, batch).value,
        published(policy, batch, 2, "uniform", 1.0, 0.0, 0.7, sampler),
    )
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-11)


def again(algorithm, policy):
    """A second round: without `setup`, which would make all sets of weights equal."""
    algorithm.setup, kept = (lambda *_: None), algorithm.setup
    seen = round_of(algorithm, policy)
    algorithm.setup = kept
    return seen


def test_zero_advantages_give_no_gradient_before_the_policy_moves():
    algorithm, policy = AWM(steps=4, segments=2, kl_beta=0.1), exact()
    batch = next(
        algorithm.minibatches(round_of(algorithm, policy, torch.zeros(N, 2, dtype=torch.float64)))
    )
    assert float(gradient(policy, algorithm.loss(policy, batch).value).abs().max()) == 0


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [1, 2]),
        ({"kl_beta": 0.1}, [1, 3]),
        ({"kl_beta": 0.1, "ema_kl_beta": 0.0}, [1, 3]),
        ({"decay": 0.5}, [1, 3]),
        ({"decay": 0.5, "ema_kl_beta": 0.0, "kl_beta": 0.1, "sample_from": "old"}, [1, 3]),
    ],
)
def test_the_network_runs_once_for_sets_of_weights_that_are_equal(options, expected):
    algorithm, policy = AWM(steps=4, **options), exact()
    seen, counted = round_of(algorithm, policy), calls(policy)
    for batch, times in zip(algorithm.minibatches(seen), expected, strict=True):
        counted.clear()
        algorithm.loss(policy, batch)
        assert counted == [len(batch)] * times
        move(policy, 6)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ema_kl_beta": 0.0}, "expected a distance that holds.*set kl_beta > 0"),
        # old is live: it holds nothing
        ({"updates": 1}, "with updates = 1 and decay = 0.0.*updates ≥ 2 or decay > 0"),
        ({"clip_range": 0.0}, "clip_range, ghuber_power > 0"),
        ({"ghuber_power": 0.0}, "clip_range, ghuber_power > 0"),
        ({"decay": 0.5, "ema_kl_beta": 0.0, "kl_beta": 0.1}, "nothing would read the old weights"),
        (
            {"decay_type": 1, "ema_kl_beta": 0.0, "kl_beta": 0.1},
            "nothing would read the old weights",
        ),
        ({"weighting": "huber", "ghuber_power": 0.5}, 'expected weighting = "ghuber"'),
        ({"kl_beta": -1.0}, "kl_beta, ema_kl_beta ≥ 0"),
        ({"ema_kl_beta": -1.0}, "kl_beta, ema_kl_beta ≥ 0"),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        AWM(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"kl_beta": 0.1, "ema_kl_beta": 0.0, "updates": 1},
        {"updates": 1, "decay": 0.3},
        {"updates": 1, "decay_type": 1},
        {},
    ],
)
def test_one_distance_that_holds_is_enough(options):
    assert AWM(**options)
