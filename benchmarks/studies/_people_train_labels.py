"""Simulate the labels of the study people_train: clips, a rater's answers in a store, and fits.

A seed has its own prompts, clips, pairs and answers. Every step leaves files, and a step whose
files are there is not repeated.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidrl import config, plugin
from vidrl.feedback import fit_features, simulated_raters
from vidrl.feedback.fit import fit
from vidrl.feedback.questionnaire import Axis, Questionnaire
from vidrl.feedback.simulated_raters import Rater, Utility
from vidrl.feedback.store import Answer, Shown, Store
from vidrl.rewards import Samples, video
from vidrl.rewards._fitted import folder as fit_folder
from vidrl.training.clips import clips
from vidrl.training.rollout import draws

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "scripts" / "recipes" / "tiny_taste.toml"
# Fast and smooth motion: a taste that the default composite serves in part only.
TASTE = {"smooth": 2.0, "colour": 0.0, "steady": 0.0, "lively": 2.0}
RATER = Rater("simulated", temperature=0.5, side=0.3, lapse=0.1)
QUESTIONS = Questionnaire(axes=(Axis("overall", "Which clip is better overall?"),))
WORDS = {1: "A", 0: "tie", -1: "B"}


@dataclass(frozen=True)
class Size:
    """How many prompts, clips of each prompt, and labels a seed has."""

    prompts: int = 40
    each: int = 6
    labels: int = 300


def pool(out: Path, seed: int, size: Size) -> dict[str, str]:
    """Sample a seed's clips from the base model; return the prompt of each file."""
    folder = (out / "clips").resolve()  # a store takes relative paths for those from its folder
    table = folder / "prompts.csv"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        recipe = config.load(RECIPE, files=False)
        backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
        texts = sorted(set(config.read_prompts(recipe.data.prompts)))
        chosen = random.Random(seed).sample(texts, size.prompts)
        asked = [text for text in chosen for _ in range(size.each)]
        noise = draws(seed, [("labelled", i) for i in range(len(asked))])
        made = clips(backbone, asked, noise, recipe.algorithm.options["steps"], decode_batch=16)
        rows = [("path", "prompt")]
        for samples in made:
            for clip, text in zip(samples.frames, samples.prompts, strict=True):
                name = f"{len(rows) - 1:04d}.mkv"
                video.write(folder / name, clip, samples.fps, lossless=True)
                rows.append((name, str(text)))
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    with table.open(newline="") as stream:
        return {str(folder / row["path"]): row["prompt"] for row in csv.DictReader(stream)}


def pairs(prompts: dict[str, str], labels: int, seed: int) -> list[tuple[str, str]]:
    """Return random pairs of clips of one prompt, in random order, each pair once.

    >>> found = pairs({"a": "x", "b": "x", "c": "y", "d": "y"}, 2, 0)
    >>> sorted(map(sorted, found))
    [['a', 'b'], ['c', 'd']]
    """
    every = [pair for pair in combinations(prompts, 2) if prompts[pair[0]] == prompts[pair[1]]]
    draw = random.Random(seed)
    return [(a, b) if draw.random() < 0.5 else (b, a) for a, b in draw.sample(every, labels)]


def utilities(prompts: dict[str, str]) -> dict[str, float]:
    """Return the true utility of each file."""
    true = Utility(**TASTE)
    found = {}
    for name, text in prompts.items():
        frames, fps = video.read(name)
        found[name] = float(true(Samples(frames[None].float() / 255, [text], fps)).value)
    return found


def label(out: Path, seed: int, size: Size, permuted: bool = False) -> Path:
    """Write a store with a rater's answers; `permuted` deals the answers to other pairs."""
    store = out / ("permuted.db" if permuted else "taste.db")
    if store.exists():
        return store
    prompts = pool(out, seed, size)
    asked, value = pairs(prompts, size.labels, seed), utilities(prompts)
    given = simulated_raters.answers(RATER, [value[a] - value[b] for a, b in asked], seed)
    if permuted:
        given = np.random.default_rng([seed, 1]).permutation(given)
    part = store.with_suffix(".part.db")
    part.unlink(missing_ok=True)
    opened = Store(part, QUESTIONS)
    for (a, b), answer in zip(asked, given.tolist(), strict=True):
        opened.add(
            Answer(RATER.name, (Shown(a), Shown(b)), {"overall": WORDS[answer]}, (), prompts[a])
        )
    opened.close()
    return part.replace(store)


def fitted(out: Path, seed: int, size: Size, permuted: bool = False, labels: int = 0) -> Path:
    """Fit a reward to the first `labels` answers of a store (0: to all); return its folder."""
    folder = out / f"{'permuted' if permuted else 'taste'}-{labels or size.labels}"
    if not (folder / "fit.json").exists():
        opened = Store(label(out, seed, size, permuted))
        judged = opened.judgments()
        opened.close()
        del judged.choices[labels or size.labels :]
        named = {clip: one.prompt for one in judged.choices for clip in (one.first, one.second)}
        curves = fit_features.compute(judged.clips, prompts=named, cache=out / "cache")
        torch.manual_seed(seed)
        fit_folder.write(fit(judged, curves, "overall"), folder)
    return folder


def agreements(out: Path) -> Iterator[dict[str, Any]]:
    """Yield the cross-validated agreement of each fit of a study."""
    for file in sorted(out.glob("seed*/*-*/fit.json")):
        kind, labels = file.parent.name.split("-")
        facts = json.loads(file.read_text(encoding="utf-8"))["facts"]
        name = f"{labels} labels{' on other pairs' if kind == 'permuted' else ''}"
        seed = int(file.parent.parent.name.removeprefix("seed"))
        own = facts["accuracy"]
        yield {"fit": name, "seed": seed, "agreement": own["value"], "low": own["low"] or 0.0}


def spreads(out: Path, size: Size) -> Iterator[tuple[float, float]]:
    """Yield the spread of the true utility within prompts, and the best less the mean, by seed."""
    for home in sorted(out.glob("seed*")):
        seed = int(home.name.removeprefix("seed"))
        values = np.array(list(utilities(pool(home, seed, size)).values())).reshape(-1, size.each)
        best = values.max(1) - values.mean(1)
        yield float(values.std(1, ddof=1).mean()), float(best.mean())
