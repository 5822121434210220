"""Trace what one clip costs in each stage, FLOPs and bytes, by shapes alone.

Legend: M clips of a micro-batch, L latent frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vidrl.backbones.base import Cond, Denoiser
from vidrl.config import Recipe
from vidrl.diffusion.precision import MIXED
from vidrl.training.policy import Policy

from . import choices, stored
from .choices import Choices
from .families import Skeleton
from .skeleton import Blueprint
from .tracing import drop_numbers, shapes, size, trace


class Network(NamedTuple):
    """What a trace of a network finds: FLOPs, and bytes beside the weights."""

    forward: float
    forward_peak: float
    backward: float  # forward and backward
    update_peak: float
    # the same two with the other setting of gradient checkpointing; NaN where there is none
    backward_other: float
    update_peak_other: float
    weights: float  # bytes of the frozen weights, as they are stored
    trained: float  # numbers
    block: float = 0.0  # bytes of the largest block, as it is stored
    layers: float = 0.0  # bytes of the linear layers of all blocks
    layer: float = 0.0  # bytes of the largest linear layer
    packed: float = 0.0  # numbers that are unpacked in each pass
    saved: float = 0.0  # bytes that wait in host memory for the backward pass


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
    network: Network | None = None


class Memo:
    """Results of traces by what they depend on, so that many recipes share them."""

    def __init__(self) -> None:
        self.found: dict[tuple[object, ...], Any] = {}

    def __call__(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """Return the kept result for a key, made at first use."""
        if key not in self.found:
            self.found[key] = make()
        return self.found[key]


def trace_recipe(
    recipe: Recipe,
    blueprint: Blueprint,
    backbone: Denoiser,
    micro_batch: int,
    memo: Memo | None = None,
) -> Work:
    """Trace a recipe's network, decoder and text encoder."""
    memo, chosen = memo or Memo(), choices.read(recipe)
    amp = _autocast(recipe.train.mixed_precision)
    of_network = micro_batch, chosen.dtype, chosen.quantization, chosen.activation_offload
    network = memo(
        ("network", *of_network, chosen.gradient_checkpointing),
        lambda: Network(
            *_extrapolated(
                lambda n: _network(recipe, blueprint.build(n, 1), micro_batch, amp, chosen),
                blueprint.blocks,
                (2, 3),
            )
        ),
    )
    if not chosen.activation_offload:  # else what waits on the host differs too
        memo(("network", *of_network, not chosen.gradient_checkpointing), lambda: _other(network))
    decode = memo(
        ("decode", chosen.decode_chunk, chosen.vae_tiling),
        lambda: _extrapolated(
            lambda n: _decode(blueprint.build(1, 1), n, chosen),
            backbone.shape[1] if blueprint.causal else 0,
            (3, 4),
        ),
    )
    text = memo(
        ("text", chosen.dtype),
        lambda: _extrapolated(
            lambda n: _text(blueprint.build(1, n)), blueprint.text_blocks, (2, 3)
        ),
    )
    weights = {"network": network.weights, "text encoder": text[1], "decoder": decode[2]}
    return Work(
        network.forward / micro_batch,
        network.backward / micro_batch,
        decode[0],
        text[0],
        weights,
        network.trained,
        text[2],
        network.forward_peak,
        network.update_peak,
        network.update_peak_other,
        decode[1],
        chosen.decode_chunk,
        chosen.gradient_checkpointing,
        None,
        network,
    )


def _other(found: Network) -> Network:
    """Return the trace with the other setting of gradient checkpointing."""
    return found._replace(
        backward=found.backward_other,
        update_peak=found.update_peak_other,
        backward_other=found.backward,
        update_peak_other=found.update_peak,
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
    return (lambda: torch.autocast("cpu", MIXED[precision])) if precision in MIXED else nullcontext


def _network(
    recipe: Recipe,
    backbone: Denoiser,
    m: int,
    amp: Callable[[], Any],
    chosen: Choices | None = None,
) -> Network:
    """Return FLOPs and peaks of a forward, with backward, and with the other checkpointing."""
    chosen = chosen or choices.read(recipe)
    policy = _policy(recipe, backbone)
    network = backbone.network
    _set_checkpointing(backbone, chosen.gradient_checkpointing)
    with shapes():
        drop_numbers(network)
        packed = stored.quantize(network, chosen.quantization)
        x, t = torch.empty(m, *backbone.shape), torch.empty(m)
        cond = _condition(backbone, m)
        alive = [*network.parameters(), *network.buffers(), x, t, *cond.values()]

        def forward() -> Tensor:
            with amp():
                return policy.predict(x, t, cond)

        def update() -> None:
            with stored.in_host_memory(chosen.activation_offload, alive) as saved:
                loss = forward().sum()
            loss.backward()
            update.saved = saved.bytes  # type: ignore[attr-defined]

        with torch.no_grad():
            forward_only = trace(forward, alive)
        with_backward = trace(update, alive)
        saved = float(update.saved)  # type: ignore[attr-defined]
        other = (float("nan"),) * 2
        if _set_checkpointing(backbone, not chosen.gradient_checkpointing):
            network.zero_grad(set_to_none=True)
            other = trace(update, alive)
    traced = map(float, (*forward_only, *with_backward, *other))
    return Network._make((*traced, *_stored_bytes(policy, backbone), packed, saved))


def _stored_bytes(policy: Policy, backbone: Denoiser) -> tuple[float, float, float, float, float]:
    """Return bytes of frozen weights, trained numbers, and bytes of blocks and of a layer."""
    network = backbone.network
    blocks = [block for blocks in stored.block_lists(network) for block in blocks]
    layers = stored.linear_layers(network)
    return (
        float(stored.frozen_bytes(network)),
        float(sum(p.numel() for p in policy.weights.values())),
        float(stored.largest(blocks)),
        float(sum(map(stored.frozen_bytes, layers))),
        float(stored.largest(layers)),
    )


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


def _set_checkpointing(backbone: Denoiser, on: bool) -> bool:
    """Switch the network's gradient checkpointing; return False if the network has none."""
    network: Any = backbone.network
    if not hasattr(network, "enable_gradient_checkpointing"):
        return False
    (network.enable_gradient_checkpointing if on else network.disable_gradient_checkpointing)()
    return True


def _condition(backbone: Denoiser, m: int) -> Cond:
    """Return a condition of m prompts without numbers."""
    text = _text_encoder(backbone)
    if text is None:
        found = backbone.encode([""] * m)
        return {name: torch.empty(value.shape, dtype=value.dtype) for name, value in found.items()}
    length, width = backbone.text_length, text.config.d_model  # type: ignore[attr-defined]
    names = ["text", "negative"] if guided(backbone) else ["text"]
    return {name: torch.empty(m, length, width, dtype=text.dtype) for name in names}


def _decode(backbone: Denoiser, frames: int, chosen: Choices) -> list[float]:
    """Return FLOPs of one clip's decode, its peak, and the bytes of the decoder's weights.

    `frames` is the number of latent frames; 0 means those of the clip.
    """
    c, whole, *space = backbone.shape
    decoder: Any = _decoder(backbone)
    pieces = chosen.decode_chunk
    weights = float(size(decoder)) if decoder is not None else 0.0
    if chosen.vae_tiling and decoder is not None:
        decoder.enable_tiling()
    with shapes(), torch.no_grad():
        if decoder is not None:
            drop_numbers(decoder)
        drop_numbers(backbone.network)
        latents = torch.empty(pieces, c, frames or whole, *space)
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
    texts = 2.0 if guided(backbone) else 1.0
    if isinstance(backbone, Skeleton):
        flops, weights = backbone.text_cost()
        return [flops * texts, weights, float(condition_bytes)]
    if encoder is None:
        return [0.0, 0.0, float(condition_bytes)]
    weights = float(size(encoder))
    with shapes(), torch.no_grad():
        drop_numbers(encoder)
        ids = torch.zeros(1, backbone.text_length, dtype=torch.long)  # type: ignore[attr-defined]
        traced, _ = trace(lambda: encoder(ids, torch.ones_like(ids)), encoder.parameters())
    return [traced * texts, weights, float(condition_bytes)]


def guided(backbone: Denoiser) -> bool:
    """Return whether a call is two rows of the network: with the text and without."""
    return getattr(backbone, "guidance", 1.0) != 1.0


def _text_encoder(backbone: Denoiser) -> Any:
    return getattr(getattr(backbone, "pipe", None), "text_encoder", None)


def _decoder(backbone: Denoiser) -> nn.Module | None:
    if isinstance(backbone, Skeleton):
        return backbone.decoder
    return getattr(getattr(backbone, "pipe", None), "vae", None)
