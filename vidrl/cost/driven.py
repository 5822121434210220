"""Count the cost of a clip of a driven pipeline by really running the pipeline.

vidrl does not know the architecture of a pipeline's family. So each stage is computed with
its weights for one row and for two rows; the cost of a micro-batch of M rows lies on the
line through both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidrl import config
from vidrl.backbones.base import Denoiser
from vidrl.config import Recipe

from . import families, skeleton, stored, work
from .tracing import size, trace
from .work import Network, Work

NAME = "pipeline"  # the backbone that drives pipelines
TIMED = 4  # steps of the schedule; the call at the first of its times is counted


def check_here(recipe: Recipe) -> None:
    """Raise ValueError if a pipeline's checkpoint is not on this machine."""
    model = recipe.backbone.options.get("model")
    if recipe.backbone.name != NAME or not isinstance(model, str) or families.known(model):
        return
    if skeleton.here(model):
        return
    clips, rounds = recipe.train.prompts_per_round * recipe.train.group, recipe.train.rounds
    raise ValueError(
        f"expected backbone.options.model on this machine, got {model!r}, which is not, and "
        f"nothing is downloaded. Known without it: {clips} clips a round, {rounds} rounds. Not "
        "known: latents, parameters, denoiser calls, FLOPs, memory and seconds, which come of "
        f"the pipeline itself. Get it with `hf download {model} --local-dir FOLDER`, then set "
        "backbone.options.model=FOLDER. Without weights these are known: "
        f"{', '.join(families.names())}"
    )


def parameters(backbone: Any) -> dict[str, int]:
    """Return the number of weights of each network and frozen part, by its name in the pipeline."""
    parts = {**backbone.networks, **backbone.frozen}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def trace_recipe(recipe: Recipe, backbone: Any, micro_batch: int) -> Work:
    """Count a recipe's networks, decoder and encoders in real runs of few rows."""
    weights = _weights(backbone)
    prompts = config.training_prompts(recipe.data)[:1]
    before = backbone.encoder_cache.bytes
    time = backbone.times(TIMED)[0]
    row = backbone.encode(prompts)["row"]
    encode, _ = trace(
        lambda: backbone.runner.initial_latents(int(row[0])), _weights_alive(backbone)
    )
    kept = backbone.encoder_cache.bytes - before
    policy = work._policy(recipe, backbone)

    def traced(n: int) -> list[float]:
        return _network(policy, backbone, row.repeat(n), time, work._autocast(precision))

    precision = recipe.train.mixed_precision
    network = work._extrapolated(traced, micro_batch, (1, 2))
    decode, decode_peak = _decode(backbone, row)
    trained = float(sum(p.numel() for p in policy.weights.values()))
    return Work(
        network[0] / micro_batch,
        network[2] / micro_batch,
        decode,
        float(encode),
        weights,
        trained,
        float(row.element_size()),
        network[1],
        network[3],
        float("nan"),
        decode_peak,
        1,
        bool(recipe.backbone.options.get("gradient_checkpointing", False)),
        float(kept),
        _stored(backbone, network, weights["network"], trained),
    )


def _stored(backbone: Any, traced: list[float], weights: float, trained: float) -> Network:
    """Return the trace of all networks with the bytes of their blocks and layers."""
    networks = list(backbone.networks.values())
    blocks = [block for net in networks for list_ in stored.block_lists(net) for block in list_]
    layers = [layer for net in networks for layer in stored.linear_layers(net)]
    forward, forward_peak, backward, update_peak = traced
    unknown = float("nan")
    return Network(
        forward,
        forward_peak,
        backward,
        update_peak,
        backward_other=unknown,
        update_peak_other=unknown,
        weights=weights,
        trained=trained,
        block=float(stored.largest(blocks)),
        layers=float(sum(map(stored.frozen_bytes, layers))),
        layer=float(stored.largest(layers)),
    )


def _weights(backbone: Any) -> dict[str, float]:
    """Return bytes of weights; "text encoder" are all frozen parts but the autoencoder."""
    decoder = backbone.autoencoder
    others = [part for part in backbone.frozen.values() if part is not decoder]
    return {
        "network": float(sum(map(size, backbone.networks.values()))),
        "decoder": 0.0 if decoder is None else float(size(decoder)),
        "text encoder": float(sum(map(size, others))),
    }


def _weights_alive(backbone: Any) -> list[Tensor]:
    """Return all weights and buffers, which are no part of a stage's own memory."""
    parts: list[nn.Module] = [*backbone.networks.values(), *backbone.frozen.values()]
    return [x for part in parts for x in (*part.parameters(), *part.buffers())]


def _network(
    policy: Any, backbone: Denoiser, rows: Tensor, time: float, amp: Callable[[], Any]
) -> list[float]:
    """Return FLOPs and peak bytes of a forward, and of a forward with backward."""
    x = backbone.noise([torch.Generator().manual_seed(i) for i in range(len(rows))])
    t, weights_alive = torch.full((len(rows),), time), [*_weights_alive(backbone), x]

    def forward() -> Tensor:
        with amp():
            return policy.predict(x, t, {"row": rows})

    with torch.no_grad():
        forward()  # one-time checks, such as the shape of the network's output, are not counted
        forward_only = trace(forward, weights_alive)
    with_backward = trace(lambda: forward().sum().backward(), weights_alive)
    for weight in policy.weights.values():
        weight.grad = None
    return [*map(float, (*forward_only, *with_backward))]


@torch.no_grad()
def _decode(backbone: Denoiser, row: Tensor) -> tuple[float, float]:
    """Return FLOPs and peak bytes of the decode of one clip."""
    x = backbone.noise([torch.Generator().manual_seed(0)])

    def run() -> Tensor:
        return backbone.decode_with(x, {"row": row})

    run()
    flops, peak = trace(run, [*_weights_alive(backbone), x])
    return float(flops), float(peak)
