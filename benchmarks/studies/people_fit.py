"""Measure how well `vidrl fit` recovers the taste of simulated raters, by the number of labels.

    python benchmarks/studies/people_fit.py features
    python benchmarks/studies/people_fit.py agreement
    python benchmarks/studies/people_fit.py page --commit COMMIT
    python benchmarks/studies/people_fit.py seconds

`features` renders clips of `vidrl.synthetic.world` with faults, eight for each prompt, and keeps
their features and true utilities, one file a prompt. `agreement` lets a simulated rater answer
pairs of the training prompts, which one of three rules chooses, fits a linear head, and measures
the accuracy on pairs of other prompts. Both continue where they were stopped. `seconds` measures
how long one whole fit with its cross-validation takes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from vidrl.feedback import bradley_terry, fit_features, selection, simulated_raters
from vidrl.feedback.selection import Past, Selection, Shares
from vidrl.feedback.simulated_raters import UNITS, Rater
from vidrl.rewards import Samples
from vidrl.rewards._fitted.folder import build

PROMPTS, PER_PROMPT = 92, 8
TRAIN = 72  # of the prompts; the others are held out
MEASURES = ("smooth", "colour", "steady")  # of the true utility
SIZES = (20, 50, 100, 200, 500, 1000, 2000)
BATCH = 10  # answers between two fits of the active rule
RATERS = {
    "careful": Rater("careful"),
    "noisy": Rater("noisy", temperature=2.0, side=0.3, lapse=0.1),
}
TASTES = {
    "all three": {"smooth": 1.0, "colour": 1.0, "steady": 1.0},
    "smooth motion": {"smooth": 1.7, "colour": 0.0, "steady": 0.0},
}
CHANCES = 400  # pairs that the rule "features" compares at each batch
RULES = ("random", "label", "features")
SHARES = Shares(random=Shares().random, repeats=0.0, gold=0.0)  # of the rule "label"


def features(out: Path) -> None:
    """Keep features and measures of the true utility of each prompt's clips."""
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    specs, _ = fit_features.chosen(fit_features.GROUPS)
    rewards = {one.name: build(one) for one in specs}
    missing = [n for n in range(PROMPTS) if not (folder / f"{n:03d}.safetensors").exists()]
    if not missing:
        return
    pool = simulated_raters.pool(PROMPTS, PER_PROMPT, seed=0)
    for n in missing:
        names = [name for name in pool.names if name.startswith(f"p{n:03d}_")]
        video = torch.stack([pool.video[pool.names.index(name)] for name in names])
        samples = Samples(video, [pool.prompts[name] for name in names], 8.0)
        with torch.no_grad():
            found = [reward(samples).value.double().numpy() for reward in rewards.values()]
        measured = [simulated_raters.measures(clip) for clip in video]
        true = [[float(one[name].mean()) / UNITS[name] for name in MEASURES] for one in measured]
        kept = {"features": np.stack(found, -1), "true": np.array(true)}
        save_file(kept, folder / f"{n:03d}.safetensors")
        print(f"features {n + 1}/{PROMPTS}", flush=True)


@dataclass(frozen=True)
class World:
    """Standardised features (C, K), true utilities (C,), and pairs of training and test prompts."""

    z: np.ndarray
    utility: np.ndarray
    train: np.ndarray
    test: np.ndarray

    def gap(self, pairs: np.ndarray) -> np.ndarray:
        """Return the true gap of each pair."""
        return self.utility[pairs[:, 0]] - self.utility[pairs[:, 1]]

    def design(self, pairs: np.ndarray) -> np.ndarray:
        """Return the differences of features, with a last column for the side."""
        gap = self.z[pairs[:, 0]] - self.z[pairs[:, 1]]
        return np.concatenate([gap, np.ones((len(pairs), 1))], 1)


def world(out: Path, taste: str, seed: int) -> World:
    """Return the clips of the study under a taste; the seed splits the prompts."""
    files = sorted((out / "features").glob("*.safetensors"))
    kept = [load_file(file) for file in files]
    z = np.concatenate([one["features"] for one in kept])
    weights = np.array([TASTES[taste][name] for name in MEASURES])
    order = np.random.default_rng(seed).permutation(len(kept))
    train, test = (_pairs(order[part]) for part in (slice(0, TRAIN), slice(TRAIN, None)))
    z = np.nan_to_num((z - np.nanmean(z, 0)) / np.maximum(np.nanstd(z, 0), 1e-8))
    return World(z, np.concatenate([one["true"] for one in kept]) @ weights, train, test)


def _pairs(prompts: np.ndarray) -> np.ndarray:
    """Return all pairs of clips of one prompt, (N, 2)."""
    return np.array(
        [
            (PER_PROMPT * p + a, PER_PROMPT * p + b)
            for p in prompts.tolist()
            for a, b in combinations(range(PER_PROMPT), 2)
        ]
    )


def agreement(out: Path, seeds: int) -> None:
    """Append the accuracies of each taste, rater, rule and seed to agreement.jsonl."""
    file = out / "agreement.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["taste"], row["rater"], row["rule"], row["seed"]) for row in rows}
    for taste in TASTES:
        for name in RATERS:
            for seed in range(seeds):
                for rule in RULES:
                    if (taste, name, rule, seed) not in done:
                        _append(file, list(_grown(out, taste, name, rule, seed)))


def _append(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    print(rows[-1], flush=True)


def _grown(out: Path, taste: str, name: str, rule: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield the accuracy on held-out pairs as the labels of one rater grow."""
    here, rater = world(out, taste, seed), RATERS[name]
    draw = np.random.default_rng([seed, 1])
    order = draw.permutation(len(here.train))
    gaps = here.gap(here.train)
    given = simulated_raters.answers(rater, gaps, seed)
    asked = order[: SIZES[0]].tolist()
    truth = here.gap(here.test)
    best = simulated_raters.ceiling(rater, truth)
    picker = _Picker(here, given, asked, seed)
    for size in SIZES:
        size = min(size, len(here.train))
        while len(asked) < size:
            more = min(BATCH, size - len(asked))
            if rule == "random":
                asked = order[: len(asked) + more].tolist()
            elif rule == "label":
                asked += [picker.pick() for _ in range(more)]
            else:
                asked += _informative(here, given, asked, more, draw)
        found = _fit(here, given, asked)
        predicted = here.design(here.test)[:, :-1] @ found.weights[:-1]
        yield {
            "taste": taste,
            "rater": name,
            "rule": rule,
            "seed": seed,
            "labels": size,
            "accuracy": _accuracy(rater, truth, predicted),
            "ceiling": best,
            "agreement": float((np.sign(predicted) == np.sign(truth)).mean()),
        }


class _Picker:
    """Chooses pairs by the rule of `vidrl label`, which knows the answers but no features."""

    def __init__(self, here: World, given: np.ndarray, asked: list[int], seed: int) -> None:
        self.pairs, self.given = [(a, b) for a, b in here.train.tolist()], given.tolist()
        self.at = {pair: n for n, pair in enumerate(self.pairs)}
        groups: dict[int, list[selection.Item]] = {}
        for pair in self.pairs:
            groups.setdefault(pair[0] // PER_PROMPT, []).append(pair)
        every = tuple(map(tuple, groups.values()))
        self.rule, self.draw = Selection(every, SHARES, seed=str(seed)), random.Random(seed)
        self.past = [self._answered(n, "random") for n in asked]

    def _answered(self, n: int, reason: str) -> Past:
        return Past("rater", self.pairs[n], reason, self.given[n])

    def pick(self) -> int:
        """Return the number of the next pair, which is then answered."""
        found = self.rule.pick("rater", self.past, (), self.draw)
        assert found is not None
        self.past.append(self._answered(self.at[found.item[0], found.item[1]], found.reason))
        return self.at[found.item[0], found.item[1]]


def _fit(here: World, given: np.ndarray, asked: list[int]) -> bradley_terry.Fit:
    return bradley_terry.fit(here.design(here.train[asked]), given[asked], prior_std=0.4)


def _informative(
    here: World, given: np.ndarray, asked: list[int], more: int, draw: np.random.Generator
) -> list[int]:
    """Return the pairs of a random subset that together are expected to teach most.

    Greedy D-optimal design: after each pair the covariance shrinks as if the pair was answered.
    """
    known = _fit(here, given, asked)
    rest = np.setdiff1d(np.arange(len(here.train)), asked)
    rest = draw.choice(rest, min(CHANCES, len(rest)), replace=False)
    design = here.design(here.train[rest])
    covariance = known.covariance[:-1, :-1].copy()
    sharp = bradley_terry.information(design @ known.weights, known.tie)
    chosen: list[int] = []
    for _ in range(more):
        spread = np.einsum("np,pq,nq->n", design, covariance, design)
        gain = sharp * spread
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        turned = covariance @ design[best]
        covariance -= np.outer(turned, turned) * sharp[best] / (1 + gain_of(sharp, spread, best))
    return rest[chosen].tolist()


def gain_of(sharp: np.ndarray, spread: np.ndarray, best: int) -> float:
    """Return I(d) Var d of one pair."""
    return float(sharp[best] * spread[best])


def _accuracy(rater: Rater, truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the expected accuracy on the rater's decided answers, in either order of the clips."""
    chances = simulated_raters.chances
    first, _, second = (chances(rater, truth) + chances(rater, -truth)[:, ::-1]).T
    right = np.where(predicted > 0, first, second)
    return float(right.sum() / (first + second).sum())


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and 95 % interval over seeds of each taste, rater, rule and size."""
    from vidrl.inference.means import interval

    found = []
    keys = sorted({(r["taste"], r["rater"], r["rule"], r["labels"]) for r in rows})
    for taste, rater, rule, labels in keys:
        these = [
            r
            for r in rows
            if (r["taste"], r["rater"], r["rule"], r["labels"]) == (taste, rater, rule, labels)
        ]
        mean = interval([r["accuracy"] for r in these], limits=(0, 1))
        top = float(np.mean([r["ceiling"] for r in these]))
        found.append(
            {
                "taste": taste,
                "rater": rater,
                "rule": rule,
                "labels": labels,
                "mean": mean.mean,
                "low": mean.low,
                "high": mean.high,
                "ceiling": top,
                "seeds": len(these),
            }
        )
    return found


def differences(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int, str], Any]:
    """Return the accuracy of a rule less that of random pairs, with its interval over seeds."""
    from vidrl.inference.means import interval

    by_key = {
        (r["taste"], r["rater"], r["labels"], r["seed"], r["rule"]): r["accuracy"] for r in rows
    }
    found: dict[tuple[str, str, int, str], list[float]] = {}
    for (taste, rater, labels, seed, rule), value in by_key.items():
        if rule != "random":
            gain = value - by_key[(taste, rater, labels, seed, "random")]
            found.setdefault((taste, rater, labels, rule), []).append(gain)
    return {key: interval(gains, limits=(-1, 1)) for key, gains in found.items()}


def saved(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return how many labels each chosen rule needs for the accuracy of N random labels."""
    found = []
    for taste in TASTES:
        for rater in RATERS:
            curves = {
                rule: [
                    (r["labels"], r["mean"])
                    for r in rows
                    if (r["taste"], r["rater"], r["rule"]) == (taste, rater, rule)
                ]
                for rule in RULES
            }
            for labels, level in curves["random"][2:5]:
                needed = {rule: _reached(curves[rule], level) for rule in RULES[1:]}
                found.append({"taste": taste, "rater": rater, "random": labels, **needed})
    return found


def _reached(curve: list[tuple[int, float]], level: float) -> float | None:
    """Return the number of labels at which a curve reaches a level, between sizes by logarithm."""
    before: tuple[int, float] | None = None
    for labels, value in curve:
        if value >= level:
            if before is None or value == before[1]:
                return float(labels)
            share = (level - before[1]) / (value - before[1])
            return math.exp((1 - share) * math.log(before[0]) + share * math.log(labels))
        before = (labels, value)
    return None


HEAD = """\
# A reward from simulated raters: agreement by the number of labels

A simulated rater of known utility compares clips of `vidrl.synthetic` with faults (17 frames of
32 x 32 pixels, 8 frames a second). The utility is read from the pixels of the coloured object: how
smoothly the object moves, how strong its colour is, and whether its size jumps. A linear head is
fitted to 19 features, none of which is the utility. There are {prompts} prompts with {each} clips
each. The pairs of {train} prompts, drawn by the seed, are labelled; all pairs of the other {test}
prompts are the test. All rules get the same answers, and begin with the same {first} random pairs.
The rules differ in which pair is asked next:

- "random" draws pairs.
- "label" is the rule of `vidrl label` (`vidrl.feedback.selection.Selection`) for one rater:
  {random:.0f} % of the pairs are random, and of the others the pair of largest expected information
  about the strengths of its two clips is asked. This rule knows no features. Repeated and gold
  pairs, which `vidrl label` also asks, are left out.
- "features" is no part of `vidrl label`. The pairs of largest expected information about the linear
  head on the features are asked: a greedy D-optimal design, {batch} pairs between two fits, out of
  {chances} random pairs.

Made by `python benchmarks/studies/people_fit.py page --commit {commit}`, after the stages
`features` and `agreement`; {seeds} seeds, 0 to {last}. Seeds 0 to 7 were looked at, with the rules
"random" and "features", before the number of seeds was fixed at 12.

Accuracy: the expected share of the rater's decided answers on held-out pairs that the fit predicts.
Ceiling: the accuracy of one who knows the utility. Brackets hold 95 % intervals over seeds; "gain"
is the rule less random, in points, paired by seed.

Raters: {raters}.

![accuracy by the number of labels](people_fit.svg)
"""
TAIL = """\

## How many labels a rule saves

The number of labels at which the mean accuracy of a rule reaches that of N random labels,
interpolated between the sizes above on a logarithmic axis.

{saved}

## What the numbers say

{words}
"""


def page(out: Path, folder: Path, commit: str) -> None:
    """Write people_fit.md and people_fit.svg into a folder."""
    rows = [json.loads(line) for line in (out / "agreement.jsonl").read_text().splitlines()]
    found, gains = table(rows), differences(rows)
    named = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in asdict(one).items() if k != "name")
        for name, one in RATERS.items()
    )
    blocks = [
        HEAD.format(
            prompts=PROMPTS,
            each=PER_PROMPT,
            train=TRAIN,
            test=PROMPTS - TRAIN,
            batch=BATCH,
            chances=CHANCES,
            first=SIZES[0],
            random=100 * SHARES.random,
            last=max(row["seed"] for row in rows),
            seeds=len({row["seed"] for row in rows}),
            commit=commit,
            raters=named,
        )
    ]
    blocks += [_section(found, gains, taste, rater) for taste in TASTES for rater in RATERS]
    fewer = saved(found)
    head = "| taste | rater | random | label | features |\n|---|---|---|---|---|\n"
    table_ = head + "\n".join(
        f"| {r['taste']} | {r['rater']} | {r['random']} | "
        f"{' | '.join(_needed(r[rule]) for rule in RULES[1:])} |"
        for r in fewer
    )
    blocks.append(TAIL.format(saved=table_, words=_words(found, gains, fewer)))
    (folder / "people_fit.md").write_text("\n".join(blocks), encoding="utf-8")
    (folder / "people_fit.svg").write_text(picture(found), encoding="utf-8")


def _needed(labels: float | None) -> str:
    return f"more than {SIZES[-1]}" if labels is None else str(round(labels))


def _section(found: list[dict[str, Any]], gains: Any, taste: str, rater: str) -> str:
    lines = [
        f"\n## Taste: {taste}; {rater} rater\n",
        "| labels | random | label | gain | features | gain | ceiling |",
        "|---|---|---|---|---|---|---|",
    ]
    for labels in sorted({row["labels"] for row in found}):
        cells = {
            row["rule"]: row
            for row in found
            if (row["taste"], row["rater"], row["labels"]) == (taste, rater, labels)
        }
        both = [
            f"{_cell(cells[rule])} | {_gain(gains[taste, rater, labels, rule], labels)}"
            for rule in RULES[1:]
        ]
        lines.append(
            f"| {labels} | {_cell(cells['random'])} | {' | '.join(both)} | "
            f"{100 * cells['random']['ceiling']:.1f} % |"
        )
    return "\n".join(lines)


def _gain(gain: Any, labels: int) -> str:
    if labels == SIZES[0]:
        return "the same labels"
    return f"{100 * gain.mean:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def _words(found: list[dict[str, Any]], gains: Any, fewer: list[dict[str, Any]]) -> str:
    """Return what the tables say, computed from them."""
    most = max(row["labels"] for row in found)
    reached = [
        100 * row["mean"] / row["ceiling"]
        for row in found
        if row["rule"] == "random" and row["labels"] == most
    ]
    lines = [
        f"- With all labels the fit reaches {min(reached):.0f} to {max(reached):.0f} % of the "
        "ceiling's accuracy. How much of the",
        "  rest is due to the features, to the linear head or to noise in the labels was not "
        "measured.",
    ]
    for rule in RULES[1:]:
        lines += _words_of_rule(rule, gains, fewer)
    return "\n".join(lines)


def _words_of_rule(rule: str, gains: Any, fewer: list[dict[str, Any]]) -> list[str]:
    """Return what the tables say of one rule beside random pairs."""
    grown = {k: gain for k, gain in gains.items() if SIZES[0] < k[2] < SIZES[-1] and k[3] == rule}
    sure = sum(gain.low > 0 for gain in grown.values())
    worse = sum(gain.high < 0 for gain in grown.values())
    halved = sum(r[rule] is not None and 2 * r[rule] <= r["random"] for r in fewer)
    ranges = []
    for labels in sorted({row["random"] for row in fewer}):
        needed = [row[rule] or math.inf for row in fewer if row["random"] == labels]
        most = f"more than {SIZES[-1]}" if math.isinf(max(needed)) else f"{max(needed):.0f}"
        ranges.append(f"{min(needed):.0f} to {most} instead of {labels}")
    met = "met" if halved == len(fewer) else "not met"
    return [
        f'- "{rule}": without the first row, whose labels all rules share, and the last one, this',
        f"  rule is better than random in {sure} of {len(grown)} cells by its whole interval, and",
        f"  worse in {worse}. It needs {', '.join(ranges)} labels.",
        f"  The goal of at most half the labels holds in {halved} of {len(fewer)} comparisons:",
        f"  the goal is {met}.",
    ]


def _cell(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


INK = {"random": "#777f8a", "label": "#6a4fb3", "features": "#0b7a75"}
BELOW = {"random": 16, "label": 28, "features": -7}  # where the name of a curve stands
WIDE, HIGH = 300, 180  # of a panel of the picture
GAP = 70  # between two panels


def picture(found: list[dict[str, Any]]) -> str:
    """Return the accuracies of all rules as SVG, a panel for each taste and rater."""
    cases = [(taste, rater) for taste in TASTES for rater in RATERS]
    panels = [
        f'<g transform="translate({60 + n % 2 * (WIDE + GAP)},{40 + n // 2 * (HIGH + GAP)})">'
        f"{_panel(found, *case)}</g>"
        for n, case in enumerate(cases)
    ]
    width, height = 2 * (WIDE + GAP) + 30, 2 * (HIGH + GAP) + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif" font-size="11" '
        f'fill="#1b1c1e"><rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>'
        f"{''.join(panels)}</svg>\n"
    )


def _panel(found: list[dict[str, Any]], taste: str, rater: str) -> str:
    """Return one panel: a curve for each rule with their bands, and the ceiling as a line."""
    rows = [row for row in found if (row["taste"], row["rater"]) == (taste, rater)]
    low, high = min(r["low"] for r in rows) - 0.005, max(r["ceiling"] for r in rows) + 0.005

    def at(labels: float, value: float) -> str:
        x = WIDE * math.log(labels / SIZES[0]) / math.log(SIZES[-1] / SIZES[0])
        return f"{x:.1f},{HIGH * (high - value) / (high - low):.1f}"

    top = rows[0]["ceiling"]
    ends, height = f"M{at(SIZES[0], top)}L{at(SIZES[-1], top)}", at(SIZES[0], top).split(",")[1]
    drawn = [
        _text(0, -12, f"{taste}, {rater} rater", 'font-weight="600"'),
        f'<path d="{ends}" stroke="#c2571a" stroke-dasharray="5 3"/>',
        _text(4, float(height) + 13, "ceiling", 'fill="#c2571a"'),
    ]
    for rule, ink in INK.items():
        curve = sorted((r for r in rows if r["rule"] == rule), key=lambda r: r["labels"])
        band = [at(r["labels"], r["high"]) for r in curve]
        band += [at(r["labels"], r["low"]) for r in reversed(curve)]
        line = "L".join(at(r["labels"], r["mean"]) for r in curve)
        drawn.append(f'<polygon points="{" ".join(band)}" fill="{ink}" opacity="0.13"/>')
        drawn.append(f'<path d="M{line}" fill="none" stroke="{ink}" stroke-width="2"/>')
        x, y = map(float, at(curve[-1]["labels"], curve[-1]["mean"]).split(","))
        drawn.append(_text(x - 44, y + BELOW[rule], rule, f'fill="{ink}"'))
    soft, middle = 'fill="#62656b"', 'fill="#62656b" text-anchor="middle"'
    for size in SIZES:
        drawn.append(_text(float(at(size, low).split(",")[0]), HIGH + 15, str(size), middle))
    for value in (low, high):
        y = float(at(SIZES[0], value).split(",")[1]) + 4
        drawn.append(_text(-6, y, f"{100 * value:.0f} %", f'{soft} text-anchor="end"'))
    return "".join([*drawn, _text(WIDE / 2, HIGH + 30, "labels", middle)])


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'


def seconds(prompts: int = 40, choices: int = 300) -> None:
    """Print how long whole fits of simulated choices take, once the curves of clips are there."""
    from vidrl.feedback.fit import fit
    from vidrl.feedback.judgments import Judgments

    pool = simulated_raters.pool(prompts, PER_PROMPT, seed=0)
    videos = dict(zip(pool.names, pool.video, strict=True))
    curves = fit_features.of_video(videos, prompts=pool.prompts)
    utility = simulated_raters.Utility()
    samples = Samples(pool.video, [""] * len(pool.video), 8.0)
    curve = utility(samples).frames
    assert curve is not None  # Utility has a term for each frame
    true = dict(zip(pool.names, curve, strict=True))
    drawn = np.random.default_rng(0).permutation(len(pool.pairs()))[:choices]
    pairs = [pool.pairs()[n] for n in drawn]
    given = Judgments(choices=simulated_raters.choices(Rater(), true, pool.prompts, pairs))
    for form in ("linear", "auto"):
        begin = time.perf_counter()
        found = fit(given, curves, form=form)
        took = time.perf_counter() - begin
        print(
            f"form {form}: {took:.1f} s for {choices} choices on {len(videos)} clips of "
            f"{pool.video.shape[1]} frames, {len(found.features)} features, one thread"
        )


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("features", "agreement", "page", "seconds"))
    parser.add_argument("--out", type=Path, default=Path("runs/people_fit"))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/rewards"))
    parser.add_argument("--commit", default="", help="what the page names as its commit")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.stage == "features":
        features(args.out)
    elif args.stage == "agreement":
        agreement(args.out, args.seeds)
    elif args.stage == "seconds":
        seconds()
    elif not args.commit:
        parser.error("expected --commit, the commit of the code that made the numbers, got none")
    else:
        page(args.out, args.results, args.commit)


if __name__ == "__main__":
    main()
