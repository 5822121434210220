"""Measure what the judge and the rewards read of moving scenes, with and without faults.

    python benchmarks/studies/moving_scenes.py

Each held-out caption of `vidrl.synthetic.scenes` in which a thing moves gives one orbit as the
caption says, and one of the same scene with each fault. No model is used: the truth is known.
The page benchmarks/results/rewards/moving_scenes.md is written from the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vidrl.rewards import Samples, load
from vidrl.synthetic import paths, scene_fit, scene_verifier, scenes, splat

PAGE = Path(__file__).resolve().parents[1] / "results" / "rewards" / "moving_scenes.md"
VIEWS, ARCS = 24, 8
SIZE = 32  # pixels
CLIPS: dict[str, Callable[[Tensor, torch.Generator], None] | None] = {
    "as the caption says": None,
    "nothing moves": scenes.stall,
    "the thing moves the other way": scenes.mirror,
    "the other thing moves": scenes.hand_over,
    "one thing jumps from arc to arc": scenes.shift,
}
HEADS = (
    "judge",
    "SceneFit",
    "SceneFit, part `steady`",
    f"`segment_seam`, every = {VIEWS // ARCS}",
    "`motion_consistency`",
)


def orbits(fault: Callable[[Tensor, torch.Generator], None] | None, n: int) -> Samples:
    """Return the orbits of n held-out captions, each with the fault."""
    held, draw = scenes.scenes("held_out", n, moving=True), torch.Generator().manual_seed(0)
    found = [scenes.filmed(scene, draw, paths.times(ARCS)) for scene in held]
    for tokens in found if fault else ():
        fault(tokens, draw)  # type: ignore[misc]
    blobs = splat.blobs(torch.stack(found).repeat_interleave(VIEWS // ARCS, 1))
    views = splat.render(blobs, splat.cameras(VIEWS), SIZE)
    return Samples(views, [scene.caption for scene in held], 8.0)


def measured(samples: Samples) -> list[float]:
    """Return the mean of each measure, in the order of HEADS."""
    pairs = zip(samples.video, samples.prompts, strict=True)
    steady = [scene_fit.parts(clip, scenes.parse(text))["steady"].mean() for clip, text in pairs]
    seam = load("segment_seam", every=VIEWS // ARCS)
    values = (
        scene_verifier.verify(samples.video, list(samples.prompts)).all.float(),
        scene_fit.SceneFit()(samples).value,
        torch.stack(steady),
        seam(samples).value,
        load("motion_consistency")(samples).value,
    )
    return [float(value.mean()) for value in values]


def page(n: int) -> str:
    """Return the page of a run on n captions."""
    rows = []
    for name, fault in CLIPS.items():
        judge, *values = measured(orbits(fault, n))
        cells = (name, f"{judge:.2f}", *(f"{value:.3f}" for value in values))
        rows.append(f"| {' | '.join(cells)} |")
    head = f"| scene | {' | '.join(HEADS)} |\n|---|{'---|' * len(HEADS)}"
    table = "\n".join([head, *rows])
    return TEMPLATE.format(n=n, views=VIEWS, size=SIZE, arcs=ARCS, table=table)


TEMPLATE = """# Moving scenes: what the judge and the rewards read

```
python benchmarks/studies/moving_scenes.py
```

{n} held-out captions of `vidrl.synthetic.scenes` in which a thing moves, {views} views of {size} x
{size}, {arcs} arcs. Each row has the same scenes, drawn as the caption says or with a fault. The
judge is `scene_verifier`: the share of orbits in which it reads all of the caption. The other
columns are means over the orbits.

{table}
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=24, help="how many held-out captions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    PAGE.write_text(page(args.n), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
