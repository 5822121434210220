"""Supervised flow matching against its formula."""

import pytest
import torch
from toys import Brightness, experience

from vidrl.algorithms.sft import SFT
from vidrl.backbones.toy import Toy
from vidrl.diffusion.segments import borders
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample


def made(segments: int = 1, frames: int = 3, **options) -> tuple[SFT, Policy, object]:
    algorithm, policy = SFT(segments=segments, **options), Policy(Toy(frames), full=True)
    algorithm.setup(policy, Brightness(), 2)
    plan = algorithm.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
    cond = policy.backbone.encode([f"{i}" for i in range(4)])
    rollout = sample(policy, cond, draws(0, [(i,) for i in range(4)]), plan)
    return algorithm, policy, experience(rollout, torch.zeros(4, segments))


def test_the_loss_is_the_mean_squared_error_of_the_velocity():
    """In float64, written out: ‖v(x_t, t) − (ε − x0)‖² with x_t = (1 − t) x0 + t ε."""
    algorithm, policy, seen = made()
    batch = next(algorithm.minibatches(seen))
    loss = algorithm.loss(policy, batch)
    network = Toy(3).network.double()
    x0, eps, t = (batch[name].double() for name in ("x0", "eps", "t"))
    at = t.view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        velocity = network((1 - at) * x0 + at * eps, t, batch.cond["text"].double())
    expected = (velocity - (eps - x0)).square().flatten(1).mean(1)
    assert torch.allclose(loss.metrics["data_error"].double(), expected, rtol=1e-5)
    assert float(loss.value.detach()) == pytest.approx(float(expected.mean()), rel=1e-5)


def test_segments_are_logged_and_leave_the_loss_as_it_is():
    whole, cut = made(1, 5), made(2, 5)
    for one, other in zip(whole[0].minibatches(whole[2]), cut[0].minibatches(cut[2]), strict=True):
        a, b = whole[0].loss(whole[1], one), cut[0].loss(cut[1], other)
        assert float(a.value.detach()) == pytest.approx(float(b.value.detach()), rel=1e-5)
        size = [end - start for start, end in borders(5, 2)]  # 3 and 2 latent frames
        mean = (size[0] * b.metrics["data_error_0"] + size[1] * b.metrics["data_error_1"]) / 5
        assert torch.allclose(mean, a.metrics["data_error"], rtol=1e-5)
        assert not torch.allclose(b.metrics["data_error_0"], b.metrics["data_error_1"])


def test_levels_of_a_clip_spread_over_the_range_and_noises_are_all_different():
    algorithm, _, seen = made(noises=4, updates=1, low=0.2, high=0.6)
    (batch,) = algorithm.minibatches(seen)
    assert len(batch) == 16 and batch.share * 16 == 1
    for clip in seen.rollout.latents:
        mine = torch.tensor([bool(torch.equal(row, clip)) for row in batch["x0"]])
        strata = ((batch["t"][mine] - 0.2) / 0.1).floor().sort().values
        assert torch.equal(strata, torch.arange(4.0, dtype=strata.dtype))
    assert len({float(noise.flatten()[0]) for noise in batch["eps"]}) == 16


def test_its_gradient_is_zero_where_the_policy_is_exact():
    algorithm, policy, seen = made()
    batch = next(algorithm.minibatches(seen))
    target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
    weight = next(iter(policy.weights.values()))
    policy.predict = lambda x, t, cond: target + (weight.sum() - weight.detach().sum())
    loss = algorithm.loss(policy, batch)
    (found,) = torch.autograd.grad(loss.value, weight)
    assert float(loss.value.detach()) == 0 and not bool(found.any())
