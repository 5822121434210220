"""How far training has moved the weights: the relative norm of their change from the
reference."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .policy import Policy

# lora_A and lora_B of one layer, as matrices (r, inputs) and (outputs, r)
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def weight_drift(policy: Policy, weights: str = "live") -> float:
    """‖w − w_ref‖ / ‖w_ref‖, over all trained layers, of a named set of weights against the
    set "reference".

    w are the effective weights. Under a LoRA those of a layer are W + s B A, with W the
    frozen weights and s the scale; only the layers that have a LoRA are counted, and no
    biases. Where all weights are trained, w are these. 0 before the first update.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> policy = Policy(Toy.tiny(), full=True)
        >>> for p in policy.weights.values():
        ...     p.data *= 1.5
        >>> round(weight_drift(policy), 6)
        0.5
    """
    moved, whole = (_full if policy.lora is None else _adapted)(policy, weights)
    return sqrt(max(moved, 0.0)) / max(sqrt(max(whole, 0.0)), 1e-30)


def _full(policy: Policy, weights: str) -> tuple[float, float]:
    """‖w − w_ref‖² and ‖w_ref‖²."""
    live = policy.sets[weights] if weights != "live" else list(policy.weights.values())
    pairs = list(zip(live, policy.sets["reference"], strict=True))
    moved, whole = (
        [x.double().square().sum() for x in made]
        for made in ((w - ref for w, ref in pairs), (ref for _, ref in pairs))
    )
    return float(sum(moved)), float(sum(whole))


def _adapted(policy: Policy, weights: str) -> tuple[float, float]:
    """‖w − w_ref‖² and ‖w_ref‖² under a LoRA, without a matrix of W's size.

    ‖B A − B' A'‖² = ‖D C‖², with D = [B, −B'] and C = [A; A'].
    """
    with policy.using(weights):
        now = [(a.clone(), b.clone()) for _, (a, b) in _layers(policy)]
    moved = whole = 0.0
    with policy.using("reference"):
        for (layer, (a, b)), (c, d) in zip(_layers(policy), now, strict=True):
            scale, base = layer.scaling["default"], layer.get_base_layer().weight.flatten(1)
            moved += scale**2 * _squared(torch.cat([c, a]), torch.cat([d, -b], 1))
            cross = float(((base.to(a) @ a.T).double() * b.double()).sum())
            whole += float(base.float().square().sum(dtype=torch.float64)) + 2 * scale * cross
            whole += scale**2 * _squared(a, b)
    return moved, whole


def _squared(a: Tensor, b: Tensor) -> float:
    """‖B A‖² = Σ (B'B) ∘ (A A'), in float64."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum())


def _layers(policy: Policy) -> Iterator[tuple[Any, Pair]]:
    """The layers that have a LoRA, with its matrices; a convolution's kernel counts as
    inputs."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[Any] = [
        one for one in policy.backbone.network.modules() if isinstance(one, BaseTunerLayer)
    ]
    for layer in found:
        yield (
            layer,
            (layer.lora_A["default"].weight.flatten(1), layer.lora_B["default"].weight.flatten(1)),
        )
