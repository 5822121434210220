"""Score clips, compute the measures of an evaluation, and compare two evaluations.

A measure is one number for each clip: the reward (`composite`), its parts, and guards that
no reward optimises. Legend: N clips.
"""

from __future__ import annotations

import math
import traceback
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl import config, plugin
from vidrl.config import RewardSection
from vidrl.inference.means import NO_LIMITS, interval, limits_of_difference
from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards import load as load_reward
from vidrl.rewards._files import atomic_file
from vidrl.rewards._scoring import recipe_parts
from vidrl.rewards._scoring.left_out import left_out
from vidrl.rewards._scoring.score import join
from vidrl.synthetic import verifier, world

from . import guards
from .pieces import out_of_memory, release

Measures = dict[str, np.ndarray]


def build_reward(section: RewardSection) -> Reward:
    """Return the reward of a recipe: the named reward, the composite of parts, or the default."""
    named = section.name or "default"
    reward = (
        recipe_parts.composite(section.parts)
        if section.parts
        else load_reward(named, **section.options)
    )
    reward.memory = section.memory or reward.memory
    return reward


@dataclass(frozen=True)
class Failure:
    """A clip on which a reward raised an error."""

    error: Exception

    @property
    def why(self) -> str:
        """Return the reason that the score of this clip gives."""
        return f"unscored: the reward raised {self.error!r}"


def check_recipe(recipe: config.Recipe) -> None:
    """Fail early: raise where plug-ins or options conflict, before the model is loaded.

    Raises the errors of `config.check_plugins` and `check_data`, and ValueError for a
    reward that the algorithm cannot credit.
    """
    config.check_plugins(recipe)
    backbone: Any = plugin.find("backbones", recipe.backbone.name)
    backbone.check_options(recipe.backbone.options)
    check_full(recipe)
    check_shard(recipe)
    learns = getattr(plugin.find("algorithms", recipe.algorithm.name), "data", "none")
    check_data(recipe, learns)
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    algorithm.check(build_reward(recipe.reward), config.members(recipe, learns))


def check_full(recipe: config.Recipe) -> None:
    """Raise BadRecipe where all weights of a quantised or offloaded model are to be trained."""
    option = _only_lora(recipe)
    if recipe.policy.full and option:
        raise config.BadRecipe(
            f"policy.full: expected false with {option}, got true: weights that are quantised or "
            "offloaded cannot be trained; train a LoRA, or leave that option out"
        )


def check_shard(recipe: config.Recipe) -> None:
    """Raise BadRecipe where quantised or offloaded weights are to be spread over processes."""
    option, shard = _only_lora(recipe), recipe.parallel.shard
    if shard != "none" and option:
        raise config.BadRecipe(
            f'parallel.shard: expected "none" with {option}, got "{shard}": FSDP2 spreads plain '
            "weights that stay on the device; leave one of the two out"
        )


def _only_lora(recipe: config.Recipe) -> str:
    """Return the option that quantises or offloads the weights, as a recipe has it; "" if none."""
    options = recipe.backbone.options
    quantization = options.get("quantization", "none")
    if quantization != "none":
        return f'backbone.options.quantization = "{quantization}"'
    return "backbone.options.group_offload = true" if options.get("group_offload") else ""


def check_data(recipe: config.Recipe, learns: str) -> None:
    """Raise BadRecipe where a recipe's files of clips do not suit its algorithm.

    `learns`: the algorithm's `data`, which says whether it learns from clips of files.
    """
    data, weight = recipe.data, recipe.train.data_weight
    name = recipe.algorithm.name
    rules = [
        (
            data.clips or learns != "clips",
            f"data.clips: {name} learns from clips of files: name a table of clips and "
            "prompts, as data.clips = \"clips/metadata.jsonl\", got ''",
        ),
        (
            not data.clips or learns == "clips" or weight > 0,
            f"data.clips: {name} learns from clips that the policy "
            f"samples, and would not read {data.clips}: set train.data_weight, as 0.1, to add the "
            f"loss on these clips, take another algorithm ({_that_learn('clips')}), or leave "
            "data.clips empty",
        ),
        (
            not data.pairs or learns == "optional pairs",
            f"data.pairs: {name} does not learn from pairs, and would not "
            f"read {data.pairs}: take another algorithm ({_that_learn('optional pairs')}), or "
            "leave data.pairs empty",
        ),
        (
            weight == 0 or learns != "clips",
            f"train.data_weight: expected 0 with {name}, whose loss is the one on "
            f"data.clips, got {weight:g}",
        ),
        (
            weight == 0 or data.clips,
            f"train.data_weight: expected data.clips with a weight of {weight:g}, got '': name "
            "the clips, or set the weight to 0",
        ),
        (
            data.prompts or config.offline(recipe, learns),
            "data.prompts: expected a text file, one prompt a line, "
            f"because {name} samples clips of its prompts, got ''",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise config.BadRecipe(message)


def _that_learn(data: str) -> str:
    """Return the names of the algorithms that learn from clips or pairs of files."""
    names = plugin.names("algorithms")
    kinds = {name: getattr(plugin.find("algorithms", name), "data", "") for name in names}
    return ", ".join(name for name in names if kinds[name] == data) or "none yet"


def score_each(reward: Reward, samples: Samples) -> Score:
    """Return the reward's score of clips; a clip on which the reward raises is unscored.

    Raises RuntimeError where every clip fails, because the fault is then the reward's and
    not a clip's; and torch.OutOfMemoryError where memory runs out on a single clip.
    """
    return together(score_some(reward, samples))


def score_some(reward: Reward, samples: Samples) -> list[Score | Failure]:
    """Return the scores and failures of clips, in order; `together` joins them.

    Where the reward raises, each clip is scored alone, so that only the clips on which it
    raises are unscored. Where memory runs out, each half of the clips is scored alone.
    """
    try:
        return [_finite(reward(samples))]
    except Exception as error:  # noqa: BLE001
        failure = Failure(_without_clips(error))
    memory_ran_out, n = out_of_memory(failure.error), len(samples)
    if n == 1 and memory_ran_out:
        cure = "use fewer or smaller frames, or a reward that needs less memory"
        raise torch.OutOfMemoryError(
            f"the reward has not enough memory for one clip: {cure}"
        ) from failure.error
    if n == 1:
        return [failure]
    release()
    size = (n + 1) // 2 if memory_ran_out else 1
    parts = [samples.pick(range(a, min(a + size, n))) for a in range(0, n, size)]
    return [found for part in parts for found in score_some(reward, part)]


def together(found: Sequence[Score | Failure]) -> Score:
    """Join the scores of all clips; a failed clip is NaN.

    Raises RuntimeError where every clip failed.
    """
    good = next((score for score in found if isinstance(score, Score)), None)
    if good is None:
        error = next(failure.error for failure in found if isinstance(failure, Failure))
        raise RuntimeError(
            f"the reward failed on all of {len(found)} clips; the first: {error!r}"
        ) from error
    return join([part if isinstance(part, Score) else _unscored(good, part.why) for part in found])


def _without_clips(error: Exception) -> Exception:
    """Return the error with a traceback that no longer keeps the clips in memory."""
    raised = error.__traceback__ and error.__traceback__.tb_next
    traceback.clear_frames(raised)
    return error.with_traceback(raised)


def _finite(score: Score) -> Score:
    """Return a score in which clips with infinity in value or curve are unscored.

    An infinite reward would decide the advantages of the whole group.
    """
    infinite = (
        score.value.isinf()
        if score.frames is None
        else score.value.isinf() | score.frames.isinf().any(1)
    )
    if not bool(infinite.any()):
        return score
    why = [*score.why, *[""] * (len(infinite) - len(score.why))]
    why = [
        "unscored: the reward gave infinity" if is_infinite else reason
        for is_infinite, reason in zip(infinite.tolist(), why, strict=True)
    ]
    nan, curve = float("nan"), score.frames
    curve = None if curve is None else curve.masked_fill(infinite[:, None], nan)
    return replace(score, value=score.value.masked_fill(infinite, nan), frames=curve, why=why)


def check_scored(score: Score, allowed: float, round: int) -> None:
    """Raise RuntimeError, with the first reason, for too many unscored samples.

    `allowed`: the largest share of unscored samples, train.max_unscored.
    """
    # in float64: the float32 mean of 3 unscored of 5 is more than the float64 limit 0.6
    missing = float(score.value.isnan().double().mean())
    reason = next((why for why in score.why if why), "another process knows the reason")
    check_share(missing, allowed, round, reason)


def check_share(
    missing: float, allowed: float, round: int, reason: str = "the reward gave them no number"
) -> None:
    """Raise RuntimeError, with the reason, where the unscored share is above `allowed`.

    `missing`: the share of the samples that are unscored.

    Example:
        >>> check_share(0.6, 0.5, round=3)
        Traceback (most recent call last):
        RuntimeError: round 3: 60% of the samples are unscored, at most 50% may be ...
    """
    if missing > allowed:
        limit = f"at most {allowed:.0%} may be (train.max_unscored)"
        raise RuntimeError(
            f"round {round}: {missing:.0%} of the samples are unscored, {limit}: {reason}"
        )


def _unscored(like: Score, why: str) -> Score:
    """Return the score of one unscored clip, with the parts and curves of another score."""
    nan = {name: _unscored(part, why) for name, part in like.parts.items()}
    frames = None if like.frames is None else torch.full_like(like.frames[:1], float("nan"))
    unscored = torch.full_like(like.value[:1], float("nan"))
    slopes, adds = (
        dict.fromkeys(like.slopes, unscored),
        dict.fromkeys(like.adds, unscored[:, None].expand(-1, 2)),
    )
    return Score(unscored, frames, like.support, nan, [why], like.weights, slopes, adds=adds)


def measure(score: Score, samples: Samples, captions: bool) -> Measures:
    """Return the reward, its parts and the guards of each clip.

    `captions`: the prompts are captions, so that the verifier measures too.
    """
    return rewarded(score) | guarded(samples, captions)


def rewarded(score: Score) -> Measures:
    """Return the measures of each clip that its score holds.

    These are the reward, its parts (without parts that images leave out), and whether the
    clip is unscored.
    """
    skipped = left_out(score)
    values = {"composite": score.value} | {
        name: part.value for name, part in score.parts.items() if name not in skipped
    }
    return _arrays(values | {"unscored_share": score.value.isnan().float()})


def guarded(samples: Samples, captions: bool) -> Measures:
    """Return the measures of each clip that no reward optimises.

    `captions`: the prompts are captions, so that the verifier measures too.
    """
    return _arrays({"exposure": exposure(samples.frames)}) | (
        _verifier(samples) if captions else {}
    )


def _arrays(values: Mapping[str, Tensor]) -> Measures:
    return {name: value.detach().double().cpu().numpy() for name, value in values.items()}


def exposure(video: Tensor) -> Tensor:
    """Return the mean luma (N,) of clips (N, F, C, H, W), in [0, 1] (Rec. 601 weights)."""
    weights = video.new_tensor([0.299, 0.587, 0.114]) if video.shape[2] == 3 else video.new_ones(1)
    return torch.einsum("nfchw,c->n", video, weights) / (video[0, :, 0].numel())


def are_captions(prompts: Sequence[str]) -> bool:
    """Return whether the verifier can read all prompts, captions of `vidrl.synthetic.world`.

    Example:
        >>> are_captions(["a cat on a windowsill"])
        False
    """
    try:
        for prompt in prompts:
            world.parse(prompt)
    except ValueError:
        return False
    return True


def _verifier(samples: Samples) -> Measures:
    seen = verifier.verify(samples.frames, list(samples.prompts), samples.fps)
    named = {"verifier": seen.all, "verifier_shape": seen.shape, "verifier_colour": seen.colour}
    if seen.motion is not None:
        named |= {"verifier_motion": seen.motion, "identity": seen.identity}
    return {name: value.double().numpy() for name, value in named.items()}


def thumbnails(video: Tensor, side: int = 16) -> Tensor:
    """Return clips (N, F, C, H, W) as rows (N, ·) of frames averaged to at most side × side.

    The difference of two clips' thumbnails ignores noise and texture, which the average
    removes.
    """
    rows, columns = min(side, video.shape[-2]), min(side, video.shape[-1])
    return torch.nn.functional.adaptive_avg_pool2d(video.flatten(1, 2), (rows, columns)).flatten(1)


def diversity(video: Tensor, group: Tensor) -> Tensor:
    """Return the mean absolute difference between the clips of each group, (groups,).

    NaN for a group of one clip.

    Example:
        >>> clips = torch.tensor([0.0, 1.0, 3.0, 3.0]).view(4, 1, 1, 1, 1)
        >>> diversity(clips, torch.tensor([0, 0, 1, 1]))
        tensor([1., 0.])
    """
    differences = []
    for g in group.unique():
        clips = video[group == g].flatten(1)
        pairs = len(clips) * (len(clips) - 1)
        # 0 / 0, and so NaN, for a group of one clip
        differences.append(torch.cdist(clips, clips, p=1).sum() / pairs / clips.shape[1])
    return torch.stack(differences)


def means(measures: Measures) -> dict[str, dict[str, float]]:
    """Return the mean of each measure over the scored clips, and the number of these clips."""
    scored = {name: values[np.isfinite(values)] for name, values in measures.items()}
    return {
        name: {"mean": float(found.mean()) if len(found) else float("nan"), "n_scored": len(found)}
        for name, found in scored.items()
    }


def first(measures: Measures, n: int) -> Measures:
    """Return the numbers of the first n clips.

    An evaluation of all prompts and one of the first prompts are compared on these clips.

    Example:
        >>> first({"a": np.array([1.0, 2.0, 3.0])}, 2)
        {'a': array([1., 2.])}
    """
    return {name: rows[:n] for name, rows in measures.items()}


def values(measures: Measures) -> dict[str, float]:
    """Return the mean of each measure over the scored clips."""
    return {name: row["mean"] for name, row in means(measures).items()}


def compare(before: Measures, after: Measures) -> dict[str, dict[str, Any]]:
    """Return the means before and after, and the paired difference with its 95 % interval.

    The interval is over prompts, by `vidrl.inference.means.interval`; each clip has another
    prompt. Clips that either evaluation left unscored are left out of the pairs, and a
    measure without any pair is left out of the table. Where there is no interval, as of
    fewer than six prompts, `low` and `high` are None, and `note` says why. The interval of
    `weight_drift` is its difference itself, because it is a property of the weights and no
    estimate.

    Example:
        >>> row = compare({"a": np.array([0.0, 1.0])}, {"a": np.array([0.5, 1.5])})["a"]
        >>> row["difference"], row["low"], row["high"], row["note"]
        (0.5, None, None, 'an interval needs 6 clips, and there are 2')
    """
    rows = {
        name: _compared(before[name], after[name], _limits(name))
        for name in before
        if name in after
    }
    if (drift := rows.get("weight_drift", {})).get("n"):
        drift |= {"low": drift["difference"], "high": drift["difference"], "note": ""}
    return {name: row for name, row in rows.items() if row["n"]}


def _limits(name: str) -> tuple[float, float]:
    """Return the range of a measure's values: [0, 1] for shares and the verifier's answers.

    No limits are known for the other measures.
    """
    within = name in ("unscored_share", "exposure") or name.startswith("verifier")
    return (0.0, 1.0) if within else NO_LIMITS


def _compared(before: np.ndarray, after: np.ndarray, limits: tuple[float, float]) -> dict[str, Any]:
    both = np.isfinite(before) & np.isfinite(after)
    a, b = before[both], after[both]
    over = interval(b - a, limits=limits_of_difference(limits), unit="clips")
    # an interval with one end would mislead
    finite = math.isfinite(over.low) and math.isfinite(over.high)
    ends = {"low": over.low if finite else None, "high": over.high if finite else None}
    means = (
        {"before": float(a.mean()), "after": float(b.mean()), "difference": over.mean}
        if len(a)
        else {}
    )
    return means | ends | {"n": len(a), "note": over.note}


def outside(
    bands: Mapping[str, tuple[float, float]], base: Mapping[str, float], now: Mapping[str, float]
) -> list[str]:
    """Return a message for each guard whose measure is outside its band.

    A band holds fractions of the base model's value. The bands of `unscored_share` and
    `weight_drift`, which are 0 for a good base model, hold limits of the measure itself.
    Raises ValueError for a guard of a name that is not measured.

    Example:
        >>> outside({"jerk": (0.95, 2.0)}, {"jerk": 0.5}, {"jerk": 0.4})
        ['jerk: expected 0.475 to 1 (0.95 to 2.0 of the base model), got 0.4']
    """
    messages = []
    for name, (low, high) in bands.items():
        if name not in now or name not in base:
            advice = plugin.nearest(name, [measure for measure in now if measure in base])
            raise ValueError(f"guard.bands.{name}: expected a held-out measure: {advice}")
        # sorted: with a negative value of the base model, the lower fraction is the upper bound
        bottom, top = sorted(share * guards.unit(name, base[name]) for share in (low, high))
        if not bottom <= now[name] <= top:
            units = {
                "unscored_share": "clips",
                "weight_drift": "the norm of the base model's weights",
            }
            band = f"{low} to {high} of {units.get(name, 'the base model')}"
            messages.append(
                f"{name}: expected {bottom:.3g} to {top:.3g} ({band}), got {now[name]:.3g}"
            )
    return messages


def save(folder: Path, round: int, measures: Measures) -> None:
    """Write the numbers of each clip, for paired statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file.new_file(folder / f"{round:06d}.npz") as file:
        np.savez(file, **measures)  # type: ignore[arg-type]


def kept(folder: Path, round: int) -> bool:
    """Return whether `save` wrote the numbers of a round."""
    return (folder / f"{round:06d}.npz").is_file()


def load(folder: Path, round: int) -> Measures:
    """Return what `save` wrote; raise ValueError, with the cure, for a damaged file."""
    path = folder / f"{round:06d}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        cure = (
            "delete it, and --resume measures the base model again"
            if round == 0
            else "it cannot be compared"
        )
        raise ValueError(f"{path} is damaged, an evaluation's numbers: {cure}") from error
