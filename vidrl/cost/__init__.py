"""Estimate what a recipe costs before it runs: calls, FLOPs, bytes and seconds.

The estimate is arithmetic on shapes: it needs no weights and no training.

Legend: N clips of a round, K kept steps, M clips of a micro-batch, S segments. A
multiply-add counts as two FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from vidrl import config, plugin
from vidrl.backbones.base import Denoiser
from vidrl.config import Recipe
from vidrl.diffusion.segments import borders
from vidrl.training.chunks import check_one_piece

from . import cards, choices, counting, driven, memory, scoring, seconds, skeleton, work
from .calibrate import Bench, Pace
from .cards import HEADROOM, UTILISATION, Card
from .counting import Calls
from .families import Skeleton
from .memory import Plan
from .work import Memo, Work

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


@dataclass(frozen=True)
class Target:
    """Where a recipe runs: a card or this machine, and in how many processes."""

    card: Card | None = None
    utilisation: float = UTILISATION
    processes: int = 1
    shards: int = 1


def estimate(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    gpu: str = "",
    utilisation: float = UTILISATION,
    measure: bool | None = None,
    pace: Callable[[Recipe], Pace] | None = None,
    processes: int = 1,
) -> Cost:
    """Return the cost of a recipe, on a card by its data sheet or on this machine as measured.

    `gpu`: the short name of a card. `utilisation`: the part of the card's peak that is
    reached, in (0, 1]. `measure`: time a few calls on this machine; None measures if the
    weights are here and no card is named. `pace` replaces the measurement. `processes`: how
    many processes share the clips of a round, each on a card of its own. Raises ValueError
    for an unknown card or model, more segments than latent frames, a utilisation outside
    (0, 1], processes that do not divide the clips, or a measurement without weights; and the
    errors of `config.load` and `plugin.load`.
    """
    recipe = config.load(recipe)
    goal = target(recipe, gpu, utilisation, processes)
    blueprint, memo = skeleton.read(recipe.backbone), Memo()
    _outline(blueprint, memo)  # refuses chunks before anything is measured
    measures = _measures(recipe, blueprint.local, gpu, measure)
    pace_found = (pace or _calibrate)(recipe) if measures else None
    return of_target(recipe, goal, pace_found, memo)


def _outline(blueprint: skeleton.Blueprint, memo: Memo) -> Denoiser:
    """Return the backbone without weights; raise ValueError for clips of several chunks."""
    backbone: Denoiser = memo(("backbone",), blueprint.outline)
    check_one_piece(backbone, "an estimate of cost", skeleton.ONE_CHUNK)
    return backbone


def target(
    recipe: Recipe, gpu: str = "", utilisation: float | None = None, processes: int = 1
) -> Target:
    """Return the target of a recipe, which is checked; `utilisation` None is the usual one.

    Raises the errors of `estimate`.
    """
    config.check_plugins(recipe)
    utilisation = UTILISATION if utilisation is None else utilisation
    _check_utilisation(utilisation)
    check_processes(recipe, processes)
    driven.check_here(recipe)
    card = cards.find(gpu) if gpu else None
    return Target(card, utilisation, processes, _shards(recipe, processes))


def _shards(recipe: Recipe, processes: int) -> int:
    """Return over how many of the processes the weights are spread, on one machine.

    Example:
        >>> table = {"run": "r", "parallel": {"shard": "hsdp", "replicas": 2}}
        >>> _shards(config.build(table, files=False), 8)
        4
    """
    groups = {"none": processes, "fsdp": 1, "hsdp": recipe.parallel.replicas or 1}
    return max(1, processes // groups[recipe.parallel.shard])


def check_processes(recipe: Recipe, processes: int) -> None:
    """Raise ValueError for a number of processes that the trainer would refuse."""
    clips = recipe.train.prompts_per_round * recipe.train.group
    if processes < 1:
        raise ValueError(f"expected 1 process or more, got {processes}")
    if recipe.parallel.context > 1:
        raise ValueError(
            f"parallel.context: expected 1, got {recipe.parallel.context}: the estimate knows no "
            "split tokens; add parallel.context=1 for the numbers of whole ones"
        )
    if clips % processes:
        divisors = [n for n in range(1, clips + 1) if clips % n == 0]
        near = min(divisors, key=lambda n: abs(n - processes))
        raise ValueError(
            f"expected processes that divide the {clips} clips of a round "
            f"(train.prompts_per_round * train.group), got {processes}: take {near}, or change "
            "train.prompts_per_round or train.group"
        )


def of_target(
    recipe: Recipe, target: Target, pace: Pace | None = None, memo: Memo | None = None
) -> Cost:
    """Return the cost of a checked recipe.

    `memo` keeps the traces for further recipes that differ in memory options alone.
    """
    memo, card = memo or Memo(), target.card
    blueprint = skeleton.read(recipe.backbone)
    backbone = _outline(blueprint, memo)
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    segments = int(getattr(algorithm, "segments", 1))
    borders(backbone.shape[1], segments)  # raises ValueError for more segments than latent frames
    micro = recipe.train.micro_batch or MICRO["gpu" if card else "cpu"]
    # with another micro-batch, only the rows of the logged divergence differ
    calls = memo(("calls",), lambda: counting.count(recipe, algorithm, backbone, micro))
    micro = min(micro, calls.first.largest)  # an optimiser step may have fewer rows
    is_driven = recipe.backbone.name == driven.NAME and not blueprint.family
    # counted before the trace, which adds the recipe's adapter to the networks
    parameters = memo(("parameters",), lambda: driven.parameters(backbone) if is_driven else {})
    work_done = (
        memo(("driven", micro), lambda: driven.trace_recipe(recipe, backbone, micro))
        if is_driven
        else work.trace_recipe(recipe, blueprint, backbone, micro, memo)
    )
    plan = Plan(recipe, backbone, calls, work_done, micro, target.processes, target.shards)
    if card is not None:
        plan = replace(plan, scoring=_scoring(plan))
    bytes_found = memory.device(plan) | memory.host(plan)
    flops = _flops(recipe, calls, work_done)
    if pace is not None:
        taken = seconds.measured(recipe, calls, pace, target.processes)
        bytes_found |= _process_memory(recipe, bytes_found, pace)
    else:
        taken = seconds.on_card(plan, flops, card, target.utilisation) if card else {}
    facts, advice = _verdict(plan, bytes_found, target)
    return Cost(
        recipe.run,
        _shape(backbone, segments, parameters),
        _call_counts(recipe, backbone, calls, micro) | {"processes": target.processes},
        flops,
        bytes_found,
        taken,
        MEASURED if pace else ESTIMATE,
        facts,
        advice,
    )


def _scoring(plan: Plan) -> scoring.Scoring:
    """Return the bytes of the reward on a card."""
    clips = min(plan.recipe.train.score_batch, plan.clips)
    size = memory.pixels(plan.backbone)
    return scoring.of_recipe(plan.recipe, size, clips, plan.calls.first.in_loss)


def _verdict(
    plan: Plan, bytes_found: Mapping[str, float], target: Target
) -> tuple[dict[str, Any], list[str]]:
    """Return the facts of the card, with whether the recipe fits, and advice if it does not."""
    if target.card is None or plan.scoring is None:
        return {}, []
    fits = _fits(bytes_found, target.card)
    facts = {**asdict(target.card), "utilisation": target.utilisation, "fits": fits}
    facts["reward"] = plan.scoring.note
    return facts, [] if fits else _advice(plan.recipe, bytes_found, plan.micro)


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
    # the number of tokens of a driven pipeline's network is not known
    tokens = None if parameters else _tokens(backbone)
    frames, *size = memory.pixels(backbone)
    return {
        "latent": list(backbone.shape),
        "tokens": tokens,
        "frames": frames,
        "parameters": parameters,
        "pixels": size,
        "fps": backbone.fps,
        "segments": segments,
        "latent_frames_of_segments": [b - a for a, b in borders(backbone.shape[1], segments)],
    }


def _tokens(backbone: Denoiser) -> int:
    """Return the number of tokens of a clip in the network."""
    if isinstance(backbone, Skeleton):
        return backbone.tokens
    found: Any = getattr(backbone.network, "config", None)
    patch = found.patch_size if found is not None else (1, 1, 1)
    return prod(backbone.shape[1:]) // prod(patch)


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
    is_driven = recipe.backbone.name == driven.NAME and not isinstance(backbone, Skeleton)
    return None if is_driven else 2 if work.guided(backbone) else 1


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


def _process_memory(recipe: Recipe, memory: Mapping[str, float], pace: Pace) -> dict[str, float]:
    """Return the process's memory before a round, and its peak in the update or the scoring."""
    # The measured peak includes the clips that were scored at once.
    kept = memory["host"] - memory["host: clips decoded and scored at once"]
    scoring = pace.peak + kept
    rollout = memory["kept trajectories"] + memory.get("host: rollout", 0.0)
    updating = pace.resident + memory["stage: update"] + rollout
    return {"resident before": pace.resident, "peak resident": max(scoring, updating)}


def _fits(memory: Mapping[str, float], card: Card) -> bool:
    """Return whether the peak fits into the card's memory."""
    return memory["peak"] <= card.memory * 1e9 * HEADROOM


def _advice(recipe: Recipe, memory: Mapping[str, float], micro: int) -> list[str]:
    """Return the changes that make a recipe smaller, the cheapest first."""
    options, is_driven = recipe.backbone.options, recipe.backbone.name == driven.NAME
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
            choices.read(recipe).text_encoder == "keep",
            "backbone.options.text_encoder=offload: the text encoder visits to encode",
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
