"""Trace what one clip costs in each stage, FLOPs and bytes, by shapes alone.

Legend: M clips of a micro-batch, L latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidrl.backbones.base import Cond, Denoiser
from vidrl.config import Recipe
from vidrl.training.policy import Policy

from .skeleton import Blueprint
from .tracing import drop_numbers, shapes, size, trace

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Work:
    """The FLOPs of one call or one clip, and bytes: of weights, conditions and peaks."""

    forward: float
    backward: float  # forward and backward of one call, as the update does it
    decode: float
    encode: float
    weights: dict[str, float]
    trained: float  # numbers
    condition: float
    forward_peak: float
    update_peak: float
    # with the other setting of gradient checkpointing; NaN where there is none
    update_peak_other: float
    decode_peak: float  # of one piece
    decode_at_once: int
    checkpointing: bool
    # bytes that host memory keeps of a prompt, where that is not the condition
    kept: float | None = None


def trace_recipe(
    recipe: Recipe, blueprint: Blueprint, backbone: Denoiser, micro_batch: int
) -> Work:
    """Trace a recipe's network, decoder and text encoder."""
    amp = _autocast(recipe.train.mixed_precision)
    network = _extrapolated(
        lambda n: _network(recipe, blueprint.build(n, 1), micro_batch, amp),
        blueprint.blocks,
        (2, 3),
    )
    decode = _extrapolated(lambda n: _decode(blueprint.build(1, 1), n), backbone.shape[1], (3, 4))
    text = _extrapolated(lambda n: _text(blueprint.build(1, n)), blueprint.text_blocks, (2, 3))
    weights = {"network": network[6], "text encoder": text[1], "decoder": decode[2]}
    return Work(
        network[0] / micro_batch,
        network[2] / micro_batch,
        decode[0],
        text[0],
        weights,
        network[7],
        text[2],
        network[1],
        network[3],
        network[5],
        decode[1],
        _at_once(backbone),
        _checkpointing(backbone),
    )


def _extrapolated(
    traced: Callable[[int], Sequence[float]], n: int, sizes: tuple[int, int]
) -> list[float]:
    """Return numbers that rise linearly with n, from two small n."""
    if n <= sizes[1]:
        return list(traced(n))
    low, high = traced(sizes[0]), traced(sizes[1])
    return [a + (n - sizes[0]) * (b - a) for a, b in zip(low, high, strict=True)]


def _autocast(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a factory of the autocast context of a recipe's precision."""
    return (lambda: torch.autocast("cpu", AMP[precision])) if precision in AMP else nullcontext


def _network(recipe: Recipe, backbone: Denoiser, m: int, amp: Callable[[], Any]) -> list[float]:
    """Return FLOPs and peaks of a forward, with backward, and with the other checkpointing.

    The last two numbers are the bytes of the weights and the number of trained weights.
    """
    weights = float(size(backbone.network))
    policy = _policy(recipe, backbone)
    with shapes():
        drop_numbers(backbone.network)
        x = torch.empty(m, *backbone.shape)
        t = torch.empty(m)
        cond = _condition(backbone, m)
        weights_alive = [
            *backbone.network.parameters(),
            *backbone.network.buffers(),
            x,
            t,
            *cond.values(),
        ]

        def forward() -> Tensor:
            with amp():
                return policy.predict(x, t, cond)

        with torch.no_grad():
            forward_only = trace(forward, weights_alive)
        with_backward = trace(lambda: forward().sum().backward(), weights_alive)
        other = (float("nan"),) * 2
        if _toggle_checkpointing(backbone):
            backbone.network.zero_grad(set_to_none=True)
            other = trace(lambda: forward().sum().backward(), weights_alive)
    return [
        *map(float, (*forward_only, *with_backward, *other)),
        weights,
        float(sum(p.numel() for p in policy.weights.values())),
    ]


def _policy(recipe: Recipe, backbone: Denoiser) -> Policy:
    """Return a policy with the recipe's trained weights, new, on the network's device."""
    p = recipe.policy
    rank = p.lora_rank
    alpha = p.lora_alpha
    targets = p.lora_targets
    if p.lora and not p.full:
        lora_config = backbone.load_lora(Path(p.lora), p.lora_partial)[1]
        names = ("r", "lora_alpha", "target_modules")
        rank, alpha, targets = (lora_config[key] for key in names)  # type: ignore[assignment]
    with torch.device(backbone.device):
        return Policy(backbone, rank, alpha, targets, "", p.full, recipe.seed)


def _toggle_checkpointing(backbone: Denoiser) -> bool:
    """Switch the network's gradient checkpointing; return False if the network has none."""
    network: Any = backbone.network
    if not hasattr(network, "enable_gradient_checkpointing"):
        return False
    (
        network.disable_gradient_checkpointing
        if _checkpointing(backbone)
        else network.enable_gradient_checkpointing
    )()
    return True


def _condition(backbone: Denoiser, m: int) -> Cond:
    """Return a condition of m prompts without numbers."""
    text = _text_encoder(backbone)
    if text is None:
        return {name: torch.empty(value.shape) for name, value in backbone.encode([""] * m).items()}
    length, width = backbone.text_length, text.config.d_model  # type: ignore[attr-defined]
    names = ["text", "negative"] if guided(backbone) else ["text"]
    return {name: torch.empty(m, length, width, dtype=text.dtype) for name in names}


def _decode(backbone: Denoiser, frames: int) -> list[float]:
    """Return FLOPs of one clip's decode, its peak, and the bytes of the decoder's weights.

    `frames` is the number of latent frames.
    """
    c, _, *space = backbone.shape
    decoder, pieces = _decoder(backbone), _at_once(backbone)
    weights = float(size(decoder)) if decoder is not None else 0.0
    with shapes(), torch.no_grad():
        if decoder is not None:
            drop_numbers(decoder)
        drop_numbers(backbone.network)
        latents = torch.empty(pieces, c, frames, *space)
        weights_alive = [latents, *(decoder.parameters() if decoder is not None else ())]
        flops, peak = trace(lambda: backbone.decode(latents), weights_alive)
    return [flops / pieces, float(peak), weights]


def _text(backbone: Denoiser) -> list[float]:
    """Return FLOPs of a prompt, the text encoder's bytes, and the bytes of a condition.

    With guidance the FLOPs are of two texts.
    """
    encoder = _text_encoder(backbone)
    condition_bytes = sum(
        prod(value.shape) * value.element_size() for value in _condition(backbone, 1).values()
    )
    if encoder is None:
        return [0.0, 0.0, float(condition_bytes)]
    weights = float(size(encoder))
    with shapes(), torch.no_grad():
        drop_numbers(encoder)
        ids = torch.zeros(1, backbone.text_length, dtype=torch.long)  # type: ignore[attr-defined]
        flops, _ = trace(lambda: encoder(ids, torch.ones_like(ids)), encoder.parameters())
    return [flops * (2.0 if guided(backbone) else 1.0), weights, float(condition_bytes)]


def guided(backbone: Denoiser) -> bool:
    """Return whether a call is two rows of the network: with the text and without."""
    return getattr(backbone, "guidance", 1.0) != 1.0


def _text_encoder(backbone: Denoiser) -> Any:
    return getattr(getattr(backbone, "pipe", None), "text_encoder", None)


def _decoder(backbone: Denoiser) -> nn.Module | None:
    return getattr(getattr(backbone, "pipe", None), "vae", None)


def _at_once(backbone: Denoiser) -> int:
    return int(getattr(backbone, "decode_chunk", 1))


def _checkpointing(backbone: Denoiser) -> bool:
    return bool(getattr(backbone.network, "gradient_checkpointing", False))
