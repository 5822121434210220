"""Fit the heads of a reward: a linear one by Newton's method, a small nonlinear one by an ensemble.

Legend: C clips, F frames, K features, N choices, L local comparisons, P points, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vidrl.feedback.fit_data import Data
from vidrl.feedback.fit_loss import davidson, ordinal
from vidrl.rewards._fitted.heads import members

Loss = Callable[[Tensor], Tensor]
STDS = (0.1, 0.2, 0.4, 0.8, 1.6)  # of the prior of a weight, tried by the evidence
BESIDE_STD = 3.0  # of the prior of ties, side, thresholds
OFFSET_STD = 1.0  # of the prior of a rater's offset in points
STEPS = 60  # of Newton's method, at most
HIDDEN = 12  # units of the nonlinear head
MEMBERS = 5
EPOCHS = 150
DECAY = 0.02  # of the weights of the nonlinear head, beside the answers' mean log-likelihood


@dataclass(frozen=True)
class Frames:
    """Standardised features of all clips, padded: z (C, F, K) and the mask (C, F)."""

    z: Tensor
    mask: Tensor

    @property
    def mean(self) -> Tensor:
        """Return the mean features of each clip, (C, K)."""
        return (self.z * self.mask[..., None]).sum(1) / self.mask.sum(1, keepdim=True)


def standardised(curves: list[np.ndarray], centre: np.ndarray, scale: np.ndarray) -> Frames:
    """Return curves (F, K) of clips of several lengths as one tensor.

    What is not finite becomes the centre, as in the reward `fitted`.
    """
    longest = max(len(curve) for curve in curves)
    z = np.zeros((len(curves), longest, len(centre)))
    mask = np.zeros((len(curves), longest))
    for i, curve in enumerate(curves):
        found = (curve - centre) / scale
        z[i, : len(curve)] = np.where(np.isfinite(found), found, 0.0)
        mask[i, : len(curve)] = 1
    return Frames(torch.tensor(z), torch.tensor(mask))


@dataclass(frozen=True)
class Head:
    """A fitted head: its tensors, and what was fitted beside it.

    `tie` and `side` belong to the choices of whole clips; `std` is that of the prior;
    `evidence` the log of the evidence (NaN for the nonlinear head).
    """

    form: str
    tensors: dict[str, Tensor]
    tie: float
    side: float
    std: float = math.nan
    evidence: float = math.nan

    def scaled(self, factor: float) -> Head:
        """Return the head with all utilities times a factor."""
        powers = {"weights": 1, "covariance": 2, "linear": 1, "outer": 1}
        tensors = {
            name: tensor * factor ** powers.get(name, 0) for name, tensor in self.tensors.items()
        }
        return Head(self.form, tensors, self.tie, self.side * factor, self.std, self.evidence)

    def curves(self, frames: Frames) -> Tensor:
        """Return the utility of each frame, (C, F)."""
        if self.form == "linear":
            return frames.z @ self.tensors["weights"].to(frames.z)
        return members(frames.z, self.tensors).mean(0)

    def values(self, frames: Frames) -> Tensor:
        """Return the utility of each clip, (C,)."""
        return (self.curves(frames) * frames.mask).sum(1) / frames.mask.sum(1)


class _Labels:
    """The labels of a `Data` as tensors, and the parameters beside the head."""

    def __init__(self, data: Data, dtype: torch.dtype = torch.float64) -> None:
        def of(array: np.ndarray) -> Tensor:
            return torch.tensor(array).to(dtype)

        self.first, self.second = torch.tensor(data.first), torch.tensor(data.second)
        self.choice, self.weight = of(data.choice), of(data.weight)
        self.sided = of(data.sided)
        self.local_clips = torch.tensor(data.local_clips)
        self.local_first, self.local_second = of(data.local_first), of(data.local_second)
        self.local_choice, self.local_weight = of(data.local_choice), of(data.local_weight)
        self.scored = torch.tensor(data.scored)
        # a level that no point has would leave two thresholds without order
        seen, level = np.unique(data.level, return_inverse=True)
        self.level = torch.tensor(level)
        self.point_weight = torch.ones(len(self.scored), dtype=dtype)
        self.ballot, self.row = torch.tensor(data.ballots), torch.tensor(data.local_row)
        names = sorted(set(data.point_rater.tolist()))
        self.offset = torch.tensor([names.index(name) for name in data.point_rater.tolist()]).long()
        self.thresholds = max(len(seen) - 1, 0)
        self.raters = len(names) if len(names) > 1 else 0

    def resample(self, draw: torch.Generator) -> None:
        """Multiply the weights of all labels by exponential draws."""

        def drawn(count: int) -> Tensor:
            return -torch.rand(count, generator=draw).clamp(min=1e-6).log()

        of_choice = drawn(len(self.ballot))[self.ballot]
        of_local = torch.where(self.row < 0, drawn(len(self.row)), _at(of_choice, self.row))
        self.weight = self.weight * of_choice
        self.local_weight = self.local_weight * of_local
        self.point_weight = self.point_weight * drawn(len(self.point_weight))

    def start(self) -> Tensor:
        """Return the first values of τ, side, local τ, thresholds and raters' offsets."""
        ladder = torch.linspace(-1.5, 1.5, self.thresholds) if self.thresholds else torch.zeros(0)
        return torch.cat([torch.tensor([-1.0, 0.0, -0.5]), ladder, torch.zeros(self.raters)])

    def ascending(self, free: Tensor) -> Tensor:
        """Return parameters whose thresholds ascend, from free ones of the same number.

        The first threshold is free, and each further one adds the exponential of its number.
        """
        ends = 3 + self.thresholds
        steps = torch.cat([free[3:4], free[4:ends].exp()])[: self.thresholds]
        return torch.cat([free[:3], steps.cumsum(0), free[ends:]])

    def free(self, beside: Tensor) -> Tensor:
        """Return the free parameters of which `ascending` makes these."""
        found = beside.clone()
        found[4 : 3 + self.thresholds] = beside[3 : 3 + self.thresholds].diff().log()
        return found

    def prior(self, beside: Tensor) -> Tensor:
        """Return the negative log-prior of the parameters beside the head."""
        ends = 3 + self.thresholds
        wide, offsets = beside[:ends], beside[ends:]
        return (wide**2).sum() / (2 * BESIDE_STD**2) + (offsets**2).sum() / (2 * OFFSET_STD**2)

    def likelihood(self, gap: Tensor, local: Tensor, points: Tensor, beside: Tensor) -> Tensor:
        """Return the log-likelihood of all labels."""
        felt = gap + beside[1] * self.sided
        whole = davidson(felt, self.choice, beside[0]) @ self.weight
        total = whole + davidson(local, self.local_choice, beside[2]) @ self.local_weight
        if self.thresholds:
            offsets = beside[3 + self.thresholds :]
            felt = points + (offsets[self.offset] if self.raters else 0)
            found = ordinal(felt, self.level, beside[3 : 3 + self.thresholds])
            total = total + found @ self.point_weight
        return total


def _at(of_choice: Tensor, row: Tensor) -> Tensor:
    """Return the entry of each row, 0 for the row −1 of a marked fault."""
    return torch.cat([of_choice, of_choice.new_zeros(1)])[row]


def linear(data: Data, frames: Frames, stds: tuple[float, ...] = STDS) -> Head:
    """Fit the weights of the mean features; the prior's std is the one of largest evidence.

    The posterior is concave, so Newton's method finds its one maximum; the covariance is Laplace's.
    """
    labels, mean = _Labels(data), frames.mean
    gaps = mean[labels.first] - mean[labels.second]
    sides = [
        torch.einsum("lf,lfk->lk", weight, frames.z[labels.local_clips[:, n]])
        for n, weight in enumerate((labels.local_first, labels.local_second))
    ]
    local, points = sides[0] - sides[1], mean[labels.scored]
    width = gaps.shape[1]

    def loss(at: Tensor, std: float) -> Tensor:
        weights, beside = at[:width], at[width:]
        found = labels.likelihood(gaps @ weights, local @ weights, points @ weights, beside)
        return (weights**2).sum() / (2 * std**2) + labels.prior(beside) - found

    start = torch.cat([torch.zeros(width), labels.start()]).double()
    best: tuple[float, float, Tensor, Tensor] | None = None
    for std in stds:
        start, hessian = newton(partial(loss, std=std), start)
        evidence = float(
            -loss(start, std) - width * math.log(std) - torch.linalg.slogdet(hessian)[1] / 2
        )
        if best is None or evidence > best[0]:
            best = (evidence, std, start, hessian)
    assert best is not None
    evidence, std, found, hessian = best
    covariance = torch.linalg.inv(hessian)[:width, :width]
    tensors = {"weights": found[:width], "covariance": covariance}
    return Head("linear", tensors, float(found[width]), float(found[width + 1]), std, evidence)


def newton(loss: Loss, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the minimum of a convex function and its Hessian there.

    A step is halved until the function falls, so that it never leaves its domain.
    """
    at = start.clone()
    for _ in range(STEPS):
        slope, hessian = _derivatives(loss, at)
        step = torch.linalg.solve(hessian, slope)
        if slope @ step < 1e-8:
            break
        before, share = loss(at), 1.0
        while not loss(at - share * step) < before and share > 1e-8:
            share /= 2
        at = at - share * step
    return at, _derivatives(loss, at)[1]


def _derivatives(loss: Loss, at: Tensor) -> tuple[Tensor, Tensor]:
    leaf = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    rows = torch.autograd.grad(slope, leaf, torch.eye(len(at)).to(at), is_grads_batched=True)[0]
    return slope.detach(), rows.detach()


def temporal(
    data: Data,
    frames: Frames,
    start: Head,
    seed: int = 0,
    count: int = MEMBERS,
    epochs: int = EPOCHS,
) -> Head:
    """Fit an ensemble of nonlinear heads, each from the linear head `start` and its own bootstrap.

    A member sees the labels with the weights of a Bayesian bootstrap: exponential draws, one for
    each ballot with its local comparisons, for each marked fault, and for each point.
    """
    found = [
        _member(data, frames, start, seed * 1009 + m, epochs, bootstrap=count > 1)
        for m in range(count)
    ]
    names = ("linear", "outer", "bias", "window")
    tensors = {name: torch.stack([one[name] for one in found]) for name in names}
    beside = torch.stack([one["beside"] for one in found]).mean(0)
    return Head("temporal", tensors, float(beside[0]), float(beside[1]))


def _member(
    data: Data, frames: Frames, start: Head, seed: int, epochs: int, bootstrap: bool
) -> Mapping[str, Tensor]:
    """Return the tensors of one member, by Adam on all labels at once."""
    draw = torch.Generator().manual_seed(seed)
    labels, z = _Labels(data, torch.float32), frames.z.float()
    mask = frames.mask.float()
    width = z.shape[2]
    if bootstrap:
        labels.resample(draw)
    leaves = {
        "linear": start.tensors["weights"].float().clone(),
        "outer": 0.1 * torch.randn(HIDDEN, generator=draw),
        "bias": 0.5 * torch.randn(HIDDEN, generator=draw),
        "window": torch.randn(HIDDEN, 3 * width, generator=draw) / math.sqrt(3 * width),
        "beside": labels.free(labels.start()).float(),
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=0.02)
    answers = max(float(labels.weight.sum() + labels.point_weight.sum()), 1.0)
    for _ in range(epochs):
        head = {name: leaf[None] for name, leaf in leaves.items() if name != "beside"}
        u = members(z, head)[0]
        value = (u * mask).sum(1) / mask.sum(1)
        sides = [
            (u[labels.local_clips[:, n]] * weight).sum(1)
            for n, weight in enumerate((labels.local_first, labels.local_second))
        ]
        gap = value[labels.first] - value[labels.second]
        # Adam knows no bounds, so it moves parameters whose thresholds ascend whatever they are
        beside = labels.ascending(leaves["beside"])
        found = labels.likelihood(gap, sides[0] - sides[1], value[labels.scored], beside)
        size = sum((head[name] ** 2).sum() for name in ("linear", "outer", "window"))
        loss = (labels.prior(beside) - found) / answers + DECAY * size / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: leaf.detach().double() for name, leaf in leaves.items()}
