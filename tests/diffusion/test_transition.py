"""vidrl.diffusion.transition against hand-computed numbers, the published code's formulas,
diffusers, and analytic Gaussians.

The formulas of Flow-GRPO, DanceGRPO and Flow-CPS are written out again from their public
code in terms of (x, v, dt), which vidrl.diffusion.transition does not use.
"""

from math import log, pi, sqrt

import pytest
import torch
from torch import Tensor

from vidrl.diffusion.path import Path, discrete, flow
from vidrl.diffusion.schedule import may_draw
from vidrl.diffusion.segments import pool
from vidrl.diffusion.transition import SAMPLERS, Step, coefficients, divergence, log_density, step

F64 = torch.float64
CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.06, 100, dtype=F64), 0)
STOCHASTIC = [s for s in SAMPLERS if s != "ode"]
ETA = {"ode": 0.0, "ddim": 0.5, "cps": 0.7, "flow_sde": 0.7, "dance_sde": 0.3}


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def draw(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 4, 2, 2)), dtype=F64)


# The table


@pytest.mark.parametrize(
    "sampler, eta, std, keep",
    [
        ("ode", 0.0, 0.0, 0.5),
        # 0.64 − (0.2/0.5)² 0.25 = 0.6; 0.25 − 0.05859 = 0.4375²
        ("ddim", 0.5, 0.5 * 0.5 / 0.8 * sqrt(0.6), 0.4375),
        ("cps", 1 / 3, 0.25, 0.5 * sqrt(3) / 2),  # 30 degrees
        ("flow_sde", 0.7, 1.4 * sqrt(0.3), 0.5 - 0.588 / 1.6),  # 0.8/0.2 = 2²
        ("dance_sde", 0.3, 0.3 * sqrt(0.3), 0.5 - 0.027 / 1.6),
    ],
)
def test_table_by_hand(sampler: str, eta: float, std: float, keep: float) -> None:
    got = coefficients(flow(), sampler, at(0.8), at(0.5), eta)
    assert [float(c) for c in got] == pytest.approx([std, keep], abs=1e-12)


def test_mean_by_hand() -> None:
    """x = 2, v = 1 at t = 0.8: x̂0 = 1.2, ε̂ = 2.2; Flow-CPS at 30 degrees keeps 0.5 cos
    30°."""
    out = step(flow(), "cps", torch.ones(1, 1), torch.full((1, 1), 2.0), 0.8, 0.5, eta=1 / 3)
    assert float(out.mean) == pytest.approx(0.5 * 1.2 + 0.4330127 * 2.2) and float(
        out.std
    ) == pytest.approx(0.25)


# The published formulas


def published_flow_grpo(
    x: Tensor, v: Tensor, sigmas: list[float], i: int, a: float
) -> tuple[Tensor, float]:
    """Flow-GRPO's sde_step_with_logprob (arXiv 2505.05470): (mean, total std)."""
    sigma, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
    g = a * sqrt(sigma / (1 - (sigmas[1] if sigma == 1 else sigma)))
    mean = x * (1 + g**2 / (2 * sigma) * dt) + v * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, g * sqrt(-dt)


def published_dance_grpo(
    x: Tensor, v: Tensor, sigmas: list[float], i: int, a: float
) -> tuple[Tensor, float]:
    """DanceGRPO's flux_step (arXiv 2505.07818)."""
    sigma, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
    clean = x - sigma * v
    score = -(x - (1 - sigma) * clean) / sigma**2
    return x + dt * v - 0.5 * a**2 * score * dt, a * sqrt(-dt)


def published_flow_cps(
    x: Tensor, v: Tensor, sigmas: list[float], i: int, a: float
) -> tuple[Tensor, float]:
    """Flow-CPS (arXiv 2509.05952)."""
    sigma, after = sigmas[i], sigmas[i + 1]
    std = after * float(torch.sin(at(a * pi / 2)))
    clean, noise = x - sigma * v, x + (1 - sigma) * v
    return (1 - after) * clean + sqrt(after**2 - std**2) * noise, std


@pytest.mark.parametrize(
    "sampler, published",
    [
        ("flow_sde", published_flow_grpo),
        ("dance_sde", published_dance_grpo),
        ("cps", published_flow_cps),
    ],
)
@pytest.mark.parametrize("i", [0, 1, 5, 8])
def test_published_formula(sampler: str, published: object, i: int) -> None:
    sigmas = [3 * s / (1 + 2 * s) for s in torch.linspace(1, 0, 11, dtype=F64).tolist()]
    x, v = draw(), draw()
    mean, std = published(x, v, sigmas, i, ETA[sampler])
    got = step(flow(), sampler, v, x, sigmas[i], sigmas[i + 1], ETA[sampler], second=sigmas[1])
    assert torch.allclose(got.mean, mean, atol=1e-12) and float(got.std) == pytest.approx(
        std, abs=1e-12
    )
    after = draw()
    published_log = (-((after - mean) ** 2) / (2 * std**2) - log(std) - 0.5 * log(2 * pi)).mean(
        (1, 2, 3, 4)
    )
    assert torch.allclose(pool(log_density(got, after), 1)[:, 0], published_log, rtol=1e-12)


def test_published_ddpo() -> None:
    """DDPO's ddim_step_with_logprob (arXiv 2305.13301), from the cumulative products."""
    path, x, eps = discrete(CUMPROD), draw(), draw()
    now, after = CUMPROD[60], CUMPROD[40]
    std = 0.8 * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
    clean = (x - (1 - now).sqrt() * eps) / now.sqrt()
    got = step(path, "ddim", eps, x, 0.61, 0.41, eta=0.8)
    assert torch.allclose(
        got.mean, after.sqrt() * clean + (1 - after - std**2).sqrt() * eps, atol=1e-12
    )
    assert torch.allclose(got.std, std)


def test_dance_is_flow_sde_of_constant_g() -> None:
    x, v = draw(), draw()
    for t, s in ((0.9, 0.7), (0.4, 0.35)):
        constant = step(flow(), "dance_sde", v, x, t, s, eta=0.7 * sqrt(t / (1 - t)))
        varying = step(flow(), "flow_sde", v, x, t, s, eta=0.7)
        assert torch.allclose(constant.mean, varying.mean, atol=1e-12) and torch.allclose(
            constant.std, varying.std
        )


# diffusers


def test_ode_is_diffusers_flow_euler() -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs vidrl[train]")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    times = scheduler.sigmas.tolist()
    x, same = (torch.randn(2, 3, 2, 4, 4),) * 2
    for i, t in enumerate(scheduler.timesteps):
        v = torch.randn_like(x)
        x = scheduler.step(v, t, x).prev_sample
        same = step(flow(), "ode", v, same, times[i], times[i + 1]).mean
        assert torch.allclose(same, x, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    "predicts, diffusers_name", [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")]
)
def test_ddim_is_diffusers_ddim(eta: float, predicts: str, diffusers_name: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="needs vidrl[train]")
    ddim = diffusers.DDIMScheduler(
        num_train_timesteps=100, prediction_type=diffusers_name, clip_sample=False
    )
    ddim.set_timesteps(10)
    path = discrete(ddim.alphas_cumprod, predicts)
    x, same = (torch.randn(2, 3, 4, 4),) * 2
    for t in ddim.timesteps:
        raw, noise = torch.randn_like(x), torch.randn_like(x)
        x = ddim.step(raw, t, x, eta=eta, variance_noise=noise).prev_sample
        before = (int(t) - 10 + 1) / 100 if t >= 10 else 0.0
        same = step(path, "ddim", raw, same, (int(t) + 1) / 100, before, eta).sample(noise)
        assert torch.allclose(same, x, rtol=1e-4, atol=1e-4)


# Marginals of an analytic Gaussian: x0 ~ N(0, SPREAD²), so that x_t ~ N(0, α² SPREAD² + σ²)

SPREAD = 0.5


@pytest.mark.parametrize("path", [flow(), discrete(CUMPROD, "flow")], ids=["flow", "vp"])
@pytest.mark.parametrize("sampler", ["ode", "ddim", "cps"])
@pytest.mark.parametrize("t, s", [(1.0, 0.9), (0.8, 0.3), (0.31, 0.3)])
def test_oracle_keeps_the_marginal_exactly(path: Path, sampler: str, t: float, s: float) -> None:
    """With the true (x0, ε) the step's noise and what it keeps of ε add up to σ_s."""
    for eta in (0.0,) if sampler == "ode" else (0.0, 0.4, 1.0):
        std, keep = coefficients(path, sampler, at(t), at(s), eta)
        assert float(std**2 + keep**2) == pytest.approx(float(path.sigma(at(s)) ** 2), abs=1e-12)


@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde"])
def test_oracle_keeps_the_marginal_of_an_sde_to_first_order(sampler: str) -> None:
    """A step's error in variance falls as Δt², so a rollout's falls as Δt."""

    def error(width: float) -> float:
        std, keep = coefficients(flow(), sampler, at(0.6), at(0.6 - width), ETA[sampler])
        return abs(float(std**2 + keep**2) - (0.6 - width) ** 2)

    for width in (0.1, 0.01, 0.001):
        assert error(width) / error(width / 2) == pytest.approx(4, rel=0.02 + 4 * width)


def contraction(sampler: str, eta: float, steps: int, path: Path | None = None) -> float:
    """Std of what a rollout with the exact posterior mean makes, over the true std.

    Mean and std of each step are read from `step` itself: x̂0 is linear in x, so x_s = c
    x_t + std z. Steps that may not draw noise are ode steps, as in a plan.
    """
    path, one, times = (
        path or flow(),
        torch.ones(1, 1, dtype=F64),
        torch.linspace(1, 0, steps + 1, dtype=F64).tolist(),
    )
    noisy = may_draw(path, sampler, times, eta).tolist()
    variance = float(path.alpha(at(1.0)) * SPREAD) ** 2 + float(path.sigma(at(1.0))) ** 2
    for t, s, draws in zip(times[:-1], times[1:], noisy, strict=True):
        alpha, sigma = path.alpha(at(t)), path.sigma(at(t))
        clean = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * one
        raw = path.target(clean, (one - alpha * clean) / sigma, t)
        out = step(path, sampler if draws else "ode", raw, one, t, s, eta, second=times[1])
        variance = float(out.mean) ** 2 * variance + float(out.std) ** 2
    return sqrt(variance) / SPREAD


@pytest.mark.parametrize(
    "sampler, eta, at_20",
    [
        ("ode", 0.0, 0.928),
        ("ddim", 0.5, 0.916),
        ("ddim", 1.0, 0.866),
        ("flow_sde", 0.7, 0.983),
        ("dance_sde", 0.3, 0.939),
    ],
)
def test_posterior_mean_converges(sampler: str, eta: float, at_20: float) -> None:
    """Measured: the std at K = 20 is the share above, and the error goes as 1/K (flow_sde's
    crosses 0 on its way)."""
    assert contraction(sampler, eta, 20) == pytest.approx(at_20, abs=1e-3)
    far, near = (abs(1 - contraction(sampler, eta, k)) for k in (80, 640))
    assert near < 0.006 and (near < far / 4 or sampler == "flow_sde")


def test_posterior_mean_converges_on_a_discrete_path() -> None:
    path = discrete(CUMPROD, "eps")
    for eta in (0.0, 1.0):
        assert contraction("ddim", eta, 100, path) == pytest.approx(1, abs=0.05)
        assert (
            abs(1 - contraction("ddim", eta, 100, path))
            < abs(1 - contraction("ddim", eta, 20, path)) / 2
        )


@pytest.mark.parametrize("eta, at_20", [(0.3, 0.903), (0.5, 0.856), (0.7, 0.788), (1.0, 0.652)])
def test_cps_contracts(eta: float, at_20: float) -> None:
    """Measured: a Gaussian of std 0.5 comes out of Flow-CPS at 0.79 of it (η = 0.7, K = 20;
    the ODE: 0.93), and more steps hardly mend that (0.85 at K = 1000; the ODE: 0.998),
    since a posterior mean's ε̂ is narrower than ε."""
    assert contraction("cps", eta, 20) == pytest.approx(at_20, abs=1e-3)
    assert contraction("cps", eta, 20) < contraction("cps", eta, 1000) < 1 - 0.02 * eta


# Densities


def test_log_density_is_torchs() -> None:
    out = Step(draw(), torch.tensor(0.37, dtype=F64))
    x = draw()
    expected = torch.distributions.Normal(out.mean, out.std).log_prob(x)
    assert torch.allclose(log_density(out, x), expected, atol=1e-12)


def test_divergence_is_torchs() -> None:
    std, means = torch.tensor(0.37, dtype=F64), (draw(), draw())
    steps = [Step(mean, std) for mean in means]
    normals = [torch.distributions.Normal(mean, std) for mean in means]
    assert torch.allclose(
        divergence(*steps), torch.distributions.kl_divergence(*normals), atol=1e-12
    )


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("t, s", [(1.0, 0.8), (0.6, 0.5)])
def test_gradient_of_the_log_density(sampler: str, t: float, s: float) -> None:
    """Against finite differences in float64, for raw predictions, segment by segment."""
    x, after = draw(2, 2, 3, 1, 1), draw(2, 2, 3, 1, 1)

    def densities(raw: Tensor) -> Tensor:
        return pool(
            log_density(step(flow(), sampler, raw, x, t, s, ETA[sampler], second=0.8), after), 2
        )

    assert torch.autograd.gradcheck(densities, draw(2, 2, 3, 1, 1).requires_grad_())


@pytest.mark.parametrize("predicts", ["eps", "v", "x0", "flow"])
def test_gradient_for_every_prediction(predicts: str) -> None:
    path, x, after = discrete(CUMPROD, predicts), draw(1, 2, 2), draw(1, 2, 2)

    def density(raw: Tensor) -> Tensor:
        return log_density(step(path, "ddim", raw, x, 0.6, 0.4, 0.5), after)

    assert torch.autograd.gradcheck(density, draw(1, 2, 2).requires_grad_())


def test_samples_have_the_steps_mean_and_std() -> None:
    out = step(flow(), "dance_sde", torch.zeros(1, 1), torch.ones(1, 1), 0.5, 0.25, eta=0.8)
    x = out.sample(torch.randn(1, 200_000))
    assert float(x.mean()) == pytest.approx(float(out.mean), abs=5e-3) and float(
        x.std()
    ) == pytest.approx(0.4, abs=5e-3)


# Ends, batches, types


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_last_step_is_the_clean_estimate_without_noise(sampler: str) -> None:
    x, v = draw(), draw()
    out = step(flow(), sampler, v, x, 0.2, 0.0, ETA[sampler])
    assert torch.allclose(out.mean, x - 0.2 * v, atol=1e-12) and float(out.std) == 0


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_no_noise_is_the_ode(sampler: str) -> None:
    x, v = draw(), draw()
    quiet, ode = (step(flow(), name, v, x, 0.7, 0.4, eta=0.0) for name in (sampler, "ode"))
    assert torch.allclose(quiet.mean, ode.mean, atol=1e-12) and float(quiet.std) == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_time_a_sample_is_each_sample_at_its_time(sampler: str) -> None:
    x, v = draw(), draw()
    t, s = torch.tensor([1.0, 0.5], dtype=F64), torch.tensor([0.9, 0.3], dtype=F64)
    together = step(flow(), sampler, v, x, t, s, ETA[sampler], second=0.9)
    for i in range(2):
        alone = step(
            flow(),
            sampler,
            v[i : i + 1],
            x[i : i + 1],
            float(t[i]),
            float(s[i]),
            ETA[sampler],
            second=0.9,
        )
        assert torch.equal(together.mean[i : i + 1], alone.mean) and torch.equal(
            together.std[i].squeeze(), alone.std.squeeze()
        )


@pytest.mark.parametrize(
    "given, kept", [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (F64, F64)]
)
def test_arithmetic_is_float32_or_better(given: torch.dtype, kept: torch.dtype) -> None:
    x = torch.randn(1, 2, dtype=given)
    out = step(flow(), "dance_sde", x, x, 0.5, 0.3, 0.3)
    assert {out.mean.dtype, out.std.dtype, out.sample(x).dtype, log_density(out, x).dtype} == {kept}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sampler": "euler"}, "a sampler out of ode, ddim, cps, flow_sde, dance_sde, got 'euler'"),
        (
            {"sampler": "flow_sde", "path": discrete(CUMPROD)},
            "flow_sde needs the flow path .* got a vp path: use ddim or cps",
        ),
        ({"sampler": "dance_sde", "path": discrete(CUMPROD)}, "dance_sde needs the flow path"),
        ({"sampler": "ddim", "eta": 1.5}, "at most 1 for ddim and cps, got 1.5 for ddim"),
        ({"sampler": "cps", "eta": 1.01}, "at most 1 for ddim and cps"),
        ({"sampler": "dance_sde", "eta": -0.1}, "η ≥ 0, .* got -0.1"),
        ({"sampler": "flow_sde", "t": 1.0}, "flow_sde at t = 1 needs `second`, .*: pass times"),
    ],
)
def test_errors(change: dict[str, object], words: str) -> None:
    right = {"path": flow(), "raw": draw(), "x": draw(), "t": 0.5, "s": 0.4, "eta": 0.5}
    with pytest.raises(ValueError, match=words):
        step(**(right | change))


def test_a_deterministic_step_has_no_density() -> None:
    with pytest.raises(ValueError, match="expected a step with std > 0, got a deterministic one"):
        log_density(step(flow(), "ode", draw(), draw(), 0.5, 0.4), draw())


@pytest.mark.parametrize(
    "sampler, eta, t, s",
    [
        ("dance_sde", 0.3, 0.183, 0.0089),  # shift 3, 16 steps of diffusers: keep −0.0339
        ("flow_sde", 0.7, 0.112, 0.001),  # shift 1, 10 steps: keep −0.0296
        ("flow_sde", 0.7, 0.3951, 0.0244),  # shift 5, 10 steps
        ("dance_sde", 2.0, 0.5, 0.25),  # keep 0.25 − 1/1
    ],
)
def test_a_noise_beyond_what_the_step_has_room_for_is_an_error(
    sampler: str, eta: float, t: float, s: float
) -> None:
    with pytest.raises(
        ValueError, match=f"that the step has room for, got {sampler} with eta {eta} and keep = -"
    ):
        coefficients(flow(), sampler, at(t), at(s), eta)
    with pytest.raises(
        ValueError, match="lower eta, take more steps, or let this step draw no noise"
    ):
        step(flow(), sampler, draw(), draw(), t, s, eta)
    assert float(coefficients(flow(), sampler, at(t), at(s), eta, strict=False)[1]) < 0


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_each_sample_of_a_batch_must_have_room(sampler: str) -> None:
    t, s = torch.tensor([0.8, 0.112], dtype=F64), torch.tensor([0.6, 0.001], dtype=F64)
    if sampler in ("ddim", "cps"):  # std² + keep² = σ_s² there, whatever the step
        std, keep = coefficients(flow(), sampler, t, s, 1.0)
        assert torch.allclose(std**2 + keep**2, s**2) and bool((keep >= 0).all())
    else:
        with pytest.raises(ValueError, match="that the step has room for"):
            coefficients(flow(), sampler, t, s, ETA[sampler])
