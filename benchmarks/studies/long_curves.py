"""Measure long clips before and after training, chunk by chunk and where chunks meet.

    python benchmarks/studies/long_curves.py RUN [RUN ...]

Each held-out caption gives one clip of the base model and one of the trained weights, of the same
noise, which the run has not used. Printed are the means over clips, before and after: of the
verifier and of rewards, with paired 95 % intervals, and the curves of the rewards by chunk.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidrl import plugin
from vidrl.backbones.base import PromptCache
from vidrl.rewards import Samples, Score, load
from vidrl.synthetic import verifier, world
from vidrl.synthetic.caption_fit import CaptionFit
from vidrl.training import evaluate
from vidrl.training.clips import generate
from vidrl.training.model_source import resolve
from vidrl.training.policy import load_adapter
from vidrl.training.rollout import draws


def clips(model: Any, policy: Any, prompts: list[str], steps: int) -> Samples:
    """Return one clip for each prompt."""
    noise = draws(0, [("curves", i) for i in range(len(prompts))])
    return generate(policy, prompts, noise, steps, encode=PromptCache(model))


def scores(samples: Samples, borders: list[int]) -> dict[str, Score]:
    """Return the scores of the clips."""
    seam = load("segment_seam", borders=borders)
    rewards = {"segment_seam": seam, "drift": load("drift"), "caption_fit": CaptionFit()}
    return {name: reward(samples) for name, reward in rewards.items()}


def measured(samples: Samples, found: dict[str, Score]) -> evaluate.Measures:
    """Return the numbers of each clip."""
    verdict = verifier.verify(samples.video, list(samples.prompts), samples.fps)
    words = {name: getattr(verdict, name) for name in ("all", "shape", "colour", "identity")}
    values = {name: score.value for name, score in found.items()}
    return {name: np.asarray(value.double()) for name, value in {**words, **values}.items()}


def by_chunk(score: Score, edges: list[int]) -> str:
    """Return the mean of a curve over the clips, chunk by chunk."""
    assert score.frames is not None
    pairs = zip(edges, edges[1:], strict=False)
    return ", ".join(f"{float(score.frames[:, a:b].nanmean()):+.3f}" for a, b in pairs)


def table(run: str, n: int) -> str:
    """Return the lines of a run."""
    source = resolve(run=run)
    model = plugin.load("backbones", source.backbone, **source.options)
    prompts = [scene.caption for scene in world.scenes("held_out")][-n:]
    edges = [0, *model.borders]
    before = clips(model, model, prompts, source.steps or 8)
    policy = load_adapter(model, str(source.lora), False)
    after = clips(model, policy, prompts, source.steps or 8)
    first, last = scores(before, edges[1:]), scores(after, edges[1:])
    lines = []
    for name, row in evaluate.compare(measured(before, first), measured(after, last)).items():
        ends = "none" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        cells = (name, f"{row['before']:.3f}", f"{row['after']:.3f}")
        lines.append(
            f"| {Path(run).name} | {' | '.join(cells)} | {row['difference']:+.3f} {ends} |"
        )
    edges = [*edges, before.video.shape[1]]
    lines += [
        f"| {Path(run).name} | {name} by chunk | {by_chunk(first[name], edges)} | "
        f"{by_chunk(last[name], edges)} | |"
        for name in first
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-n", type=int, default=32, help="how many held-out captions, the last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | measure | before | after | difference |\n|---|---|---|---|---|")
    for run in args.runs:
        print(table(run, args.n), flush=True)


if __name__ == "__main__":
    main()
