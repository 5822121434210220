"""Draw a run's held-out clips before and after training as film strips.

    python scripts/before_after.py RUN OUT.png

The picture shows those of the kept clips whose reward rose most: every other frame (`--every`),
enlarged to 128 pixels a side, with the strip before training above the strip after. The
images of a run that trains on images are put side by side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from vidrl.rewards import video

SIDE, GAP = 128, 6


def strip(path: Path, every: int) -> np.ndarray:
    """Return one of `every` frames of a clip side by side, (height, width, 3) BGR."""
    frames = video.read(path)[0][::every].permute(0, 2, 3, 1).numpy()[..., ::-1]
    tall = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) for frame in frames]
    white = np.full((tall[0].shape[0], 2, 3), 255, np.uint8)
    return np.concatenate([part for frame in tall for part in (frame, white)], 1)


def caption(text: str, width: int) -> np.ndarray:
    """Return a line of text on white, as a picture."""
    line = np.full((22, width, 3), 255, np.uint8)
    cv2.putText(line, text, (2, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return line


def images(run: Path, clips: list[dict]) -> np.ndarray:
    """Return images before training above images after, each with its reward, in columns."""
    columns = []
    for clip in clips:
        parts = []
        for kind in ("before", "after"):
            picture = strip(run / "clips" / kind / clip["file"], 1)[:, :SIDE]
            parts += [caption(f"{kind} {clip[kind]['value']:.2f}", SIDE), picture]
        words = clip["prompt"].split()
        head = np.concatenate([caption(" ".join(words[:3]), SIDE), *parts])
        columns += [head, np.full((len(head), GAP, 3), 255, np.uint8)]
    return np.concatenate(columns, 1)


def main() -> None:
    """Read the run's timelines, choose the clips and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=3, help="number of clips")
    parser.add_argument("--every", type=int, default=2, help="show one of so many frames")
    args = parser.parse_args()
    clips = json.loads((args.run / "timelines.json").read_text())
    clips.sort(key=lambda clip: clip["before"]["value"] - clip["after"]["value"])
    if all(clip["file"].endswith(".png") for clip in clips):
        cv2.imwrite(str(args.out), images(args.run, clips[: args.n]))
        return
    rows = []
    for clip in clips[: args.n]:
        strips = {
            kind: strip(args.run / "clips" / kind / clip["file"], args.every)
            for kind in ("before", "after")
        }
        width = strips["before"].shape[1]
        for kind, picture in strips.items():
            words = f"{kind}: reward {clip[kind]['value']:+.2f}" + (
                f"    {clip['prompt']}" if kind == "before" else ""
            )
            rows += [caption(words, width), picture]
        rows.append(np.full((GAP, width, 3), 255, np.uint8))
    cv2.imwrite(str(args.out), np.concatenate(rows))


if __name__ == "__main__":
    main()
