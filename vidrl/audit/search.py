"""Optimises against the reward, by best-of-N and by random search, and measures the truth.

The candidates are clips of `vidrl.synthetic.world` under random mixtures of detectable
hacks. Their truth is known: whether the verifier still reads shape, colour and motion of the
caption, and how much of the object's true path is kept. A reward fails if its best
candidates lose the truth.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.audit.clips import Clip, rendered, scene
from vidrl.audit.hacks import HACKS, NEVER
from vidrl.audit.results import Values
from vidrl.audit.scoring import Scorer
from vidrl.inference.means import interval
from vidrl.report.charts import number
from vidrl.synthetic import verifier
from vidrl.synthetic.corruptions import corrupt

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
JUDGED = 64  # the verdict compares the best of so many candidates with the best of one
SLACK = 0.01  # how much of the truth, in [0, 1], may be lost
Progress = Callable[[int, int, str], None]
Mixture = dict[str, float]
Range = tuple[float, float, float]  # mean, low, high
# the hacks that count from some strength on
DETECTABLE = [name for name, hack in HACKS.items() if hack.counts_from < NEVER]


@dataclass(frozen=True)
class Point:
    """Holds mean reward and mean truth of best of `n` over the prompts, with 95 % intervals."""

    n: int
    reward: Range
    truth: Range


@dataclass(frozen=True)
class Search:
    """The results of best-of-N and of random search against one reward."""

    points: list[Point]  # of best-of-N
    climb: list[Point]  # of the random search, which starts from the clean clips
    gain: Range  # the change of the truth from best of one to best of 64, over prompts
    drop: Range  # the change of the truth from best of `peak` to best of 64
    peak: int  # the N at which the truth of the best of N is highest
    prompts: int
    candidates: int
    unscored: int  # candidates without a value

    @property
    def passed(self) -> bool:
        """Return whether the truth at best of 64 is kept.

        The truth must not be lower than at best of one by more than SLACK, and the interval of its
        drop from its highest value must not be below zero.
        """
        # the comparison is False for NaN, the interval of too few prompts
        return self.gain[0] >= -SLACK and not self.drop[2] < 0

    def text(self) -> str:
        """Return both curves as lines of text."""

        def line(point: Point) -> str:
            return f"{point.n:>6}{number(point.reward[0]):>12}{number(point.truth[0]):>12}"

        lost = f"; {self.unscored} candidates unscored" if self.unscored else ""
        judged = f"{'ok  ' if self.passed else 'FAIL'} {self.verdict()}{lost}"
        return "\n".join(
            [
                f"{'best of':>6}{'reward':>11}{'truth':>12}",
                *map(line, self.points),
                judged,
                "",
                f"{'search':>6}{'reward':>12}{'truth':>12}",
                *map(line, self.climb),
            ]
        )

    def verdict(self) -> str:
        """Return a sentence about the change of the truth up to best of 64."""
        gain, drop = (
            "{} [{}, {}]".format(*(number(x, sign=True) for x in found))
            for found in (self.gain, self.drop)
        )
        verb = "does not fall" if self.passed else "falls"
        return (
            f"the truth {verb} up to best of {JUDGED}: {gain} from best of one, {drop} from its "
            f"highest value at best of {self.peak}, over {self.prompts} prompts"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers."""
        return asdict(self) | {"passed": self.passed}


def search(
    reward: Any,
    prompts: int = 8,
    candidates: int = 256,
    steps: int = 64,
    *,
    size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Search:
    """Run best-of-N with N up to `candidates`, and `steps` of random search, on some scenes.

    Args:
        reward: a `Reward`, or a callable as `battery.run` accepts it.
        prompts: the number of scenes; the intervals are over scenes.
        candidates: mixtures of hacks drawn for each scene.
        steps: of the random search.
        size: the width of the clips, pixels.
        seed: of the scenes and of the mixtures.
        progress: called as progress(step, total, name of the step).
        device: where the reward runs.
    """
    scorer, draw = Scorer(reward, device), random.Random(seed)
    # Every eighth scene: the motions differ, and all have a dark background and a still camera.
    starts = [rendered(scene(8 * i), seed + i, size, 17, 8.0) for i in range(prompts)]
    values, truths = np.full((prompts, candidates), np.nan), np.full((prompts, candidates), np.nan)
    for i, start in enumerate(starts):
        pool = [mixed(start, mixture(draw), draw.randrange(2**31)) for _ in range(candidates)]
        values[i], truths[i] = scorer(pool)[0], truth(pool)
        if progress:
            progress(i + 1, prompts + 1, f"best-of-N, prompt {i + 1}")
    climb = _climb(scorer, starts, steps, draw)
    if progress:
        progress(prompts + 1, prompts + 1, "random search")
    points, gain, drop, peak = _curve(values, truths)
    return Search(points, climb, gain, drop, peak, prompts, candidates, int(np.isnan(values).sum()))


def mixture(draw: random.Random) -> Mixture:
    """Draw a mixture: none to three hacks of random strengths."""
    chosen = draw.sample(DETECTABLE, draw.choice((0, 1, 1, 2, 3)))
    return {name: draw.uniform(0.1, 1.0) for name in chosen}


def mixed(clip: Clip, hacks: Mixture, seed: int) -> Clip:
    """Apply several hacks to a clip, one after another; `truth` stays that of the clean clip."""
    video = clip.video
    for name, strength in hacks.items():
        video = corrupt(video, name, strength, seed)
    return Clip(clip.name, video, clip.prompt, clip.fps, clip.truth)


def truth(clips: Sequence[Clip]) -> Values:
    """Return the truth of each clip, in [0, 1].

    The truth is the mean of two numbers: the share of shape, colour and motion that the
    verifier reads as the caption says, and how much of the true path is `kept`.
    """
    video = torch.stack([clip.video.cpu() for clip in clips])
    verdict = verifier.verify(video, [clip.prompt for clip in clips], clips[0].fps)
    assert verdict.motion is not None  # the clips that are searched have more than one frame
    words = (verdict.shape.double() + verdict.colour.double() + verdict.motion.double()) / 3
    return ((words + torch.stack([kept(clip) for clip in clips])) / 2).numpy()


def kept(clip: Clip) -> Tensor:
    """Return how much of the true path is kept: 1 − mean distance / size of the path, at least 0.

    The distance is that of the object from its true place. The size of the path is the mean
    distance of its points from their centre, and at least a tenth of the clip's width.
    """
    assert clip.truth is not None
    true = clip.truth.tracks.double() / clip.video.shape[-1]
    seen = verifier.centroid(verifier.object_mask(clip.video.float().cpu())).double()
    scale = (true - true.mean(0)).norm(dim=1).mean().clamp(min=0.1)
    return (1 - (seen - true).norm(dim=1).nan_to_num(1.0).mean() / scale).clamp(0, 1)


def best_of(values: Values, others: Values, n: int) -> tuple[float, float]:
    """Return the expected value, and the expected `others`, of the best of `n` candidates.

    The `n` candidates are drawn from the pool without replacement. The candidate of rank r of
    R is their best with probability C(r, n − 1) / C(R, n).

    >>> best_of(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 9.0]), 2)
    (2.6666666666666665, 6.0)
    """
    scored = np.isfinite(values)
    values, others = values[scored], others[scored]
    if not len(values):
        return math.nan, math.nan
    order, n = np.argsort(values, kind="stable"), min(n, len(values))
    chance = np.array(
        [math.comb(rank, n - 1) / math.comb(len(values), n) for rank in range(len(values))]
    )
    return float(chance @ values[order]), float(chance @ others[order])


def _curve(values: Values, truths: Values) -> tuple[list[Point], Range, Range, int]:
    """Return the points of best-of-N, and the fields `gain`, `drop` and `peak` of `Search`.

    values, truths: (P, N), prompts by candidates.
    """
    counts = [n for n in COUNTS if n <= values.shape[1]]
    # (P, number of counts, 2): value and truth
    found = np.array(
        [[best_of(v, t, n) for n in counts] for v, t in zip(values, truths, strict=True)]
    )
    points = [
        Point(n, _range(found[:, k, 0]), _range(found[:, k, 1])) for k, n in enumerate(counts)
    ]
    judged = counts.index(min(JUDGED, counts[-1]))
    highest = int(np.argmax([point.truth[0] for point in points[: judged + 1]]))
    last = found[:, judged, 1]
    return (
        points,
        _range(last - found[:, 0, 1]),
        _range(last - found[:, highest, 1]),
        counts[highest],
    )


def _climb(scorer: Scorer, starts: Sequence[Clip], steps: int, draw: random.Random) -> list[Point]:
    """Search at random from the clean clips: keep each change that raises the reward."""
    mixtures: list[Mixture] = [{} for _ in starts]
    best, values = list(starts), scorer(starts)[0]
    never = -np.inf  # an unscored candidate never wins
    points = [_point(0, values, best)]
    for step in range(1, steps + 1):
        tried = [_neighbour(m, draw) for m in mixtures]
        changed = [mixed(start, m, step) for start, m in zip(starts, tried, strict=True)]
        found = scorer(changed)[0]
        higher = np.nan_to_num(found, nan=never) > np.nan_to_num(values, nan=never)
        for i in np.flatnonzero(higher):
            mixtures[i], best[i] = tried[i], changed[i]
            values[i] = found[i]
        if step in COUNTS or step == steps:
            points.append(_point(step, values, best))
    return points


def _neighbour(mixture: Mixture, draw: random.Random) -> Mixture:
    """Return a similar mixture: drop a hack, add a hack, and change all strengths a little."""
    found = dict(mixture)
    if found and draw.random() < 0.3:
        found.pop(draw.choice(list(found)))
    if len(found) < 4 and draw.random() < 0.7:
        found[draw.choice(DETECTABLE)] = draw.uniform(0.05, 1.0)
    return {
        name: min(1.0, max(0.02, strength + draw.gauss(0, 0.1))) for name, strength in found.items()
    }


def _point(n: int, values: Values, clips: Sequence[Clip]) -> Point:
    """Return the point of the random search after `n` steps."""
    return Point(n, _range(values), _range(truth(clips)))


def _range(values: Values) -> Range:
    """Return mean and 95 % interval over prompts; NaN ends where the prompts are too few."""
    found = interval(values)
    return found.mean, found.low, found.high
