"""Measure long clips before and after training, chunk by chunk and where chunks meet.

    python benchmarks/studies/long_curves.py RUN [RUN ...]

Each held-out caption gives one clip of the base model and one of the trained weights, of the same
noise. Captions and noise are others than those of the run's own evaluations, if these take no more
than the first held-out captions. Printed are the means over clips, before and after: of the
verifier and of rewards, with paired 95 % intervals; the seam at each border between chunks; and
the means of drift and of the fit to the caption in each chunk. The row "truth" has the same of
clips of `vidrl.synthetic.world` after the model's autoencoder: no model can be above it.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidrl import plugin
from vidrl.backbones.base import PromptCache
from vidrl.credit import returns
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
    return ", ".join(f"{float(score.frames[:, a:b].nanmean()):+.3f}" for a, b in pairwise(edges))


def by_border(score: Score, edges: list[int]) -> str:
    """Return the mean seam over the clips at each border."""
    curve = returns.causal(score, load("segment_seam", borders=edges[1:-1])).frames
    assert curve is not None
    share = (len(edges) - 2) / edges[-1]  # the curve has F times the mean over the borders
    seams = [float(curve[:, a:b].sum(1).mean()) * share for a, b in pairwise(edges[1:])]
    return ", ".join(f"{seam:+.3f}" for seam in seams)


def curves(found: dict[str, Score], edges: list[int]) -> dict[str, str]:
    """Return the curves of the clips as text."""
    rows = {"segment_seam at each border": by_border(found["segment_seam"], edges)}
    names = [name for name in found if name != "segment_seam"]
    return rows | {f"{name} by chunk": by_chunk(found[name], edges) for name in names}


@torch.no_grad()
def truth(model: Any, like: Samples) -> Samples:
    """Return rendered clips of the same captions after the model's autoencoder."""
    count, size = like.video.shape[1], like.video.shape[-1]
    decoded = []
    for i, caption in enumerate(like.prompts):
        clip = world.render(world.parse(caption), size, count, like.fps, i).video
        decoded.append(model.decode(model.encode_video(clip[None])).clamp(0, 1))
    return Samples(torch.cat(decoded), like.prompts, like.fps)


def table(run: str, n: int) -> str:
    """Return the lines of a run."""
    source = resolve(run=run)
    model = plugin.load("backbones", source.backbone, **source.options)
    prompts = [scene.caption for scene in world.scenes("held_out")][-n:]
    before = clips(model, model, prompts, source.steps or 8)
    true = truth(model, before)
    policy = load_adapter(model, str(source.lora), False)
    after = clips(model, policy, prompts, source.steps or 8)
    edges = [0, *model.borders, before.video.shape[1]]
    found = [scores(samples, model.borders) for samples in (before, after, true)]
    first, last, best = (measured(*pair) for pair in zip((before, after, true), found, strict=True))
    lines, name_of_run = [], Path(run).name
    for name, row in evaluate.compare(first, last).items():
        ends = "none" if row["low"] is None else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        cells = (name, f"{row['before']:.3f}", f"{row['after']:.3f}")
        lines.append(
            f"| {name_of_run} | {' | '.join(cells)} | {row['difference']:+.3f} {ends} | "
            f"{best[name].mean():.3f} |"
        )
    shown = [curves(each, edges) for each in found]
    lines += [
        f"| {name_of_run} | {name} | {shown[0][name]} | {shown[1][name]} | | {shown[2][name]} |"
        for name in shown[0]
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table of each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-n", type=int, default=32, help="how many held-out captions, the last")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | measure | before | after | difference | truth |\n|---|---|---|---|---|---|")
    for run in args.runs:
        print(table(run, args.n), flush=True)


if __name__ == "__main__":
    main()
