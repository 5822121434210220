"""The gradient study's own functions: hooks against autograd, and a linear-Gaussian toy
whose gradients are known."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.base import rows
from vidrl.credit import estimators
from vidrl.diffusion import transition
from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws

FILE = Path(__file__).parents[2] / "benchmarks" / "studies" / "gradient_snr.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# ---- Scores of samples by hooks


@pytest.fixture(scope="module")
def step():
    """A policy, its plan, and three samples before and after step 1, with their
    condition."""
    from vidrl.backbones.wan import Wan

    policy = Policy(Wan.tiny(), rank=4, alpha=8)
    backbone = policy.backbone
    algorithm = GRPO(sampler="flow_sde", eta=0.7, steps=4, segments=backbone.shape[1])
    plan = algorithm.plan(backbone, 0, draws(0, [("p",)])[0])
    noise = [backbone.noise(draws(0, [(name, n) for n in range(3)])) for name in "ab"]
    cond = backbone.encode(["a cat", "a dog", "a cat"])
    with torch.no_grad():
        after = plan.step(policy, noise[0], 1, cond).sample(noise[1])
    return policy, plan, noise[0], after, cond


def test_hooks_give_each_sample_the_gradient_of_autograd(study, step):
    policy, plan, x, after, cond = step
    found = study.Sketcher(policy, signs=0)(policy, plan, x, after, 1, cond)
    weights = [w for name, w in policy.weights.items() if "lora_B" in name]
    for n in range(3):
        one = slice(n, n + 1)
        alone = plan.step(policy, x[one], 1, rows(cond, one))
        density = pool(transition.log_density(alone, after[one]), x.shape[2])
        for j in range(x.shape[2]):
            exact = torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(density[0, j], weights, retain_graph=True)
                ]
            )
            assert torch.allclose(
                found[n, j], exact, atol=1e-5 * float(exact.abs().max()), rtol=1e-4
            )


def test_sketches_keep_inner_products(study, step):
    policy, *rest = step
    whole, short = (
        study.Sketcher(policy, signs)(policy, *rest[:3], 1, rest[3]).flatten(0, 1)
        for signs in (0, 2048)
    )
    exact, kept = whole @ whole.T, short @ short.T
    size = exact.diagonal().sqrt()
    assert ((kept - exact) / (size[:, None] * size)).abs().max() < 0.05  # errors fall as 1/√D


# ---- A toy: entries r = Σ_j u_j A_j + e of the noises u, scores G_j = u_j W_j, so that E
# r_e G_j = A_je W_j


class Toy:
    """Three latent frames of one frame each, two noises a frame; `mixing` of what a noise
    moves lies elsewhere."""

    def __init__(self, mixing, blocks=160, noise=0.5):
        draw = torch.Generator().manual_seed(0)
        self.blocks, N = blocks, blocks * 32
        reach = torch.full((3, 3), mixing / 2) + torch.eye(3) * (1 - 1.5 * mixing)
        self.A = torch.tensor([1.0, 0.5])[None, :, None] * reach[:, None]  # (L, d, F)
        self.W = torch.randn(3, 2, 24, generator=draw) + torch.tensor([1.0, 0.0])[None, :, None]
        u = torch.randn(N, 3, 2, generator=draw)
        # of a prompt
        level = torch.randn(blocks, 1, 1, generator=draw).expand(-1, 32, -1).reshape(N, 1)
        self.r = (
            torch.einsum("nld,ldf->nf", u, self.A)
            + noise * torch.randn(N, 3, generator=draw)
            + 3 * level
        )
        self.G = torch.einsum("nld,ldq->nlq", u, self.W).reshape(blocks, 32, 1, 3, 24)
        self.small = torch.arange(N) // 8
        self.cells = torch.einsum("ldf,ldq->lfq", self.A, self.W)  # E r_f G_l

    def true(self, c):
        """The expectation of the gradient with weights c (L, F), A_j = c_j · r / F."""
        return torch.einsum("lf,lfq->q", c, self.cells) / 9

    def judge(self, study, advantage, times=0):
        stacked = torch.stack([estimators.whole_clip(self.r.mean(1), self.small, 3), advantage])
        weights, mixes = stacked.reshape(2, self.blocks, 32, 1, 3), torch.ones(1, 1)
        made = [
            how(weights, lambda b: self.G[b], mixes, self.blocks)
            for how in (study.pairs, study.sums)
        ]
        drawn = study.resampled(self.blocks, 24, times)
        return study.judge(*made, drawn, drawn, 1, 0), made


@pytest.fixture(scope="module")
def toy():
    return Toy(mixing=0.3)


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_whole_clip_credit_is_unbiased(study, toy):
    judged, made = toy.judge(study, estimators.whole_clip(toy.r.mean(1), toy.small, 3))
    truth, blocks = toy.true(torch.ones(3, 3)), made[1].vectors[0, 0]
    error = blocks.mean(0) - truth
    assert (error / (blocks.std(0) / toy.blocks**0.5)).abs().max() < 4
    assert judged.cosine()[0] == pytest.approx(1, abs=1e-5)
    assert float(judged.reference[0]) == pytest.approx(float(truth @ truth), rel=0.1)
    assert float(study.across(blocks, torch.ones(1, toy.blocks))[0]) == pytest.approx(
        float(truth @ truth), rel=0.1
    )
    assert judged.equivalents()[0] == pytest.approx(1, rel=1e-4)


def test_leaving_one_out_only_lengthens_the_gradient(toy):
    value = toy.r.mean(1)
    plain = value - estimators.group_mean(value, toy.small)
    assert torch.allclose(estimators.leave_one_out(value, toy.small), plain * 8 / 7, atol=1e-6)


def test_noise_is_that_of_groups_of_eight(study, toy):
    """Without a baseline's cost the variance of one sample's gradient is E A²|Ḡ|² − |m|²;
    seven eighths are kept."""
    judged, _ = toy.judge(study, estimators.whole_clip(toy.r.mean(1), toy.small, 3))
    deviation = toy.r.mean(1) - toy.r.reshape(-1, 32, 3).mean((1, 2)).repeat_interleave(32)
    lengths = toy.G.mean((2, 3)).flatten(0, 1).square().sum(-1)
    single = float((deviation.square() * lengths).mean() * 32 / 31)
    # and 1/7 of it more, from the others in the baseline
    expected = (single - float(judged.reference[0])) / 8
    assert expected < float(judged.noise[0]) < expected * 8 / 7 * 1.1


@pytest.mark.parametrize("mixing", [0.0, 0.3, 0.6])
def test_the_bias_of_local_credit_is_that_of_its_closed_form(study, mixing):
    toy = Toy(mixing)
    judged, _ = toy.judge(study, estimators.leave_one_out(toy.r, toy.small))
    expected = cosine(toy.true(torch.eye(3)), toy.true(torch.ones(3, 3)))
    assert judged.cosine()[0] == pytest.approx(expected, abs=0.03)


def test_local_credit_pays_where_nothing_mixes(study):
    toy = Toy(mixing=0.0, noise=0.1)
    judged, _ = toy.judge(study, estimators.leave_one_out(toy.r, toy.small), times=100)
    low, high = judged.equivalents()[1:].quantile(torch.tensor([0.025, 0.975]))
    assert 2 < low < 3 < high < 4.5  # one of three equal sources of noise is left


def test_least_squares_beat_influence_and_whole_clip(study, toy):
    """Two frames of the three carry noise of their own; weights that know it are worth more
    samples."""
    loud = toy.r.clone()
    loud[:, 1:] += 2 * torch.randn(len(loud), 2, generator=torch.Generator().manual_seed(5))
    other = Toy(mixing=0.3)
    other.r = loud
    moved = other.A.square().sum(1).sqrt()  # (L, F): I = √T
    by = {
        "influence": estimators.influence_weighted(loud, moved, other.small),
        "gls": estimators.gls(loud, moved, other.small, ridge=0.01),
    }
    worth = {name: float(other.judge(study, one)[0].equivalents()[0]) for name, one in by.items()}
    assert worth["gls"] > 1.04 * worth["influence"] > 1.5


def test_permuted_credit_loses(study, toy):
    own = estimators.leave_one_out(toy.r, toy.small)
    mixed = estimators.permuted(own, torch.Generator().manual_seed(0))
    assert float(toy.judge(study, mixed)[0].equivalents()[0]) < 0.6 * float(
        toy.judge(study, own)[0].equivalents()[0]
    )


def test_samples_are_worth_what_their_noise_leaves(study, toy):
    """Advantages with noise of their own: V grows by that noise's share, and more
    whole-clip samples are needed."""
    whole = estimators.whole_clip(toy.r.mean(1), toy.small, 3)
    noise = torch.randn(len(whole), 1, generator=torch.Generator().manual_seed(7)).expand(-1, 3)
    clean, loud = toy.judge(study, whole)[1][0], toy.judge(study, whole + noise)[1][1]
    once = study.resampled(toy.blocks, 24, 0)
    judged = study.judge(clean, loud, once, once, 1, 0)
    added = float(toy.G.mean((2, 3)).square().sum(-1).mean()) / 8
    assert float(judged.noise[0] - judged.reference_noise[0]) == pytest.approx(added, rel=0.2)
    assert float(judged.equivalents()[0]) == pytest.approx(
        float(judged.reference_noise[0] / judged.noise[0]), rel=1e-4
    )


def test_hindsight_is_a_ceiling(study):
    toy = Toy(mixing=0.3)
    away = estimators.leave_one_out(toy.r, toy.small).reshape(toy.blocks, 32, 1, 3)
    sigma = estimators.pooled_covariance(toy.r, toy.small, 0.0)
    best = study.hindsight(away, sigma, torch.arange(toy.blocks) % 2, lambda b: toy.G[b])[
        1
    ].reshape(-1, 3)
    own = estimators.leave_one_out(toy.r, toy.small)
    assert float(toy.judge(study, best)[0].equivalents()[0]) > 0.98 * float(
        toy.judge(study, own)[0].equivalents()[0]
    )


def test_linear_weights_are_read_back(study):
    draw = torch.Generator().manual_seed(0)
    away, weights = torch.randn(50, 6, generator=draw), torch.randn(2, 3, 6, generator=draw)
    away[:, 5] = 0.0  # a part that never moves has no weight to be read
    found = study.linear(torch.einsum("klx,nx->knl", weights, away), away)
    assert torch.allclose(found[..., :5], weights[..., :5], atol=1e-5) and not found[..., 5].any()


def test_no_sample_meets_itself_in_a_product(study):
    # of each member and of each block alone: every other product is 0
    scores = torch.eye(4).reshape(1, 4, 1, 1, 4)
    found = study.pairs(torch.ones(1, 1, 4, 1, 1), lambda b: scores[b], torch.ones(1, 1), 1)
    assert found.square.abs().max() < 1e-6 and torch.allclose(
        found.reference, torch.full((1, 1, 4), 0.25)
    )
    assert study.across(torch.eye(4), torch.tensor([[1.0, 1, 1, 1], [2, 0, 1, 1]])).tolist() == [
        0.0,
        0.0,
    ]


# ---- Arms


def test_sums_of_frames_are_whole_clip_credit_between_them(study):
    """Σ_j of what each segment's frames add is the value, and α = 0 of a blend is
    whole-clip credit."""
    curves = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0))
    data = study.Data(curves, {}, [(0, 1), (1, 5)], ["a", "b"], ["frame", "pair"])
    weights = torch.tensor([2.0, 3.0])
    value = torch.einsum("p,npf->n", weights, curves) / 5
    assert torch.allclose(
        study.local(curves, weights, data, "sum", data.spans).sum(1), value, atol=1e-6
    )
    mean = study.local(curves, weights, data, "mean", data.spans)
    assert torch.allclose(mean[:, 0], torch.einsum("p,np->n", weights, curves[:, :, 0]), atol=1e-6)


def test_far_seeing_parts_are_credited_everywhere(study):
    curves = torch.randn(6, 1, 5, generator=torch.Generator().manual_seed(0))
    data = study.Data(curves, {}, [(0, 1), (1, 5)], ["drift"], ["prefix"])
    found = study.local(curves, torch.ones(1), data, "sum", data.spans)
    assert torch.allclose(found, curves[:, 0].mean(1, keepdim=True).expand(-1, 2))


def test_uneven_segments_weigh_frames_unevenly(study):
    """A mean over two segments of three and two latent frames gives each frame 1/6 or 1/4
    instead of 1/5."""
    assert torch.allclose(
        study.per_latent_frame(torch.ones(1, 2), 2, 5)[0] / 5, torch.tensor([1, 1, 1, 1.5, 1.5]) / 6
    )
