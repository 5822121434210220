"""Reward-weighted regression: the published loss in float64, and who weighs nothing."""

from math import exp, nan

import pytest
import torch
from noised import GROUP, LATENTS, N, exact, gradient, move, prediction, round_of, spans

from vidrl.algorithms.rwr import RWR
from vidrl.rewards import Score

FRAMES = 4 * LATENTS - 3


@pytest.mark.parametrize("segments", [1, 2, 5])
@pytest.mark.parametrize("kl_beta", [0.0, 0.2])
def test_loss_and_gradient_are_the_published_ones(segments, kl_beta):
    """L = E[w ‖v − (ε − x0)‖²] + λ ‖v − v_ref‖², written for one segment of one row after
    another."""
    algorithm, policy = RWR(steps=4, segments=segments, kl_beta=kl_beta), exact()
    move(policy, 1, "reference")
    weight = torch.rand(N, segments, dtype=torch.float64)
    for batch in algorithm.minibatches(round_of(algorithm, policy, weight)):
        v, base = prediction(policy, batch)[1], prediction(policy, batch, "reference")[1]
        total = kl_beta * ((v - base) ** 2).mean()
        for i in range(len(batch)):
            for j, (share, frames) in enumerate(spans(segments)):
                away = (v[i] - (batch["eps"][i] - batch["x0"][i]))[:, frames]
                total = total + share * batch["advantage"][i, j] * (away**2).mean() / len(batch)
        ours = algorithm.loss(policy, batch).value
        assert float(ours.detach()) == pytest.approx(float(total.detach()), rel=1e-12)
        assert torch.allclose(
            gradient(policy, ours), gradient(policy, total), rtol=1e-9, atol=1e-13
        )


def weights(algorithm, value, curve=None):
    plan = algorithm.plan(exact().backbone, 0, torch.Generator())
    algorithm.backbone = exact().backbone
    value = torch.tensor(value, dtype=torch.float64)
    curve = value[:, None].expand(-1, FRAMES) if curve is None else curve
    return algorithm.advantages(Score(value, curve), GROUP, [""] * N, plan)


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_weights_are_exponentials_over_their_mean_in_the_group(beta):
    """w = exp(β r)/Z of arXiv 2305.13301, r the reward less its mean in the group."""
    made = weights(RWR(steps=4, scale="none", beta=beta), [0.0, 1.0, 0.5, 3.0, 3.0, 4.0])
    for start, values in ((0, [0.0, 1.0, 0.5]), (3, [3.0, 3.0, 4.0])):
        z = sum(exp(beta * r) for r in values) / 3
        assert made[start : start + 3, 0].tolist() == pytest.approx(
            [exp(beta * r) / z for r in values], rel=1e-9
        )


def test_a_segment_has_a_weight_of_its_own():
    curve = torch.zeros(N, FRAMES, dtype=torch.float64)
    curve[0, 9:] = 1.0  # better in the last two latent frames alone
    made = weights(RWR(steps=4, segments=2), curve.mean(1).tolist(), curve)
    assert torch.equal(made[:3, 0], torch.ones(3, dtype=torch.float64)) and float(
        made[0, 1]
    ) > 1 > float(made[1, 1])


def test_a_clip_without_a_score_weighs_nothing_and_so_does_one_that_has_no_other_to_compare_with():
    made = weights(RWR(steps=4), [1.0, nan, 3.0, 5.0, nan, nan])
    assert torch.equal(made[[1, 3, 4, 5], 0], torch.zeros(4, dtype=torch.float64))
    assert float(made[2]) > 1 > float(made[0]) > 0 and float(made[[0, 2]].mean()) == pytest.approx(
        1
    )


def test_a_large_beta_keeps_the_best_clip_alone():
    made = weights(RWR(steps=4, beta=1e6, scale="none"), [0.0, 1.0, 0.5, -9.0, -7.0, -8.0])
    assert made[:, 0].tolist() == [0, 3, 0, 0, 3, 0]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"beta": 0.0}, "beta > 0, because 0 would ignore"),
        ({"kl_beta": -1.0}, "kl_beta ≥ 0"),
        ({"decay": 0.5}, "RWR keeps no old weights"),
        ({"sample_from": "old"}, "RWR keeps no old weights"),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        RWR(**options)
