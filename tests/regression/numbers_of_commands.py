"""Measures what three commands print and write, for the comparison of two versions of vidrl.

    python tests/regression/numbers_of_commands.py OUT.json

Two short runs of three rounds (segment GRPO and DiffusionNFT) on the embedded model, and
`vidrl score` and `vidrl bench` of drawn clips: the pixels of these clips are integers, so that they
are the same on each machine. Only commands are called, so that the script runs on any version.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "backbone.options.model=assets/tiny-wan-32",
    "train.rounds=3",
    "train.prompts_per_round=2",
    "train.group=4",
    "train.eval_every=3",
    "train.eval_n=0",
    "train.show=4",
    "data.held_out_n=6",
    "guard.action=warn",
]
CLOCKS = ("seconds", "memory")  # these keys measure the machine
BOUNDS = ("/low", "/high")  # these keys, quantiles of six resampled prompts, jump with rounding
CLIPS, FRAMES, SIDE = 4, 12, 64


def vidrl(*arguments):
    command = [sys.executable, "-m", "vidrl", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flat(value, name=""):
    """The numbers of a JSON value, by their path in it."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {name: value} if number else {}
    found = {}
    for key, inner in items:
        if not any(clock in str(key) for clock in CLOCKS):
            found |= flat(inner, f"{name}/{key}")
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(recipe, folder):
    vidrl("train", ROOT / "scripts" / "recipes" / recipe, f"run={folder}", *SHORT)
    summary = json.loads((folder / "summary.json").read_text())
    return {"metrics": lines(folder / "metrics.jsonl"), "held_out": summary["held_out"]}


def draw(folder, fault):
    """Folders of numbered pictures: a square of tiles moves over ground that pans.

    In each second frame the square is `fault` pixels off and all is `fault` grey levels brighter.
    """
    tiles = np.random.RandomState(0).randint(0, 256, (CLIPS, SIDE // 4, SIDE // 4, 3))
    for clip, (ground, moved) in enumerate(zip(tiles, tiles[::-1], strict=True)):
        (folder / str(clip)).mkdir(parents=True)
        for frame in range(FRAMES):
            picture = np.kron(ground // 2 + 64, np.ones((4, 4, 1), int))
            picture = np.roll(picture, (clip + 1) * frame, axis=1)
            square = np.kron(moved[:6, :6] // 2, np.ones((4, 4, 1), int))
            x = 2 * frame + clip + fault * (frame % 2)
            picture[20:44, x : x + 24] = square[:, : SIDE - x]
            picture = np.clip(picture + fault * (frame % 2), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / str(clip) / f"{frame:03}.png")


def measure(folder):
    """The numbers of all commands, {command: {path: number}}."""
    found = {
        "grpo": train("study.toml", folder / "grpo"),
        "nft": train("demo.toml", folder / "nft"),
    }
    good, bad = folder / "good", folder / "bad"
    draw(good, 0)
    draw(bad, 6)
    vidrl("score", *sorted(bad.iterdir()), "--json", folder / "scores.jsonl")
    found["score"] = [line | {"path": ""} for line in lines(folder / "scores.jsonl")]
    vidrl("bench", good, bad, "--out", folder / "bench")
    found["bench"] = json.loads((folder / "bench" / "results.json").read_text())
    numbers = {command: flat(value) for command, value in found.items()}
    for run in ("grpo", "nft"):
        numbers[run] = {k: v for k, v in numbers[run].items() if not k.endswith(BOUNDS)}
    measured = ("/value/", "/difference", "/effect")
    numbers["bench"] = {k: v for k, v in numbers["bench"].items() if any(m in k for m in measured)}
    return numbers


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(Path(temporary))
    Path(sys.argv[1]).write_text(json.dumps(measured, indent=0) + "\n")
    print({command: len(found) for command, found in measured.items()})
