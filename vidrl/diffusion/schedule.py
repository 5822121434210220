"""A schedule says which denoising steps draw noise, and how much each step and segment counts.

Legend: K steps; times fall from 1 to 0; a step goes from t to s < t.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import torch
from torch import Tensor

from . import transition
from .path import Path
from .segments import borders

WINDOWS = ("progressive", "random", "decay", "exp_decay")


def default_sampler(path: Path) -> str:
    """Return the sampler that algorithms use by default: dance_sde on the straight path, else ddim.

    It is cps on a path whose scale is learned, where ddim would draw noise from t = 1 alone.

    Example:
        >>> from vidrl.diffusion.path import discrete, flow
        >>> default_sampler(flow()), default_sampler(discrete([0.9, 0.5]))
        ('dance_sde', 'ddim')
    """
    if path.learned:
        return "cps"
    return "dance_sde" if path.kind == "flow" else "ddim"


def may_draw(path: Path, sampler: str, times: Sequence[float], eta: float) -> Tensor:
    """Return whether each step t → s of a time grid may draw noise, (K,).

    A step may draw noise if s > 0, keep ≥ 0 and σ_t ≤ 4 σ_s.

    - keep ≥ 0: a step that draws noise keeps less of the predicted noise, so that x_s holds
      the noise σ_s that the later steps remove. Where keep < 0 the drawn noise exceeds σ_s,
      and the excess stays in the clip.
    - σ_t ≤ 4 σ_s: a steeper step ends nearly clean. The noise that it draws is too small to
      be seen in a clip, but its log-ratio is very sensitive: a change of the prediction is
      multiplied by (σ_t − σ_s)/σ_s or more. diffusers' flow grids contain such a step, from
      the smallest trained level's predecessor to that level; the next level is 0.

    On a path whose scale is learned, the step to 0 alone may draw noise: later steps would
    replace the noise of an earlier one, which therefore could not be credited.

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> may_draw(flow(), "flow_sde", [1.0, 0.6, 0.3, 0.001, 0.0], eta=0.7).tolist()
        [True, True, False, False]
    """
    grid = torch.as_tensor(times, dtype=torch.float64)
    t, s = grid[:-1], grid[1:]
    std, keep = transition.coefficients(path, sampler, t, s, eta, grid[1], strict=False)
    if path.learned:
        return (s == 0) & (std > 0)
    return (s > 0) & (keep >= 0) & (path.sigma(t) <= 4 * path.sigma(s))


def stochastic_steps(
    path: Path, sampler: str, times: Sequence[float], eta: float
) -> tuple[int, ...]:
    """Return the numbers of the steps that `may_draw` noise; raise ValueError if there is none.

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> stochastic_steps(flow(), "dance_sde", [1.0, 0.6, 0.3, 0.0], eta=0.3)
        (0, 1)
    """
    found = tuple(may_draw(path, sampler, times, eta).nonzero().flatten().tolist())
    if not found:
        grid = ", ".join(f"{t:.4g}" for t in times)
        raise ValueError(
            f"expected a stochastic step, got none of {len(times) - 1} for {sampler} with eta "
            f"{eta} on the times {grid}: the last step and steps that end nearly clean draw no "
            "noise, nor do steps without room for it (keep < 0); take two steps or more, or lower "
            "eta"
        )
    return found


def window_start(round: int, places: int, stride: int, how: str, draw: torch.Generator) -> int:
    """Return where the window of stochastic steps begins in a round, in [0, places).

    This is MixGRPO (arXiv 2507.21802). `how`, from the noisy end (place 0) to the clean one:

    - "progressive" stays `stride` rounds at each place, and begins again after the last.
    - "random" draws a place.
    - "decay" stays stride · (1 − l/places) rounds at place l, at least one.
    - "exp_decay" stays stride · exp(−4 l/places) rounds at place l, at least one.

    The decaying schedules spend most rounds at the noisy end, where motion and layout are
    decided.

    Example:
        >>> [window_start(r, 3, 2, "progressive", torch.Generator()) for r in range(7)]
        [0, 0, 1, 1, 2, 2, 0]
        >>> [window_start(r, 3, 3, "decay", torch.Generator()) for r in range(7)]
        [0, 0, 0, 1, 1, 2, 0]
    """
    if how not in WINDOWS or stride < 1 or places < 1:
        raise ValueError(
            f"expected a schedule out of {', '.join(WINDOWS)}, a stride of 1 or more and a place, "
            f"got {how!r}, {stride} and {places}"
        )
    if how == "random":
        return int(torch.randint(places, (), generator=draw))
    progress = [place / places for place in range(places)]
    fractions = {
        "progressive": [1.0] * places,
        "decay": [1 - x for x in progress],
        "exp_decay": [exp(-4 * x) for x in progress],
    }
    # int(x + 0.5) rounds half up; round() would round half to even
    stays = [max(1, int(stride * fraction + 0.5)) for fraction in fractions[how]]
    visited = [place for place, stay in enumerate(stays) for _ in range(stay)]
    return visited[round % len(visited)]


def sensitivity(
    path: Path, sampler: str, t: Tensor, s: Tensor, eta: float, second: float | None = None
) -> Tensor:
    """Return the sensitivity c = |∂mean/∂raw|/std of a step t → s, of the shape of t.

    c is the number of std by which the mean moves when the prediction moves by one; `second`
    is that of `transition.coefficients`. The gradient of a
    log-ratio with respect to the prediction is proportional to c (c(t) of Flash-GRPO, arXiv
    2605.15980, which states it for dance_sde; here it is computed for every sampler).

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> t = torch.tensor([0.5], dtype=torch.float64)
        >>> sensitivity(flow(), "dance_sde", t, t - 0.25, eta=0.3)  # √Δ/η + η√Δ (1 − t)/(2t)
        tensor([1.7417], dtype=torch.float64)
    """
    # The mean is linear in the prediction: its derivative is the mean at x = 0 and raw = 1.
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    step = transition.step(path, sampler, one, zero, t, s, eta, second)
    return step.mean.abs() / step.std


def divergence_weight(
    path: Path, sampler: str, t: Tensor, s: Tensor, eta: float, second: float | None, kl: str
) -> Tensor:
    """Return the factor that turns the KL of a step, (μ − μ')²/(2 std²), into the measure `kl`.

    The factor has the shape of t. The measures:

    - "step": the KL itself, factor 1.
    - "time": (μ − μ')²/(2 g²), where std² = g² (t − s) (Flow-GRPO).
    - "mean": (μ − μ')² (Flow-Factory's x-based).
    - "velocity": the squared difference of the predictions (Flow-Factory's v-based).

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> t = torch.tensor([0.5], dtype=torch.float64)
        >>> divergence_weight(flow(), "dance_sde", t, t - 0.25, 0.3, None, "time")
        tensor([0.2500], dtype=torch.float64)
    """
    if kl == "velocity":
        return 2 / sensitivity(path, sampler, t, s, eta, second) ** 2
    if kl == "mean":
        return 2 * transition.coefficients(path, sampler, t, s, eta, second)[0] ** 2
    return t - s if kl == "time" else torch.ones_like(t)


def step_weights(
    path: Path,
    sampler: str,
    times: Sequence[float],
    steps: Sequence[int],
    eta: float,
    kind: str = "uniform",
) -> Tensor:
    """Return how much each of the `steps` counts in a loss, (K,), float64, with mean 1.

    The kinds, before the division by their mean:

    - "uniform": 1.
    - "rectified": 1/c, where c is the `sensitivity` of the step (Flash-GRPO, arXiv
      2605.15980). Early steps decide the motion and have a small sensitivity; with this
      weight they count as much as late steps. At flow shift 5, c varies 62-fold over the
      steps of flow_sde, 101-fold for cps, 4-fold for dance_sde.
    - "noise": the std of the step (TempFlow-GRPO, 2508.04324, whose code has 2.25 std).
    - "inverse_length": 1/(t − s) (GRPO-Guard, 2510.22319).

    `steps` must list every step that may be drawn in some round, not the steps of one round:
    otherwise the weight of a step would depend on the steps that are drawn with it.

    Example:
        >>> from vidrl.diffusion.path import flow
        >>> times, steps = [1.0, 0.6, 0.5, 0.0], [0, 1]
        >>> step_weights(flow(), "dance_sde", times, steps, 0.3, "noise")  # 0.3 √0.4, 0.3 √0.1
        tensor([1.3333, 0.6667], dtype=torch.float64)
        >>> times = [1.0, 0.5, 0.25, 0.0]  # sensitivities 1.414 and 1.621
        >>> step_weights(flow(), "cps", times, steps, 0.5, "rectified")
        tensor([1.0682, 0.9318], dtype=torch.float64)
    """
    grid, index = torch.tensor(times, dtype=torch.float64), torch.tensor(list(steps))
    t, s = grid[index], grid[index + 1]
    if kind == "rectified":
        weights = 1 / sensitivity(path, sampler, t, s, eta, times[1])
    elif kind == "noise":
        weights = transition.coefficients(path, sampler, t, s, eta, times[1], strict=False)[0]
    else:
        weights = {"uniform": torch.ones_like(t), "inverse_length": 1 / (t - s)}[kind]
    return weights / weights.mean()


def segment_fractions(frames: int, segments: int) -> Tensor:
    """Return each segment's fraction of the latent frames times S, S |S_j|/L, (S,), mean 1.

    A loss that is the mean over segments uses them as weights: segments of uneven lengths
    then count by their latent frames, and the objective is the same for every S.

    Example:
        >>> segment_fractions(5, 2)
        tensor([1.2000, 0.8000], dtype=torch.float64)
    """
    return torch.tensor(
        [(b - a) * segments / frames for a, b in borders(frames, segments)], dtype=torch.float64
    )
