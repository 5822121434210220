"""Measure how far training has moved the weights from the reference."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from .policy import Policy
from .sharding import whole

# lora_A and lora_B of one layer, as matrices (r, inputs) and (outputs, r)
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def weight_drift(policy: Policy, weights: str = "live") -> float:
    """Return the weight drift ‖w − w_ref‖ / ‖w_ref‖ of a named set of weights; 0 at first.

    w and w_ref are the effective weights of all trained layers, under the named set and
    under the set "reference". With a LoRA, a layer's effective weights are W + s B A, where
    W are the frozen weights and s is the scale; only the layers that have a LoRA count, and
    no biases. Where all weights are trained, w are all weights.

    Example:
        >>> from vidrl.backbones.toy import Toy
        >>> policy = Policy(Toy.tiny(), full=True)
        >>> for p in policy.weights.values():
        ...     p.data *= 1.5
        >>> round(weight_drift(policy), 6)
        0.5
    """
    change, reference = (_full if policy.lora is None else _adapted)(policy, weights)
    # rounding may make a squared norm slightly negative
    return sqrt(max(change, 0.0)) / max(sqrt(max(reference, 0.0)), 1e-30)


def _full(policy: Policy, weights: str) -> tuple[float, float]:
    """Return ‖w − w_ref‖² and ‖w_ref‖² where all weights are trained."""
    live = policy.sets[weights] if weights != "live" else list(policy.weights.values())
    pairs = list(zip(live, policy.sets["reference"], strict=True))
    # whole sums of sharded tensors: the sum over a part of the rows is added up by torch
    change = sum(float(whole((w - ref).double().square().sum())) for w, ref in pairs)
    return change, sum(float(whole(ref.double().square().sum())) for _, ref in pairs)


def _adapted(policy: Policy, weights: str) -> tuple[float, float]:
    """Return ‖w − w_ref‖² and ‖w_ref‖² under a LoRA, without a matrix of W's size.

    ‖B A − B' A'‖² = ‖D C‖², with D = [B, −B'] and C = [A; A'].
    ‖W + s B A‖² = ‖W‖² + 2 s ⟨W Aᵀ, B⟩ + s² ‖B A‖².
    """
    with policy.using(weights):
        now = [(a.clone(), b.clone()) for _, (a, b) in _layers(policy)]
    change = reference = 0.0
    with policy.using("reference"):
        for (layer, (a, b)), (c, d) in zip(_layers(policy), now, strict=True):
            scale = layer.scaling["default"]
            base = _plain(layer.get_base_layer().weight).flatten(1)
            change += scale**2 * _squared(torch.cat([c, a]), torch.cat([d, -b], 1))
            cross = float(((base.to(a) @ a.T).double() * b.double()).sum())
            reference += float(base.float().square().sum(dtype=torch.float64)) + 2 * scale * cross
            reference += scale**2 * _squared(a, b)
    return change, reference


def _plain(weight: Any) -> Tensor:
    """Return all rows of a frozen weight as plain numbers, also of one in 8 or 4 bits."""
    if hasattr(weight, "quant_state"):
        import bitsandbytes

        unpacked: Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return unpacked
    # a weight in int8 of torchao, which neither multiplies from the left nor is reshaped
    return weight.dequantize() if hasattr(weight, "qdata") else whole(weight)


def _squared(a: Tensor, b: Tensor) -> float:
    """Return ‖B A‖² = Σ (BᵀB) ∘ (A Aᵀ), in float64."""
    a, b = a.double(), b.double()
    return float(((b.T @ b) * (a @ a.T)).sum())


def _layers(policy: Policy) -> Iterator[tuple[Any, Pair]]:
    """Yield each layer that has a LoRA, with its matrices; kernels count as inputs."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[Any] = [
        module for module in policy.backbone.network.modules() if isinstance(module, BaseTunerLayer)
    ]
    for layer in found:
        yield (
            layer,
            (
                whole(layer.lora_A["default"].weight).flatten(1),
                whole(layer.lora_B["default"].weight).flatten(1),
            ),
        )
