"""Estimate what a recipe costs before it runs: calls, FLOPs, bytes and seconds.

The estimate is arithmetic on shapes: it needs no weights and no training.

Legend: N clips of a round, K kept steps, M clips of a micro-batch, S segments. A
multiply-add counts as two FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from vidrl import config, plugin
from vidrl.backbones.base import CACHE_BYTES, Denoiser
from vidrl.config import Recipe
from vidrl.diffusion.segments import borders

from . import cards, counting, driven, skeleton, work
from .calibrate import Bench, Pace
from .cards import HEADROOM, UTILISATION, Card
from .counting import Calls
from .work import Work

# The rows of a micro-batch where the recipe has train.micro_batch = 0, as the trainer sets them.
MICRO = {"cpu": 32, "gpu": 16}
ESTIMATE, MEASURED = "estimate, not measured", "from a calibration on this machine"


@dataclass(frozen=True)
class Cost:
    """The cost of a recipe: counts, FLOPs, bytes and, if known, seconds.

    `seconds` is empty unless a card was named or this machine was measured. `basis` says
    which of the two the seconds rest on.
    """

    recipe: str
    shape: dict[str, Any]
    calls: dict[str, Any]
    flops: dict[str, float]
    memory: dict[str, float]
    seconds: dict[str, float]
    basis: str
    card: dict[str, Any]
    advice: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; NaN becomes None."""
        values = asdict(self)
        for part in ("flops", "memory", "seconds"):
            values[part] = {
                key: None if value != value else value for key, value in values[part].items()
            }
        return values


def estimate(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    gpu: str = "",
    utilisation: float = UTILISATION,
    measure: bool | None = None,
    pace: Callable[[Recipe], Pace] | None = None,
) -> Cost:
    """Return the cost of a recipe, on a card by its data sheet or on this machine as measured.

    `gpu`: the short name of a card. `utilisation`: the part of the card's peak that is
    reached, in (0, 1]. `measure`: time a few calls on this machine; None measures if the
    weights are here and no card is named. `pace` replaces the measurement. Raises
    ValueError for an unknown card or model, more segments than latent frames, a utilisation
    outside (0, 1], or a measurement without weights; and the errors of `config.load` and
    `plugin.load`.
    """
    recipe = config.load(recipe)
    config.check_plugins(recipe)
    _check_utilisation(utilisation)
    driven.check_here(recipe)
    card, blueprint = cards.find(gpu) if gpu else None, skeleton.read(recipe.backbone)
    measures = _measures(recipe, blueprint.local, gpu, measure)
    backbone = blueprint.build()
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    # raises ValueError for more segments than latent frames
    borders(backbone.shape[1], int(getattr(algorithm, "segments", 1)))
    micro = recipe.train.micro_batch or MICRO["gpu" if card else "cpu"]
    calls = counting.count(recipe, algorithm, backbone, micro)
    micro = min(micro, calls.first.largest)  # an optimiser step may have fewer rows
    is_driven = recipe.backbone.name == driven.NAME
    parameters = driven.parameters(backbone) if is_driven else {}
    work_done = (
        driven.trace_recipe(recipe, backbone, micro)
        if is_driven
        else work.trace_recipe(recipe, blueprint, backbone, micro)
    )
    pace_found = (pace or _calibrate)(recipe) if measures else None
    memory = _memory(recipe, backbone, calls, work_done, micro) | _host(
        recipe, backbone, calls, work_done
    )
    stages = _flops(recipe, calls, work_done)
    if pace_found is not None:
        seconds, memory = (
            _measured(recipe, calls, pace_found),
            memory | _process_memory(recipe, memory, pace_found),
        )
    else:
        seconds = _on_card(recipe, stages, calls, card, utilisation) if card else {}
    shape = _shape(backbone, int(getattr(algorithm, "segments", 1)), parameters)
    fits = card is not None and _fits(memory, card)
    card_facts = {**asdict(card), "utilisation": utilisation, "fits": fits} if card else {}
    advice = _advice(recipe, memory, micro) if card and not fits else []
    basis = MEASURED if pace_found else ESTIMATE
    return Cost(
        recipe.run,
        shape,
        _call_counts(recipe, backbone, calls, micro),
        stages,
        memory,
        seconds,
        basis,
        card_facts,
        advice,
    )


def _check_utilisation(utilisation: float) -> None:
    """Raise ValueError for a fraction of the card's peak outside (0, 1]."""
    if not 0 < utilisation <= 1:
        raise ValueError(
            f"expected a utilisation in (0, 1], got {utilisation}: {UTILISATION} is usual"
        )


def _measures(recipe: Recipe, local: bool, gpu: str, measure: bool | None) -> bool:
    """Return whether calls are timed; raise ValueError if that is asked and impossible.

    `local`: whether the model's weights are on this machine.
    """
    measures = local and not gpu if measure is None else measure
    if measures and (gpu or not local):
        absent = f"the weights of {recipe.backbone.options.get('model')} are not here"
        reason = "a card was named" if gpu else absent
        raise ValueError(
            f"expected to measure a local model on this machine, but {reason}: leave --measure out"
        )
    return measures


def _calibrate(recipe: Recipe) -> Pace:
    """Measure the recipe's stages on this machine."""
    return Bench(recipe).measure()


def _shape(backbone: Denoiser, segments: int, parameters: dict[str, int]) -> dict[str, Any]:
    """Return the sizes of a clip and its latents."""
    config = None if parameters else getattr(backbone.network, "config", None)
    patch = config.patch_size if config is not None else (1, 1, 1)
    # the number of tokens of a driven pipeline's network is not known
    tokens = None if parameters else prod(backbone.shape[1:]) // prod(patch)
    frames, *_ = _pixels(backbone)
    return {
        "latent": list(backbone.shape),
        "tokens": tokens,
        "frames": frames,
        "parameters": parameters,
        "pixels": list(_pixels(backbone)[1:]),
        "fps": backbone.fps,
        "segments": segments,
        "latent_frames_of_segments": [b - a for a, b in borders(backbone.shape[1], segments)],
    }


def _call_counts(recipe: Recipe, backbone: Denoiser, calls: Calls, micro: int) -> dict[str, Any]:
    """Return the numbers of denoiser calls by purpose."""
    first = calls.rounds[0]
    return {
        "clips": calls.clips,
        "kept_steps": calls.kept,
        "micro_batch": micro,
        **first,
        "round": sum(first.values()),
        "guidance_rows": _guidance_rows(recipe, backbone),
        "evaluation": calls.evaluation,
        "evaluations": calls.evaluations,
        "rounds": recipe.train.rounds,
        "run": calls.run,
    }


def _guidance_rows(recipe: Recipe, backbone: Denoiser) -> int | None:
    """Return the network rows of a call: 2 with guidance; None for a driven pipeline.

    A driven pipeline guides in its own code, and its FLOPs of a call include the guidance.
    """
    return None if recipe.backbone.name == driven.NAME else 2 if work.guided(backbone) else 1


def _flops(recipe: Recipe, calls: Calls, work_done: Work) -> dict[str, float]:
    """Return the FLOPs of each stage of the first round, and of an evaluation with its decode."""
    first = calls.rounds[0]
    extra_calls = first["reference"] + first["divergence"] + first.get("recomputed", 0)
    # twice: the forward pass, and the backward pass to the latents alone (no weight gradients)
    in_loss = 2 * calls.first.in_loss * work_done.decode
    return {
        "call": work_done.forward,
        "call_with_backward": work_done.backward,
        "decode_a_clip": work_done.decode,
        "encode": recipe.train.prompts_per_round * work_done.encode,
        "sample": first["sampling"] * work_done.forward,
        "decode": calls.first.scored * work_done.decode,
        "update": first["update"] * work_done.backward + extra_calls * work_done.forward + in_loss,
        "evaluation": calls.evaluation * work_done.forward,
        "evaluation_decode": calls.evaluated_clips * work_done.decode,
    }


def _memory(
    recipe: Recipe, backbone: Denoiser, calls: Calls, work_done: Work, micro: int
) -> dict[str, float]:
    """Return bytes on the device by part, and the peak: all parts and the largest stage.

    All trained weights are float32. Beside them, AdamW keeps two moments, the gradient is a
    third tensor, and "reference" and "ema" are copies.
    """
    options, numel = recipe.train, prod(backbone.shape)
    sets = 2 if options.ema else 1
    clips = min(options.score_batch, calls.clips) * _clip(backbone)  # decoded and scored at once
    offloaded = _offloaded(recipe)
    weights = work_done.weights
    parts = {
        "network": weights["network"],
        "decoder": weights["decoder"],
        "text encoder": 0.0 if offloaded else weights["text encoder"],
        "trained weights": 4 * work_done.trained,
        "gradient, optimiser and copies": 4 * (3 + sets) * work_done.trained,
        "kept trajectories": 4.0 * calls.clips * (1 + 2 * calls.kept) * numel,
        "conditions": _conditions(calls.clips, backbone, work_done),
    }
    stages = {
        "encoding": weights["text encoder"] if offloaded else 0.0,
        # The trajectories are counted a second time: while the pieces are concatenated, the
        # pieces and the result exist together.
        "sampling": work_done.forward_peak + parts["kept trajectories"],
        "update": work_done.update_peak + calls.first.largest * (8.0 * numel + work_done.condition),
        "decoding": max(3 * clips, clips + work_done.decode_peak),
    }
    other = {
        "update, checkpointing "
        + ("off" if work_done.checkpointing else "on"): work_done.update_peak_other
    }
    peak = sum(parts.values()) + max(stages.values())
    return {**parts, **{f"stage: {k}": v for k, v in (stages | other).items()}, "peak": peak}


def _offloaded(recipe: Recipe) -> bool:
    """Return whether text encoders are on the device only to encode."""
    options = recipe.backbone.options
    return bool(options.get("offload_text") or options.get("offload"))


def _clip(backbone: Denoiser) -> float:
    """Return the bytes of one clip, float32."""
    return 4.0 * 3 * prod(_pixels(backbone))


def _pixels(backbone: Denoiser) -> tuple[int, int, int]:
    """Return frames, height and width of a clip."""
    frames, (_, _, h, w) = backbone.frame_map[-1][1], backbone.shape
    size = getattr(backbone, "size", None)  # a driven pipeline has it, if its call names a size
    if size:
        return frames, *size
    if hasattr(backbone, "runner"):  # a driven pipeline without a size: one decode finds the size
        _, _, height, width = backbone.clip_shape
        return frames, height, width
    space = getattr(getattr(backbone, "pipe", None), "vae_scale_factor_spatial", 8)
    return frames, h * space, w * space


def _conditions(n: int, backbone: Denoiser, work_done: Work) -> float:
    """Return the bytes of the conditions of n prompts; the negative prompt is stored once."""
    text = work_done.condition / (2 if work.guided(backbone) else 1)
    return n * text + work_done.condition - text


def _host(recipe: Recipe, backbone: Denoiser, calls: Calls, work_done: Work) -> dict[str, float]:
    """Return bytes of host memory by part, without the program and the reward's own memory.

    The parts are: the clips decoded and scored at once; the clips that are shown, twice
    while they are written; a thumbnail of every clip of a round or an evaluation; the text
    encoder, if it is offloaded; the conditions that are cached of prompts.
    """
    options = recipe.train
    data = recipe.data
    clip = _clip(backbone)
    prompts = len(config.training_prompts(data)) + data.held_out_n
    offloaded = _offloaded(recipe)
    thumbnails = (
        max(calls.clips, calls.evaluated_clips) * 4.0 * 3 * 16 * 16 * backbone.frame_map[-1][1]
    )
    parts = {
        "clips decoded and scored at once": min(options.score_batch, calls.clips) * clip,
        "shown clips": 2 * max(2, min(options.show, data.held_out_n)) * clip,
        "thumbnails": thumbnails,
        "text encoder": work_done.weights["text encoder"] if offloaded else 0.0,
        "kept conditions": min(
            CACHE_BYTES,
            _conditions(prompts, backbone, work_done)
            if work_done.kept is None
            else prompts * work_done.kept,
        ),
    }
    return {f"host: {name}": value for name, value in parts.items()} | {"host": sum(parts.values())}


def _process_memory(recipe: Recipe, memory: Mapping[str, float], pace: Pace) -> dict[str, float]:
    """Return the process's memory before a round, and its peak in the update or the scoring."""
    # The measured peak includes the clips that were scored at once.
    kept = memory["host"] - memory["host: clips decoded and scored at once"]
    scoring = pace.peak + kept
    updating = pace.resident + memory["stage: update"] + memory["kept trajectories"]
    return {"resident before": pace.resident, "peak resident": max(scoring, updating)}


def _with_totals(
    stages: dict[str, float], recipe: Recipe, calls: Calls, evaluation: float
) -> dict[str, float]:
    """Add the seconds of a round, an evaluation and the run."""
    round_seconds = sum(stages.values())
    return {
        **stages,
        "round": round_seconds,
        "evaluation": evaluation,
        "run": round_seconds * recipe.train.rounds + evaluation * calls.whole_evaluations,
    }


def _measured(recipe: Recipe, calls: Calls, pace: Pace) -> dict[str, float]:
    """Return the seconds of each stage from the times measured on this machine."""
    first, n = calls.rounds[0], calls.first.scored
    extra_calls = first["reference"] + first["divergence"]
    stages = {
        "sample": first["sampling"] * pace.forward + recipe.train.prompts_per_round * pace.encode,
        "decode": n * pace.decode,
        "reward": n * pace.reward,
        "update": calls.first.rows * pace.backward + extra_calls * pace.forward,
    }
    evaluation = calls.evaluation * pace.forward + calls.evaluated_clips * pace.decode
    return _with_totals(stages, recipe, calls, evaluation + recipe.data.held_out_n * pace.reward)


def _on_card(
    recipe: Recipe, flops: Mapping[str, float], calls: Calls, card: Card, utilisation: float
) -> dict[str, float]:
    """Return the seconds of network, decoder and text encoder on a card.

    The reward is NaN: its networks are not in the FLOPs.
    """
    half = (
        recipe.train.mixed_precision != "no"
        or recipe.backbone.options.get("dtype", "float32") != "float32"
    )
    dense = "bfloat16" if half else "float32"
    text = "float32" if recipe.backbone.options.get("dtype", "float32") == "float32" else "bfloat16"
    stages = {
        "sample": card.seconds(flops["sample"], dense, utilisation)
        + card.seconds(flops["encode"], text, utilisation),
        "decode": card.seconds(flops["decode"], "tf32", utilisation),
        "update": card.seconds(flops["update"], dense, utilisation),
    }
    evaluation = card.seconds(flops["evaluation"], dense, utilisation)
    evaluation += card.seconds(flops["evaluation_decode"], "tf32", utilisation)
    return {**_with_totals(stages, recipe, calls, evaluation), "reward": float("nan")}


def _fits(memory: Mapping[str, float], card: Card) -> bool:
    """Return whether the peak fits into the card's memory."""
    return memory["peak"] <= card.memory * 1e9 * HEADROOM


def _advice(recipe: Recipe, memory: Mapping[str, float], micro: int) -> list[str]:
    """Return the changes that make a recipe smaller, the cheapest first."""
    options, is_driven = recipe.backbone.options, recipe.backbone.name == driven.NAME
    offload = "offload" if is_driven else "offload_text"
    changes = [
        (
            micro > 1,
            f"train.micro_batch={max(1, micro // 4)} (now {micro}): the same gradient, smaller "
            f"pieces",
        ),
        (
            not options.get("gradient_checkpointing"),
            "backbone.options.gradient_checkpointing=true: about a third more time in the update",
        ),
        (
            not _offloaded(recipe),
            f"backbone.options.{offload}=true: the text encoder visits to encode",
        ),
        (
            options.get("dtype", "float32") == "float32",
            "backbone.options.dtype=bfloat16: half the weights",
        ),
        (
            options.get("decode_chunk", 1 if is_driven else 4) > 1,
            "backbone.options.decode_chunk=1: one clip decoded at a time",
        ),
        (
            True,
            "fewer frames, a smaller height and width, fewer train.prompts_per_round, or a "
            "larger card",
        ),
    ]
    return [text for holds, text in changes if holds]
