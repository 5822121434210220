"""DPO against the papers' formulas in float64, a case computed by hand, and which samples
make a pair."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid
from toys import Brightness, experience, happened, recipe, rows

from vidrl.algorithms.base import Batch
from vidrl.algorithms.dpo import DPO
from vidrl.backbones.toy import Toy
from vidrl.diffusion.path import discrete, flow
from vidrl.rewards import Score
from vidrl.training import loop
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, draws, sample

SHAPE = (2, 3, 2, 2)
NAN = float("nan")


def backbone(path):
    return SimpleNamespace(path=path, shape=SHAPE)


def case(algorithm, label, path=None, n=4, seed=0):
    """An algorithm whose live predictions `mine` and reference's `other` (2 n, ...) are
    given, and a batch."""
    path, draw = path or flow(), torch.Generator().manual_seed(seed)
    x0, eps, mine, other = (
        torch.randn(*size, *SHAPE, generator=draw, dtype=torch.float64)
        for size in ((n, 2), (n,), (2 * n,), (2 * n,))
    )
    mine = (other + 0.05 * mine).requires_grad_()
    t = torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    algorithm.backbone = backbone(path)
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


def errors(raw, batch, target):
    """Squared errors of each element of both clips, (n, 2, ...); `target` of (x0, ε, t) as
    the paper has it."""
    eps, t = batch["eps"][:, None], batch["t"].reshape(-1, 1, 1, 1, 1, 1)
    return (raw.unflatten(0, (-1, 2)) - target(batch["x0"], eps, t)).square()


def velocity(x0, eps, t):
    return eps - x0


# --- the published losses


@pytest.mark.parametrize("predicts", ["flow", "eps"])
def test_one_segment_is_diffusion_dpo(predicts):
    """−log σ(−½ β [(L_w − L_l) − (L_w,ref − L_l,ref)]), L the mean squared error, as the
    authors' code has it."""
    path = flow() if predicts == "flow" else discrete(torch.linspace(0.99, 0.01, 20))
    algorithm = DPO(beta=5000.0)
    policy, batch, mine, other = case(algorithm, torch.ones(4, 1), path)
    target = velocity if predicts == "flow" else (lambda x0, eps, t: eps.expand_as(x0))
    live, fixed = (errors(raw, batch, target).flatten(2).mean(2) for raw in (mine, other))
    inside = -0.5 * 5000.0 * ((live[:, 0] - live[:, 1]) - (fixed[:, 0] - fixed[:, 1]))
    published = -logsigmoid(inside).mean()
    ours = algorithm.loss(policy, batch)
    assert ours.value.item() == pytest.approx(published.item(), rel=1e-12)
    assert torch.allclose(ours.metrics["margin"], inside.detach(), rtol=1e-9)
    assert torch.equal(ours.metrics["implicit_accuracy"], (inside > 0).double())
    one, other = (torch.autograd.grad(value, mine)[0] for value in (ours.value, published))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12) and float(one.abs().max()) > 0


def test_labels_of_segments_are_densedpo():
    """Its equation 7: −log σ(−β Σ_f l_f (s(x⁰)_f − s(x¹)_f)), s_f the sums of squared
    errors in segment f."""
    algorithm = DPO(segments=2, beta=100.0)
    label = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 0.0], [0.0, 1.0]])
    policy, batch, mine, other = case(algorithm, label)
    implicit = errors(mine, batch, velocity) - errors(other, batch, velocity)  # (n, 2, C, L, h, w)
    s = torch.stack(
        [implicit[:, :, :, :2].flatten(2).sum(2), implicit[:, :, :, 2:].flatten(2).sum(2)], 2
    )
    # ours is of means over the clip's 24 elements, and has Diffusion-DPO's ½
    beta = 0.5 * 100.0 / (2 * 3 * 2 * 2)
    inside = -beta * (label * (s[:, 0] - s[:, 1])).sum(1)
    published = -logsigmoid(inside).mean()
    ours = algorithm.loss(policy, batch).value
    assert ours.item() == pytest.approx(published.item(), rel=1e-12)
    one, other = (torch.autograd.grad(value, mine)[0] for value in (ours, published))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("segments", [2, 3])
def test_segments_that_all_agree_are_the_whole_clip(segments):
    whole, cut = DPO(), DPO(segments=segments)
    one, other = (
        algorithm.loss(*case(algorithm, torch.ones(4, s))[:2]).value.item()
        for algorithm, s in ((whole, 1), (cut, segments))
    )
    assert one == pytest.approx(other, rel=1e-12)


def test_the_weight_of_the_noise_is_flow_dpos_schedule():
    """β_t = β (1 − t)² of arXiv 2501.13918, on the velocity's error."""
    algorithm, plain = DPO(beta=300.0, weight="noise"), DPO(beta=300.0)
    policy, batch, *_ = case(algorithm, torch.ones(4, 1))
    constant = plain.loss(*case(plain, torch.ones(4, 1))[:2]).metrics["margin"]
    made = algorithm.loss(policy, batch).metrics["margin"]
    assert torch.allclose(made, (1 - batch["t"]) ** 2 * constant, rtol=1e-9)


def test_the_weight_of_the_noise_changes_nothing_for_a_network_that_predicts_noise():
    path = discrete(torch.linspace(0.99, 0.01, 20))
    one, other = (
        a.loss(*case(a, torch.ones(4, 1), path)[:2]).value.item()
        for a in (DPO(), DPO(weight="noise"))
    )
    assert one == pytest.approx(other, rel=1e-12)


def test_two_latent_frames_by_hand():
    """One element a segment: all numbers below fit on the back of an envelope."""
    algorithm = DPO(segments=2, beta=2.0)
    algorithm.backbone = SimpleNamespace(path=flow(), shape=(1, 2, 1, 1))
    # chosen (1, 0), rejected (0, 2)
    x0 = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]).reshape(1, 2, 1, 2, 1, 1)
    # so the velocities are (0, 1) and (1, −1)
    eps = torch.tensor([[1.0, 1.0]]).reshape(1, 1, 2, 1, 1)
    mine = torch.tensor([[0.5, 1.0], [1.0, 1.0]]).reshape(2, 1, 2, 1, 1)  # errors (¼, 0) and (0, 4)
    # errors (1, ¼) and (1, 1)
    other = torch.tensor([[1.0, 1.5], [0.0, 0.0]]).reshape(2, 1, 2, 1, 1)
    algorithm.predict = lambda policy, batch: (None, mine)
    algorithm.predict_with = lambda *_: other
    data = {"x0": x0, "eps": eps, "t": torch.tensor([0.3]), "label": torch.tensor([[1.0, -1.0]])}
    made = algorithm.loss(
        SimpleNamespace(backbone=algorithm.backbone),
        Batch(data, {}, ["a cat"], 1.0, Plan([1.0, 0.5, 0.0], "ode", 0.0, 2)),
    )
    # e − e_ref: chosen (−¾, −¼), rejected (−1, 3); their difference is (¼, −3¼) and h = (1,
    # −1) margin = −½ · 2 · ½ (¼ + 3¼) = −1¾
    assert made.metrics["margin"].tolist() == [-1.75]
    assert made.value.item() == pytest.approx(1.910224, abs=1e-6)  # log(1 + e^1.75)
    # frame 0: the chosen clip wins, frame 1: the rejected one
    assert made.metrics["winner_displacement"].tolist() == [0.75, -3.0]
    assert made.metrics["loser_displacement"].tolist() == [1.0, 0.25]
    assert made.metrics["implicit_accuracy"].tolist() == [0.0]


def test_swapping_winner_and_loser_flips_the_margin():
    algorithm = DPO(segments=3)
    label = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    policy, batch, mine, other = case(algorithm, label)
    margin = algorithm.loss(policy, batch).metrics["margin"]
    flip = torch.arange(8).reshape(4, 2).flip(1).flatten()
    algorithm.predict, algorithm.predict_with = (
        (lambda *_: (None, mine[flip])),
        lambda *_: other[flip],
    )
    batch.data["x0"] = batch["x0"].flip(1)
    swapped = algorithm.loss(policy, batch)
    assert torch.allclose(swapped.metrics["margin"], -margin, rtol=1e-12)
    batch.data["label"] = -label  # with the labels swapped too, nothing has changed
    assert torch.allclose(algorithm.loss(policy, batch).metrics["margin"], margin, rtol=1e-12)


def test_a_segment_that_ties_has_no_gradient():
    algorithm = DPO(segments=3)
    label = torch.tensor([[1.0, 0.0, -1.0]] * 4)
    policy, batch, mine, _ = case(algorithm, label)
    (grad,) = torch.autograd.grad(algorithm.loss(policy, batch).value, mine)
    each = grad.abs().amax((0, 1, 3, 4))
    assert float(each[1]) == 0 and float(each[0]) > 0 and float(each[2]) > 0


# --- the pairs of a round


def toy() -> Policy:
    return Policy(Toy(), full=True)


def seen(algorithm, advantage, group, policy=None, **more):
    policy = policy or toy()
    algorithm.setup(policy, Brightness(), len(advantage))
    plan = algorithm.plan(policy.backbone, 0, draws(0, [("plan",)])[0])
    names = [(i,) for i in range(len(advantage))]
    rollout = sample(
        policy, policy.backbone.encode([f"{i}" for i in range(len(names))]), draws(0, names), plan
    )
    return experience(rollout, torch.tensor(advantage), group=torch.tensor(group), **more)


def pairs_of(algorithm, made):
    """The pairs (sample numbers) and labels of all rows."""
    found = []
    for batch in algorithm.minibatches(made):
        for x0, label in zip(batch["x0"], batch["label"].tolist(), strict=True):
            numbers = [int((made.rollout.latents == one).flatten(1).all(1).nonzero()) for one in x0]
            found.append((*numbers, tuple(label)))
    return sorted(set(found))


def test_the_best_is_paired_with_the_worst_and_the_second_best_with_the_second_worst():
    values = [[0.1], [0.9], [-1.0], [0.3], [-0.2], [2.0]]
    algorithm = DPO(pairs=2)
    assert pairs_of(algorithm, seen(algorithm, values, [0] * 6)) == [(1, 4, (1,)), (5, 2, (1,))]
    algorithm = DPO()
    made = seen(algorithm, values, [0, 0, 0, 1, 1, 1])
    assert pairs_of(algorithm, made) == [(1, 2, (1,)), (5, 4, (1,))]


def test_each_segment_has_its_own_winner():
    """Segments of two frames and of one: sample 0 is better as a whole, (2 · 1 − 0.5)/3,
    and worse in the last."""
    algorithm = DPO(segments=2)
    made = seen(algorithm, [[1.0, -0.5], [-1.0, 0.5]], [0, 0])
    assert pairs_of(algorithm, made) == [(0, 1, (1, -1))]
    # by a plain mean of segments sample 1 would be better
    made = seen(algorithm, [[0.4, -0.5], [-0.4, 0.5]], [0, 0])
    assert pairs_of(algorithm, made) == [(0, 1, (1, -1))]
    made = seen(algorithm, [[0.4, 0.5], [-0.4, 0.5]], [0, 0])
    assert pairs_of(algorithm, made) == [(0, 1, (1, 0))]


def test_samples_that_tie_and_samples_without_score_are_in_no_pair():
    algorithm = DPO(pairs=2, updates=3, noises=1)
    # the second best of group 0 is not scored; group 1 ties; group 2 has two that tie below
    # the best
    made = seen(
        algorithm,
        [[1.0], [0.0], [-0.1], [-0.9], [0.0], [0.0], [0.0], [0.0], [2.0], [-0.5], [-0.5], [-1.0]],
        [0] * 4 + [1] * 4 + [2] * 4,
    )
    assert pairs_of(algorithm, made) == [(0, 3, (1,)), (8, 11, (1,))]
    # ties leave fewer rows than updates: one row an update
    assert len(list(algorithm.minibatches(made))) == 2
    made = seen(algorithm, [[0.0]] * 4, [0] * 4)
    assert list(algorithm.minibatches(made)) == []


def test_both_clips_of_a_pair_have_one_noise_and_one_time():
    algorithm, policy = DPO(noises=3, updates=1), toy()
    made = seen(algorithm, [[1.0], [-1.0], [0.5], [-0.5]], [0, 0, 1, 1], policy)
    (batch,) = algorithm.minibatches(made)
    asked = []
    policy.backbone.predict = lambda x, t, cond: asked.append((x, t)) or x
    policy.weights["out.bias"].data += 1.0  # or the reference need not be asked
    algorithm.loss(policy, batch)
    (x, t), reference = asked
    assert (
        x.shape == (12, 3, 3, 4, 4) and torch.equal(t[::2], t[1::2]) and len(set(t.tolist())) == 6
    )
    clean, at = batch["x0"].flatten(0, 1), t.reshape(-1, 1, 1, 1, 1)
    noise = (x - (1 - at) * clean) / at
    assert torch.allclose(noise[::2], noise[1::2], atol=1e-4)
    assert torch.equal(x, reference[0]) and torch.equal(t, reference[1])  # and so has the reference


def test_more_updates_than_rows_without_any_tie_are_told():
    algorithm = DPO(updates=5, noises=2)
    with pytest.raises(ValueError, match="expected at least 5 rows, one an update, got 4"):
        list(algorithm.minibatches(seen(algorithm, [[1.0], [-1.0], [0.5], [-0.5]], [0, 0, 1, 1])))


@pytest.mark.parametrize("same", [False, True])
def test_the_pairs_of_a_group_may_share_their_noises(same):
    algorithm = DPO(pairs=2, noises=3, updates=1, same_noise=same)
    made = seen(algorithm, [[1.0], [-1.0], [0.5], [-0.5]] * 2, [0] * 4 + [1] * 4)
    (batch,) = algorithm.minibatches(made)
    assert len(batch) == 12 and len(batch["eps"].flatten(1).unique(dim=0)) == (6 if same else 12)
    assert len(batch["t"].unique()) == (6 if same else 12)


def test_two_processes_have_the_rows_of_one():
    algorithm = DPO(noises=2, updates=2)
    made = seen(algorithm, [[1.0], [-1.0], [0.5], [-0.5]], [0, 0, 1, 1])
    whole = list(algorithm.minibatches(made))
    latents, halves = made.rollout.latents, []
    for index in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        cond = {name: value[index] for name, value in made.rollout.cond.items()}
        own = made.rollout.__class__(
            cond,
            latents[index],
            latents.new_zeros(2, 0),
            latents.new_zeros(2, 0),
            latents.new_zeros(2, 0),
            made.rollout.plan,
        )
        halves.append(
            list(algorithm.minibatches(experience(own, made.advantage, index, made.group)))
        )
    for one, parts in zip(whole, zip(*halves, strict=True), strict=True):
        assert {part.share for part in parts} == {one.share} and sum(map(len, parts)) == len(one)
        for name in ("x0", "eps", "t"):
            together = (
                torch.cat([part[name] for part in parts])
                .reshape(len(one), -1)
                .double()
                .sum(1)
                .sort()
                .values
            )
            assert torch.allclose(
                together, one[name].reshape(len(one), -1).double().sum(1).sort().values, atol=1e-5
            )


def test_the_reference_can_be_the_rounds_start():
    policy, algorithm, base = toy(), DPO(reference="old"), DPO()
    made = seen(algorithm, [[1.0], [-1.0], [0.5], [-0.5]], [0, 0, 1, 1], policy)
    base.setup(policy, Brightness(), 4)
    batch = next(algorithm.minibatches(made))
    for weight in policy.weights.values():
        weight.data += 0.05
    assert torch.equal(
        algorithm.loss(policy, batch).metrics["margin"], base.loss(policy, batch).metrics["margin"]
    )
    algorithm.after(policy, 0)
    assert float(algorithm.loss(policy, batch).metrics["margin"].abs().max()) == 0
    assert float(base.loss(policy, batch).metrics["margin"].abs().min()) > 0


# --- pairs of files


def of_files(algorithm, labels, n=4):
    made = seen(algorithm, [[NAN] * algorithm.segments] * n, [0] * n)
    return made.__class__(
        **{**vars(made), "pairs": torch.tensor([[0, 1], [3, 2]]), "labels": labels}
    )


def test_pairs_of_files_have_the_labels_of_the_files():
    algorithm = DPO(segments=2)
    assert pairs_of(algorithm, of_files(algorithm, None)) == [(0, 1, (1, 1)), (3, 2, (1, 1))]
    made = of_files(algorithm, torch.tensor([[1, -1], [0, 1]]))
    assert pairs_of(algorithm, made) == [(0, 1, (1, -1)), (3, 2, (0, 1))]
    made = of_files(algorithm, torch.tensor([[0, 0], [-1, 1]]))  # the first pair ties
    assert pairs_of(algorithm, made) == [(3, 2, (-1, 1))]
    loss = algorithm.loss(toy(), next(algorithm.minibatches(made)))
    assert bool(loss.value.isfinite())


def test_labels_of_another_length_are_told():
    algorithm = DPO(segments=2)
    with pytest.raises(
        ValueError,
        match=r"labels of shape \(2, 2\), one for each pair and segment, got \(2, 3\): set "
        "algorithm.options.segments",
    ):
        list(algorithm.minibatches(of_files(algorithm, torch.ones(2, 3))))


# --- bad options, and runs


@pytest.mark.parametrize(
    "options, said",
    [
        ({"beta": 0.0}, "expected beta > 0, got 0.0: with 0 nothing is learned"),
        ({"beta": -1.0}, "expected beta > 0"),
        ({"pairs": 0}, "at least one pair a group, got pairs = 0"),
        ({"decay": 0.9}, 'expected reference = "old" with decay'),
        ({"sample_from": "old"}, 'sample_from = "old", got "reference"'),
    ],
)
def test_bad_options_are_told_at_once(options, said):
    with pytest.raises(ValueError, match=said):
        DPO(**options)


@pytest.mark.parametrize("pairs, group, most", [(2, 3, 1), (3, 5, 2)])
def test_more_pairs_than_a_group_has_are_told_before_any_work(pairs, group, most):
    said = rf"at most {most} pairs of a group of {group}.*raise train.group to {2 * pairs}"
    with pytest.raises(ValueError, match=said):
        DPO(pairs=pairs).check(Brightness(), group)
    DPO(pairs=pairs).check(Brightness(), 2 * pairs)


def test_a_round_in_which_all_samples_tie_takes_no_step_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Brightness, "forward", lambda self, samples: Score(torch.zeros(len(samples.video)))
    )
    options = {"name": "dpo", "options": {"steps": 3}}
    run = loop.run(recipe(tmp_path, algorithm=options, train_rounds=2, train_eval_every=9))
    assert [row["round"] for row in rows(run)] == [1, 2] and all(
        "margin" not in row for row in rows(run)
    )
    told = [row for row in happened(run) if row["kind"] == "skipped"]
    assert [row["round"] for row in told] == [1, 2] and "no optimiser step" in told[0]["message"]
