"""KTO against the papers' formulas in float64, a case computed by hand, and which samples
are desirable."""

from math import exp
from types import SimpleNamespace

import pytest
import torch
from toys import Brightness, experience

from vidrl.algorithms.base import Batch
from vidrl.algorithms.kto import KTO
from vidrl.backbones.toy import Toy
from vidrl.diffusion.path import discrete, flow
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, draws, sample

SHAPE = (2, 3, 2, 2)


def case(algorithm, label, path=None, seed=0):
    """An algorithm whose live predictions `mine` and reference's `other` (n, ...) are
    given, and a batch."""
    path, draw, n = path or flow(), torch.Generator().manual_seed(seed), len(label)
    x0, eps, mine, other = (
        torch.randn(n, *SHAPE, generator=draw, dtype=torch.float64) for _ in range(4)
    )
    mine = (other + 0.05 * mine).requires_grad_()
    t = torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    algorithm.backbone = SimpleNamespace(path=path, shape=SHAPE)
    algorithm.predict = lambda policy, batch: (None, mine)
    algorithm.predict_with = lambda *_: other
    batch = Batch(
        {"x0": x0, "eps": eps, "t": t, "label": label},
        {},
        ["a cat"] * n,
        1 / n,
        Plan([1.0, 0.5, 0.0], "ode", 0.0, algorithm.segments),
    )
    return SimpleNamespace(backbone=algorithm.backbone), batch, mine, other


LABEL = torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [-1.0]])


# --- the published loss


@pytest.mark.parametrize("predicts", ["flow", "eps"])
def test_one_segment_is_diffusion_kto(predicts):
    """KTO's value function: λ_D (1 − σ(β (r − z))) where desirable, λ_U (1 − σ(β (z − r)))
    where undesirable.

    r is the log-ratio and z = KL(π‖π_ref). A denoising step is a Gaussian of one variance
    about the prediction, so r is the difference of the squared errors, and z the squared
    distance of the two means.
    """
    path = flow() if predicts == "flow" else discrete(torch.linspace(0.99, 0.01, 20))
    algorithm = KTO(beta=700.0, desirable=1.3, undesirable=0.6)
    policy, batch, mine, other = case(algorithm, LABEL, path)
    target = batch["eps"] - batch["x0"] if predicts == "flow" else batch["eps"]
    r = (other - target).square().mean((1, 2, 3, 4)) - (mine - target).square().mean((1, 2, 3, 4))
    z = (mine - other).square().mean((1, 2, 3, 4)).detach()
    good = LABEL[:, 0] > 0
    each = torch.where(
        good, 1.3 * (1 - torch.sigmoid(700.0 * (r - z))), 0.6 * (1 - torch.sigmoid(700.0 * (z - r)))
    )
    ours = algorithm.loss(policy, batch)
    assert ours.value.item() == pytest.approx(each.mean().item(), rel=1e-7)
    one, published = (torch.autograd.grad(value, mine)[0] for value in (ours.value, each.mean()))
    assert torch.allclose(one, published, rtol=1e-5, atol=1e-9) and float(one.abs().max()) > 0
    right = torch.where(good, r > z, r < z).double().mean()
    assert float(ours.metrics["implicit_accuracy"].mean()) == pytest.approx(right.item())
    assert torch.allclose(ours.metrics["winner_displacement"], r.detach()[good])
    assert torch.allclose(ours.metrics["loser_displacement"], r.detach()[~good])


def test_the_reference_point_is_the_mean_log_ratio_of_what_the_policy_draws():
    """e_ref − e, averaged over targets that lie about the policy's own prediction, is ‖v −
    v_ref‖²."""
    algorithm, n = KTO(segments=3), 20000
    draw = torch.Generator().manual_seed(1)
    mine, other = (torch.randn(1, *SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))
    target = mine + torch.randn(n, *SHAPE, generator=draw, dtype=torch.float64)
    algorithm.backbone = SimpleNamespace(path=flow(), shape=SHAPE)
    algorithm.predict, algorithm.predict_with = (
        (lambda *_: (None, mine.expand(n, -1, -1, -1, -1))),
        lambda *_: other,
    )
    x0 = torch.zeros_like(target)  # the flow's target is then the noise
    batch = Batch(
        {"x0": x0, "eps": target, "t": torch.full((n,), 0.5)},
        {},
        ["a cat"] * n,
        1.0,
        Plan([1.0, 0.5, 0.0], "ode", 0.0, 3),
    )
    ratio, point = algorithm.gain(SimpleNamespace(backbone=algorithm.backbone), batch)
    error = ratio.std(0) / n**0.5
    assert bool(((ratio.mean(0) - point[0]).abs() < 4 * error).all()) and float(
        point.min()
    ) > 20 * float(error.max())


def test_two_latent_frames_by_hand():
    algorithm = KTO(segments=2, beta=2.0, desirable=1.0, undesirable=3.0)
    algorithm.backbone = SimpleNamespace(path=flow(), shape=(1, 2, 1, 1))
    # velocities (0, 1)
    x0, eps = torch.tensor([1.0, 0.0]).reshape(1, 1, 2, 1, 1), torch.ones(1, 1, 2, 1, 1)
    mine, other = (torch.tensor(v).reshape(1, 1, 2, 1, 1) for v in ([0.5, 1.0], [1.0, 1.5]))
    algorithm.predict, algorithm.predict_with = (lambda *_: (None, mine)), lambda *_: other
    data = {"x0": x0, "eps": eps, "t": torch.tensor([0.3]), "label": torch.tensor([[1.0, -1.0]])}
    made = algorithm.loss(
        SimpleNamespace(backbone=algorithm.backbone),
        Batch(data, {}, ["a cat"], 1.0, Plan([1.0, 0.5, 0.0], "ode", 0.0, 2)),
    )
    # errors (¼, 0), of the reference (1, ¼): ρ = (¾, ¼); z = (¼, ¼); margins 2 (¾ − ¼) = 1
    # and −2 · 0 = 0
    assert made.metrics["margin"].tolist() == [1.0, 0.0]
    assert made.value.item() == pytest.approx(
        0.5 * (1 - 1 / (1 + exp(-1.0))) + 0.5 * 3 * 0.5, rel=1e-6
    )
    assert made.metrics["winner_displacement"].tolist() == [0.75]
    assert made.metrics["loser_displacement"].tolist() == [0.25]
    assert made.metrics["implicit_accuracy"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("segments", [2, 3])
def test_segments_count_by_their_length(segments):
    """At the reference every σ is ½, so that the loss is ½ whatever the number of
    segments."""
    algorithm = KTO(segments=segments)
    policy, batch, _, other = case(algorithm, torch.ones(4, segments))
    algorithm.predict = lambda *_: (None, other)
    assert algorithm.loss(policy, batch).value.item() == pytest.approx(0.5, rel=1e-6)


def test_swapping_desirable_and_undesirable_flips_the_margin():
    algorithm = KTO(segments=3)
    label = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    policy, batch, *_ = case(algorithm, label)
    margin = algorithm.loss(policy, batch).metrics["margin"]
    batch.data["label"] = -label
    assert torch.equal(algorithm.loss(policy, batch).metrics["margin"], -margin)


def test_a_segment_without_a_label_has_no_gradient():
    algorithm = KTO(segments=3)
    policy, batch, mine, _ = case(algorithm, torch.tensor([[1.0, 0.0, -1.0]] * 4))
    (grad,) = torch.autograd.grad(algorithm.loss(policy, batch).value, mine)
    each = grad.abs().amax((0, 1, 3, 4))
    assert float(each[1]) == 0 and float(each[0]) > 0 and float(each[2]) > 0


@pytest.mark.parametrize("label", [1.0, -1.0])
def test_a_step_down_its_gradient_moves_a_sample_to_its_side(label):
    algorithm = KTO(beta=10.0)
    policy, batch, mine, other = case(algorithm, torch.full((3, 1), label))
    (grad,) = torch.autograd.grad(algorithm.loss(policy, batch).value, mine)
    before = algorithm.gain(policy, batch)[0].detach()
    mine.data -= 0.01 * grad
    assert bool((label * (algorithm.gain(policy, batch)[0].detach() - before) > 0).all())


# --- which samples


def toy() -> Policy:
    return Policy(Toy(), full=True)


def seen(algorithm, advantage, **more):
    policy = toy()
    algorithm.setup(policy, Brightness(), len(advantage))
    plan = algorithm.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
    names = [(i,) for i in range(len(advantage))]
    rollout = sample(
        policy, policy.backbone.encode([f"{i}" for i in range(len(names))]), draws(0, names), plan
    )
    made = experience(rollout, torch.tensor(advantage))
    return made.__class__(**{**vars(made), **more})


def labels_of(algorithm, made):
    """The sample number and the label of all rows."""
    found = []
    for batch in algorithm.minibatches(made):
        for x0, label in zip(batch["x0"], batch["label"].tolist(), strict=True):
            found.append(
                (int((made.rollout.latents == x0).flatten(1).all(1).nonzero()), tuple(label))
            )
    return sorted(found)


def test_the_sign_of_an_advantage_is_the_label():
    algorithm = KTO(segments=2, noises=2)
    # the third is not scored, or ties
    made = seen(algorithm, [[1.5, 0.1], [-0.1, 0.0], [0.0, 0.0], [-1.4, -0.1]])
    assert (
        labels_of(algorithm, made) == [(0, (1, 1))] * 2 + [(1, (-1, 0))] * 2 + [(3, (-1, -1))] * 2
    )
    assert list(algorithm.minibatches(seen(algorithm, [[0.0, 0.0]] * 4))) == []


def test_the_chosen_clip_of_a_file_is_desirable_and_the_rejected_one_is_not():
    algorithm, pairs = KTO(segments=2, noises=1), torch.tensor([[0, 1], [3, 2]])
    made = seen(algorithm, [[9.0, 9.0]] * 4, pairs=pairs)
    assert labels_of(algorithm, made) == [(0, (1, 1)), (1, (-1, -1)), (2, (-1, -1)), (3, (1, 1))]
    made = seen(algorithm, [[9.0, 9.0]] * 4, pairs=pairs, labels=torch.tensor([[1, -1], [0, 0]]))
    assert labels_of(algorithm, made) == [(0, (1, -1)), (1, (-1, 1))]
    with pytest.raises(
        ValueError, match=r"labels of shape \(2, 2\).*got \(2, 1\): set algorithm.options.segments"
    ):
        list(
            algorithm.minibatches(
                seen(algorithm, [[9.0, 9.0]] * 4, pairs=pairs, labels=torch.ones(2, 1))
            )
        )


@pytest.mark.parametrize(
    "options, said",
    [
        ({"beta": 0.0}, "expected beta > 0, got 0.0: with 0 nothing is learned"),
        ({"desirable": -1.0}, "≥ 0 and not both 0, got -1.0 and 1.0"),
        ({"desirable": 0.0, "undesirable": 0.0}, "≥ 0 and not both 0, got 0.0 and 0.0"),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        KTO(**options)
