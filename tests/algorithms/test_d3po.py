"""D3PO against its published loss, computed in float64 from densities that are written down
here."""

import math

import pytest
import torch
from toys import Brightness, experience

from vidrl.algorithms.d3po import D3PO, best_and_worst
from vidrl.backbones.toy import Toy
from vidrl.diffusion.segments import borders
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws, sample

GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


def batch_of(algorithm, policy, advantage):
    algorithm.setup(policy, Brightness(), 3)
    plan = algorithm.plan(policy.backbone, 0, torch.Generator().manual_seed(0))
    cond = policy.backbone.encode([f"{int(g)}" for g in GROUP])
    rollout = sample(policy, cond, draws(0, [(i,) for i in range(6)]), plan)
    (batch,) = algorithm.minibatches(experience(rollout, advantage, group=GROUP))
    return batch


def density(policy, batch, side):
    """log p of each segment of one clip of each pair, (n, S): dance_sde's Gaussian, its
    mean over elements."""
    x, after = batch["x"][:, side].double(), batch["after"][:, side].double()
    t, s = (batch[name].view(-1, 1, 1, 1, 1) for name in "ts")
    with torch.no_grad():
        v = policy.predict(x.float(), batch["t"].float(), batch.cond).double()
    std = 0.3 * (t - s).sqrt()
    mean = x + (s - t) * v - std**2 / (2 * t) * (x + (1 - t) * v)
    each = -((after - mean) ** 2) / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2
    return torch.stack(
        [each[:, :, a:b].mean((1, 2, 3, 4)) for a, b in borders(x.shape[2], batch.plan.segments)], 1
    )


@pytest.mark.parametrize("segments", [1, 3])
def test_the_loss_is_the_published_one(segments):
    algorithm = D3PO(segments=segments, steps=4, updates=1, temperature=5.0, clip_range=0.05)
    policy = Policy(Toy(), full=True)
    batch = batch_of(
        algorithm, policy, torch.randn(6, segments, generator=torch.Generator().manual_seed(1))
    )
    torch.manual_seed(5)
    for weight in policy.weights.values():
        weight.data += 0.02 * torch.randn_like(weight)
    gains = []
    for side in (0, 1):
        with policy.using("reference"):
            base = density(policy, batch, side)
        ratio = (density(policy, batch, side) - base).exp()
        gains.append(ratio.clamp(1 - 0.05 * segments**0.5, 1 + 0.05 * segments**0.5).log())
    margin = 5.0 * (batch["better"] * (gains[0] - gains[1])).mean(1)
    assert float(algorithm.loss(policy, batch).value) == pytest.approx(
        float(-margin.sigmoid().log().mean()), rel=1e-4
    )
    assert 0 < float(algorithm.loss(policy, batch).metrics["implicit_accuracy"].mean()) < 1


def test_groups_that_tie_give_no_pair_and_no_batch():
    pairs, better = best_and_worst(torch.tensor([[1.0], [1.0], [1.0], [2.0], [0.0], [1.0]]), GROUP)
    assert pairs.tolist() == [[3, 4]] and better.tolist() == [[1.0]]
    algorithm, policy = D3PO(steps=4), Policy(Toy(), full=True)
    with pytest.raises(ValueError, match="not enough values"):
        batch_of(algorithm, policy, torch.zeros(6, 1))


def test_a_clip_range_that_reaches_zero_is_refused():
    with pytest.raises(ValueError, match="clip_range √segments < 1"):
        D3PO(clip_range=0.6, segments=3)
