"""Add up the bytes on the device and on the host, by part, under a recipe's memory options.

All trained weights are float32. Beside them, AdamW keeps two moments, the gradient is a
third tensor, and "reference" and "ema" are copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vidrl import config
from vidrl.backbones.base import CACHE_BYTES, Denoiser
from vidrl.config import Recipe

from . import choices, work
from .choices import Choices
from .counting import Calls
from .scoring import Scoring
from .work import Work


@dataclass(frozen=True)
class Plan:
    """What the memory of one process depends on."""

    recipe: Recipe
    backbone: Denoiser
    calls: Calls
    work: Work
    micro: int
    """The rows of a micro-batch."""
    processes: int = 1
    """The processes that share a round's clips, each on a card of its own."""
    shards: int = 1
    """The processes that divide the network's weights among them."""
    scoring: Scoring | None = None
    """The bytes of the reward on a card; None where no card is named."""

    @property
    def chosen(self) -> Choices:
        """Return the memory options of the recipe."""
        return choices.read(self.recipe)

    @property
    def clips(self) -> int:
        """Return the number of clips that one process samples and scores in a round."""
        return self.calls.clips // self.processes


def device(plan: Plan) -> dict[str, float]:
    """Return bytes on the device by part, and the peak: all parts and the largest stage.

    Text encoders that are dropped are on the device before the network comes. The peak is
    theirs where they are larger than all that follows.
    """
    done, chosen = plan.work, plan.chosen
    sets = 2 if plan.recipe.train.ema else 1
    parts = {
        "network": _network(plan),
        "decoder": done.weights["decoder"],
        "text encoder": done.weights["text encoder"] if chosen.text_encoder == "keep" else 0.0,
        "trained weights": 4 * done.trained / plan.shards,
        "gradient, optimiser and copies": 4 * (3 + sets) * done.trained / plan.shards,
        "kept trajectories": 0.0 if chosen.rollouts_on_cpu else trajectories(plan),
        "conditions": 0.0 if chosen.rollouts_on_cpu else _conditions(plan, plan.clips),
    }
    if plan.scoring is not None and plan.scoring.resident:
        parts["reward's networks"] = plan.scoring.resident
    stages = _stages(plan)
    other = {
        "update, checkpointing " + ("off" if done.checkpointing else "on"): done.update_peak_other
    }
    first = _before_the_network(plan)
    known = [value for value in stages.values() if value == value]  # NaN: an unknown reward
    peak = max(sum(parts.values()) + max(known), *first.values(), 0.0)
    named = {f"stage: {k}": v for k, v in (stages | other).items()}
    return {**parts, **named, **{f"first: {k}": v for k, v in first.items()}, "peak": peak}


def _before_the_network(plan: Plan) -> dict[str, float]:
    """Return the bytes of the parts that encode all prompts and are then dropped."""
    if plan.chosen.text_encoder != "drop":
        return {}
    # the layers that group offloading keeps on the device are there from the start
    network = _network(plan) if plan.chosen.group_offload else 0.0
    weights = plan.work.weights
    return {"text encoder and decoder": weights["text encoder"] + weights["decoder"] + network}


def _stages(plan: Plan) -> dict[str, float]:
    """Return the bytes that each stage adds to the parts."""
    done, chosen = plan.work, plan.chosen
    numel = prod(plan.backbone.shape)
    clips = min(plan.recipe.train.score_batch, plan.clips) * clip_bytes(plan.backbone)
    rows = min(plan.micro, plan.calls.first.largest)
    held = rows if chosen.rollouts_on_cpu else plan.calls.first.largest // plan.processes
    scoring = {} if plan.scoring is None else {"reward": clips + plan.scoring.alive}
    return {
        "encoding": done.weights["text encoder"] if chosen.text_encoder == "offload" else 0.0,
        # The trajectories are counted a second time: while the pieces are concatenated, the
        # pieces and the result exist together.
        "sampling": done.forward_peak + trajectories(plan, plan.micro),
        "update": done.update_peak + held * (8.0 * numel + done.condition),
        "decoding": max(3 * clips, clips + done.decode_peak),
        **scoring,
    }


def _network(plan: Plan) -> float:
    """Return the bytes of the network's frozen weights that are on the device at once.

    Group offloading holds one of the blocks' linear layers, and all other weights. A sharded
    network holds its share, and one block as a whole.
    """
    found = plan.work.network
    if found is None:
        return plan.work.weights["network"]
    if plan.chosen.group_offload:
        return found.weights - found.layers + found.layer
    if plan.shards > 1:
        return found.weights / plan.shards + found.block
    return found.weights


def trajectories(plan: Plan, clips: int = 0) -> float:
    """Return the bytes of the kept steps of a process's clips, or of a piece of them."""
    numel, count = prod(plan.backbone.shape), plan.clips
    if clips and plan.chosen.rollouts_on_cpu:
        count = min(clips, count)
    return 4.0 * count * (1 + 2 * plan.calls.kept) * numel


def _conditions(plan: Plan, n: int) -> float:
    """Return the bytes of the conditions of n prompts; the negative prompt is stored once."""
    text = plan.work.condition / (2 if work.guided(plan.backbone) else 1)
    return n * text + plan.work.condition - text


def clip_bytes(backbone: Denoiser) -> float:
    """Return the bytes of one clip, float32."""
    return 4.0 * 3 * prod(pixels(backbone))


def pixels(backbone: Denoiser) -> tuple[int, int, int]:
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


def host(plan: Plan) -> dict[str, float]:
    """Return bytes of host memory by part, of all processes of one machine.

    The program and the reward's own memory are left out. The parts of a process are: the
    clips decoded and scored at once; the clips that are shown, twice while they are written;
    a thumbnail of every clip of a round or an evaluation; what the memory options keep on
    the host; the conditions that are cached of prompts.
    """
    options, data = plan.recipe.train, plan.recipe.data
    clip = clip_bytes(plan.backbone)
    frames = plan.backbone.frame_map[-1][1]
    thumbnails = max(plan.calls.clips, plan.calls.evaluated_clips) * 4.0 * 3 * 16 * 16 * frames
    each = {
        "clips decoded and scored at once": min(options.score_batch, plan.clips) * clip,
        **_waiting(plan),
        "kept conditions": _kept_conditions(plan),
    }
    parts = {
        # the main process alone keeps what is shown
        "shown clips": 2 * max(2, min(options.show, data.held_out_n)) * clip,
        "thumbnails": thumbnails,
        **{name: value * plan.processes for name, value in each.items()},
    }
    return {f"host: {name}": value for name, value in parts.items()} | {"host": sum(parts.values())}


def _waiting(plan: Plan) -> dict[str, float]:
    """Return the bytes that the memory options keep on the host of one process."""
    done, chosen = plan.work, plan.chosen
    found = done.network
    parts = {
        "text encoder": done.weights["text encoder"] if chosen.text_encoder == "offload" else 0.0
    }
    if chosen.rollouts_on_cpu:
        parts["rollout"] = trajectories(plan) + _conditions(plan, plan.clips)
    if found is not None and chosen.group_offload:
        parts["network"] = found.layers
    if found is not None and chosen.activation_offload:
        parts["saved activations"] = found.saved
    return parts


def _kept_conditions(plan: Plan) -> float:
    """Return the bytes of the cached conditions of all prompts."""
    data = plan.recipe.data
    prompts = len(config.training_prompts(data)) + data.held_out_n
    kept = plan.work.kept
    whole = _conditions(plan, prompts) if kept is None else prompts * kept
    return float(min(CACHE_BYTES, whole))
