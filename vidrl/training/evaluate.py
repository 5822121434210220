"""Held-out evaluation: the same prompts, the same noise, the deterministic sampler; and
what comes of comparing two.

A measure is one number a clip: the reward (`composite`), its parts, and guards that no
reward optimises. Legend: N clips.
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
from vidrl.inference.means import NO_LIMITS, interval, of_differences
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
    """The reward of a recipe: one by its name, a composite of its parts, or the default
    composite."""
    if section.parts:
        return recipe_parts.composite(section.parts)
    return load_reward(section.name or "default", **section.options)


@dataclass(frozen=True)
class Failure:
    """One clip on which a reward raised an error."""

    error: Exception

    @property
    def why(self) -> str:
        return f"unscored: the reward raised {self.error!r}"


def check_recipe(recipe: config.Recipe) -> None:
    """Raise what the plug-ins of a recipe and their options have against each other, before
    the model is loaded.

    Raises the errors of `config.check_plugins`, and ValueError for a reward that the
    algorithm cannot credit.
    """
    config.check_plugins(recipe)
    learns = getattr(plugin.find("algorithms", recipe.algorithm.name), "data", "none")
    check_data(recipe, learns)
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
    algorithm.check(build_reward(recipe.reward), config.members(recipe, learns))


def check_data(recipe: config.Recipe, learns: str) -> None:
    """Raise BadRecipe where a recipe's files of clips do not suit its algorithm; `learns`
    is the algorithm's `data`."""
    data, name, weight = recipe.data, recipe.algorithm.name, recipe.train.data_weight
    rules = [
        (
            data.clips or learns != "clips",
            f"data.clips: {name} learns from clips of files: name a table of clips and "
            "prompts, as data.clips = \"clips/metadata.jsonl\", got ''",
        ),
        (
            not data.clips or learns == "clips" or weight > 0,
            f"data.clips: {name} learns from clips that the policy "
            f"samples, and would not read {data.clips}: set train.data_weight, as 0.1, to add the loss on these clips, "
            f"take another algorithm ({_that_learn('clips')}), or leave data.clips empty",
        ),
        (
            not data.pairs or learns == "optional pairs",
            f"data.pairs: {name} does not learn from pairs, and would not "
            f"read {data.pairs}: take another algorithm ({_that_learn('optional pairs')}), or leave data.pairs empty",
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
    """The algorithms that learn from clips or pairs of files."""
    names = plugin.names("algorithms")
    return (
        ", ".join(
            one for one in names if getattr(plugin.find("algorithms", one), "data", "") == data
        )
        or "none yet"
    )


def score_each(reward: Reward, samples: Samples) -> Score:
    """The reward's score; where it raises, clip by clip, so that one bad clip leaves only
    itself unscored.

    Raises RuntimeError where every clip fails: that is the reward's fault, not a clip's;
    and torch.OutOfMemoryError where memory runs out on a single clip.
    """
    return together(score_some(reward, samples))


def score_some(reward: Reward, samples: Samples) -> list[Score | Failure]:
    """The score of some of the clips, in order, for `together` to join.

    Where the reward raises, each clip is scored by itself: a crash is the reason of a NaN,
    never a number. Where memory runs out, each half of the clips is scored by itself.
    """
    try:
        return [_finite(reward(samples))]
    except Exception as error:  # noqa: BLE001
        failure = Failure(_without_clips(error))
    full, n = out_of_memory(failure.error), len(samples)
    if n == 1 and full:
        cure = "use fewer or smaller frames, or a reward that needs less memory"
        raise torch.OutOfMemoryError(
            f"the reward has not enough memory for one clip: {cure}"
        ) from failure.error
    if n == 1:
        return [failure]
    release()
    size = (n + 1) // 2 if full else 1
    parts = [samples.pick(range(a, min(a + size, n))) for a in range(0, n, size)]
    return [found for part in parts for found in score_some(reward, part)]


def together(found: Sequence[Score | Failure]) -> Score:
    """The scores of all clips as one; a failed clip is NaN. Raises RuntimeError where every
    clip failed."""
    good = next((score for score in found if isinstance(score, Score)), None)
    if good is None:
        error = next(one.error for one in found if isinstance(one, Failure))
        raise RuntimeError(
            f"the reward failed on all of {len(found)} clips; the first: {error!r}"
        ) from error
    return join([one if isinstance(one, Score) else _unscored(good, one.why) for one in found])


def _without_clips(error: Exception) -> Exception:
    """The error, whose traceback no longer keeps the clips in memory."""
    raised = error.__traceback__ and error.__traceback__.tb_next
    traceback.clear_frames(raised)
    return error.with_traceback(raised)


def _finite(score: Score) -> Score:
    """A score in which a clip with infinity in its value or its curve is unscored: it would
    decide its group."""
    lost = (
        score.value.isinf()
        if score.frames is None
        else score.value.isinf() | score.frames.isinf().any(1)
    )
    if not bool(lost.any()):
        return score
    why = [*score.why, *[""] * (len(lost) - len(score.why))]
    told = [
        "unscored: the reward gave infinity" if gone else was
        for gone, was in zip(lost.tolist(), why, strict=True)
    ]
    curve = None if score.frames is None else score.frames.masked_fill(lost[:, None], float("nan"))
    return replace(score, value=score.value.masked_fill(lost, float("nan")), frames=curve, why=told)


def check_scored(score: Score, allowed: float, round: int) -> None:
    """Raise RuntimeError, with the first reason, where more than a share `allowed` of the
    samples is unscored."""
    # in float32, 3 of 5 would be more than 0.6
    missing = float(score.value.isnan().double().mean())
    reason = next((why for why in score.why if why), "another process knows the reason")
    check_share(missing, allowed, round, reason)


def check_share(
    missing: float, allowed: float, round: int, reason: str = "the reward gave them no number"
) -> None:
    """Raise RuntimeError, with the reason, where a share `missing` of the samples that is
    unscored is above `allowed`.

    Example:
        >>> check_share(0.6, 0.5, round=3)
        Traceback (most recent call last):
        RuntimeError: round 3: 60% of the samples are unscored, at most 50% may be (train.max_unscored): ...
    """
    if missing > allowed:
        limit = f"at most {allowed:.0%} may be (train.max_unscored)"
        raise RuntimeError(
            f"round {round}: {missing:.0%} of the samples are unscored, {limit}: {reason}"
        )


def _unscored(like: Score, why: str) -> Score:
    """The score of one clip that has none, with the parts and curves of another."""
    nan = {name: _unscored(part, why) for name, part in like.parts.items()}
    frames = None if like.frames is None else torch.full_like(like.frames[:1], float("nan"))
    nothing = torch.full_like(like.value[:1], float("nan"))
    slopes, adds = (
        dict.fromkeys(like.slopes, nothing),
        dict.fromkeys(like.adds, nothing[:, None].expand(-1, 2)),
    )
    return Score(nothing, frames, like.support, nan, [why], like.weights, slopes, adds=adds)


def measure(score: Score, samples: Samples, captions: bool) -> Measures:
    """The reward, its parts and the guards of each clip; what the verifier reads where the
    prompts are captions."""
    return rewarded(score) | guarded(samples, captions)


def rewarded(score: Score) -> Measures:
    """The measures of each clip that its score gives: the reward, its parts but `left_out`,
    whether it is unscored."""
    still = left_out(score)
    values = {"composite": score.value} | {
        name: part.value for name, part in score.parts.items() if name not in still
    }
    return _arrays(values | {"unscored_share": score.value.isnan().float()})


def guarded(samples: Samples, captions: bool) -> Measures:
    """The measures of each clip that no reward optimises; `captions`: the verifier can read
    the prompts."""
    return _arrays({"exposure": exposure(samples.frames)}) | (
        _verifier(samples) if captions else {}
    )


def _arrays(values: Mapping[str, Tensor]) -> Measures:
    return {name: value.detach().double().cpu().numpy() for name, value in values.items()}


def exposure(video: Tensor) -> Tensor:
    """Mean luma (N,) of clips (N, F, C, H, W) in [0, 1] (Rec. 601 weights)."""
    weights = video.new_tensor([0.299, 0.587, 0.114]) if video.shape[2] == 3 else video.new_ones(1)
    return torch.einsum("nfchw,c->n", video, weights) / (video[0, :, 0].numel())


def are_captions(prompts: Sequence[str]) -> bool:
    """Whether all prompts are captions of `vidrl.synthetic.world`, which the verifier can
    read.

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
    """Clips (N, F, C, H, W) as rows (N, ·), each frame averaged down to at most side ×
    side, as the eye compares."""
    rows, columns = min(side, video.shape[-2]), min(side, video.shape[-1])
    return torch.nn.functional.adaptive_avg_pool2d(video.flatten(1, 2), (rows, columns)).flatten(1)


def diversity(video: Tensor, group: Tensor) -> Tensor:
    """How much members of a group differ: (number of groups,) mean absolute difference
    between clips of a group.

    A group of one has none to differ from: NaN.

    Example:
        >>> diversity(torch.tensor([0.0, 1.0, 3.0, 3.0]).view(4, 1, 1, 1, 1), torch.tensor([0, 0, 1, 1]))
        tensor([1., 0.])
    """
    spreads = []
    for g in group.unique():
        clips = video[group == g].flatten(1)
        pairs = len(clips) * (len(clips) - 1)
        # 0 / 0 for a group of one
        spreads.append(torch.cdist(clips, clips, p=1).sum() / pairs / clips.shape[1])
    return torch.stack(spreads)


def means(measures: Measures) -> dict[str, dict[str, float]]:
    """Mean over the scored clips, and how many they are, of each measure."""
    scored = {name: values[np.isfinite(values)] for name, values in measures.items()}
    return {
        name: {"mean": float(found.mean()) if len(found) else float("nan"), "n_scored": len(found)}
        for name, found in scored.items()
    }


def first(measures: Measures, n: int) -> Measures:
    """The numbers of the first n clips: evaluations of all prompts and of the first ones
    are compared on these alone.

    Example:
        >>> first({"a": np.array([1.0, 2.0, 3.0])}, 2)
        {'a': array([1., 2.])}
    """
    return {name: rows[:n] for name, rows in measures.items()}


def values(measures: Measures) -> dict[str, float]:
    """The mean of each measure over the scored clips."""
    return {name: row["mean"] for name, row in means(measures).items()}


def compare(before: Measures, after: Measures) -> dict[str, dict[str, Any]]:
    """Before, after, their paired difference and its 95 % interval over prompts, by
    `vidrl.inference.means.interval`.

    Each clip has a prompt of its own. Clips that either evaluation left unscored are left
    out of the pairs, and a measure without any pair is left out of the table. Where there
    is no interval, as of fewer than six prompts, `low` and `high` are None, and `note` says
    why. The interval of a measure depends on its own numbers alone. That of `weight_drift`,
    which is of the weights and no estimate, is its difference itself.

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
    """What the values of a measure can be: shares and the verifier's answers lie in [0, 1];
    else no limit is known."""
    within = name in ("unscored_share", "exposure") or name.startswith("verifier")
    return (0.0, 1.0) if within else NO_LIMITS


def _compared(before: np.ndarray, after: np.ndarray, limits: tuple[float, float]) -> dict[str, Any]:
    both = np.isfinite(before) & np.isfinite(after)
    a, b = before[both], after[both]
    over = interval(b - a, limits=of_differences(limits), unit="clips")
    known = math.isfinite(over.low) and math.isfinite(over.high)  # half an interval misleads
    ends = {"low": over.low if known else None, "high": over.high if known else None}
    means = (
        {"before": float(a.mean()), "after": float(b.mean()), "difference": over.mean}
        if len(a)
        else {}
    )
    return means | ends | {"n": len(a), "note": over.note}


def outside(
    bands: Mapping[str, tuple[float, float]], base: Mapping[str, float], now: Mapping[str, float]
) -> list[str]:
    """What each guard that left its band says; bands are fractions of the base model's
    value.

    The bands of `unscored_share` and `weight_drift`, which are 0 for a good base model, are
    of the values themselves. Raises ValueError for a guard that is not measured.

    Example:
        >>> outside({"dynamic_degree": (0.95, 2.0)}, {"dynamic_degree": 0.5}, {"dynamic_degree": 0.4})
        ['dynamic_degree: expected 0.475 to 1 (0.95 to 2.0 of the base model), got 0.4']
    """
    messages = []
    for name, (low, high) in bands.items():
        if name not in now or name not in base:
            known = plugin.nearest(name, [one for one in now if one in base])
            raise ValueError(f"guard.bands.{name}: expected a held-out measure: {known}")
        bottom, top = sorted(share * guards.unit(name, base[name]) for share in (low, high))
        if not bottom <= now[name] <= top:
            what = {
                "unscored_share": "clips",
                "weight_drift": "the norm of the base model's weights",
            }
            band = f"{low} to {high} of {what.get(name, 'the base model')}"
            messages.append(
                f"{name}: expected {bottom:.3g} to {top:.3g} ({band}), got {now[name]:.3g}"
            )
    return messages


def save(folder: Path, round: int, measures: Measures) -> None:
    """Keep the numbers of each clip for paired statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file.new_file(folder / f"{round:06d}.npz") as file:
        np.savez(file, **measures)  # type: ignore[arg-type]


def kept(folder: Path, round: int) -> bool:
    """Whether `save` kept the numbers of a round."""
    return (folder / f"{round:06d}.npz").is_file()


def load(folder: Path, round: int) -> Measures:
    """What `save` kept. Raises ValueError, with the cure, where the file is damaged."""
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
