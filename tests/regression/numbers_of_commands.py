"""Measures what three commands print and write, for the comparison of two versions of vidrl.

    python tests/regression/numbers_of_commands.py OUT.json

Two short runs of three rounds (segment GRPO and DiffusionNFT) on the embedded model, `vidrl score`
of the clips of the first run, and `vidrl bench` of its clips before and after training. Only
commands are called, so that the script runs on any version.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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


def measure(folder):
    """The numbers of all commands, {command: {path: number}}."""
    found = {
        "grpo": train("study.toml", folder / "grpo"),
        "nft": train("demo.toml", folder / "nft"),
    }
    clips = folder / "grpo" / "clips"
    vidrl("score", clips / "after", "--json", folder / "scores.jsonl")
    found["score"] = [line | {"path": ""} for line in lines(folder / "scores.jsonl")]
    vidrl("bench", clips / "before", clips / "after", "--out", folder / "bench")
    results = json.loads((folder / "bench" / "results.json").read_text())
    found["bench"] = results
    numbers = {command: flat(value) for command, value in found.items()}
    measured = ("/value/", "/difference", "/effect")
    numbers["bench"] = {k: v for k, v in numbers["bench"].items() if any(m in k for m in measured)}
    return numbers


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(Path(temporary))
    Path(sys.argv[1]).write_text(json.dumps(measured, indent=0) + "\n")
    print({command: len(found) for command, found in measured.items()})
