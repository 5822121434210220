"""Write the table of docs/guides/algorithms.md: what every algorithm needs, costs and gained.

    python scripts/algorithms_table.py            # after a change of an algorithm or the study
    python scripts/algorithms_table.py --check    # write nothing; exit with 1 if not current

What an algorithm needs comes from its code; what it gained comes from the ledger of the
study time_to_reward.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks" / "studies"))

import _time_to_reward_ledger as ledger  # noqa: E402
from _time_to_reward_arms import ARMS, PLAIN  # noqa: E402
from _time_to_reward_page import Study, spread, table  # noqa: E402

from vidrl import config, plugin  # noqa: E402
from vidrl.algorithms._trajectory import Trajectory  # noqa: E402
from vidrl.algorithms.base import Algorithm  # noqa: E402
from vidrl.backbones.toy import Toy  # noqa: E402
from vidrl.cost import counting  # noqa: E402
from vidrl.inference.means import interval  # noqa: E402
from vidrl.rewards import Reward, Samples, Score  # noqa: E402

FILE = ROOT / "docs" / "guides" / "algorithms.md"
LEDGER = ROOT / "benchmarks" / "results" / "training" / "time_to_reward.jsonl"
BEGIN = "<!-- python scripts/algorithms_table.py: begin -->"
END = "<!-- python scripts/algorithms_table.py: end -->"
HEAD = (
    "algorithm",
    "paper",
    "lines",
    "what it needs",
    "rows with gradient a clip",
    "held-out gain at ¼ of the budget",
    "CPU seconds to the target",
)
ABSENT = "not measured"
GROUP = 8  # clips of a prompt, and prompts of a round


class Plain(Reward):
    """A reward with or without a gradient, used to find out what an algorithm refuses."""

    def __init__(self, differentiable: bool) -> None:
        super().__init__()
        self.differentiable = differentiable  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        raise NotImplementedError("no clip is scored")


def block() -> str:
    """Return the table between its two marks."""
    study = measured()
    lines = table(
        HEAD, ((*about(name), *gained(name, study)) for name in plugin.names("algorithms"))
    )
    return "\n".join([BEGIN, "", *lines, END])


def about(name: str) -> tuple[str, ...]:
    """Return what the code says of an algorithm: name, papers, lines, needs and rows."""
    cls = plugin.find("algorithms", name)
    file = Path(inspect.getfile(cls))
    lines = len(file.read_text(encoding="utf-8").splitlines())
    link = f"[{name}](../../{file.resolve().relative_to(ROOT).as_posix()})"
    return link, papers(cls), str(lines), needs(cls), f"{rows(name):g}"


def papers(cls: type) -> str:
    """Return links to the papers that the module's docstring cites.

    Where the module cites none, the papers are those that the class and its bases cite.
    """
    classes = [inspect.cleandoc(one.__doc__ or "") for one in cls.__mro__ if one is not object]
    own = inspect.getdoc(importlib.import_module(cls.__module__)) or ""
    found = re.findall(r"\b\d{4}\.\d{5}\b", own) or re.findall(
        r"\b\d{4}\.\d{5}\b", "\n".join(classes)
    )
    return ", ".join(f"[{one}](https://arxiv.org/abs/{one})" for one in dict.fromkeys(found))


def needs(cls: Any) -> str:
    """Return what an algorithm requires, according to its class and its refusals."""
    clips = cls.data == "clips"
    required = ["clips of files (`data.clips`)"] if clips else []
    required += ["a sampler that draws noise"] if issubclass(cls, Trajectory) else []
    required += ["the gradient of the reward"] if refuses(cls, Plain(False), GROUP) else []
    required += ["two clips of a prompt or more"] if refuses(cls, Plain(True), 1) else []
    return (
        "; ".join(required) + (", or files (`data.pairs`)" if cls.data == "optional pairs" else "")
        or "a reward"
    )


def refuses(cls: type[Algorithm], reward: Reward, group: int) -> bool:
    """Say whether an algorithm with default options refuses a reward and a group size."""
    try:
        cls().check(reward, group)
    except ValueError:
        return True
    return False


def rows(name: str) -> float:
    """Return the clips that the denoiser predicts with gradient, for each clip of a round.

    The algorithm has its default options.
    """
    recipe = config.build(
        {
            "run": "unused",
            "algorithm": {"name": name},
            "reward": {"name": "flicker"},
            "train": {"rounds": 1, "prompts_per_round": GROUP, "group": GROUP},
            "data": {"held_out_n": 1},
        },
        files=False,
    )
    calls = counting.count(recipe, plugin.load("algorithms", name), Toy.tiny(), 32)
    return calls.rounds[0]["update"] / calls.clips


def measured() -> Study | None:
    """Return the study, or None if its ledger has no run of the reference arm."""
    runs = ledger.read(LEDGER)
    return Study(runs) if ledger.of(runs, PLAIN, False) else None


def gained(name: str, study: Study | None) -> tuple[str, str]:
    """Return the gain and the time of the algorithm's best arm, with the arm's name.

    The best arm has the largest ratio of plain's time to its own.
    """
    arms = [arm for arm in (study.arms if study else ()) if ARMS[arm].algorithm == name]
    if study is None or not arms:
        return ABSENT, ABSENT
    arm = max(arms, key=lambda one: study.ratio(PLAIN, one, "steady").value)
    gains = [value for value in study.gain(arm, 0.25).values() if value == value]  # without NaN
    if not gains:
        return ABSENT, seconds(study, arm)
    over, plural = interval(gains, unit="pairs"), "s" * (len(gains) > 1)
    return f"{spread(over.mean, over.low, over.high)} ({arm}, {len(gains)} seed{plural})", seconds(
        study, arm
    )


def seconds(study: Study, arm: str) -> str:
    """Return the mean seconds over the runs that arrived, and how many arrived."""
    found = study.reached(arm, "steady")
    values = [time.value for time in found.values() if not time.why]
    count = f"{arm}, {len(values)} of {len(found)} arrived"
    if not values:
        return f"over {study.budgets['steady']:.0f} ({count})"
    over = interval(values, unit="pairs")
    return f"{spread(over.mean, over.low, over.high, 0)} ({count})"


def page() -> str:
    """Return the page with a new table between its marks."""
    before, _, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{FILE}: expected the marks {BEGIN} and {END}, found none: put them back")
    return before + block() + after


def main() -> int:
    """Write the page, or with --check compare it."""
    text = page()
    if "--check" in sys.argv[1:]:
        current = FILE.read_text(encoding="utf-8") == text
        state = "current" if current else "not current: python scripts/algorithms_table.py"
        print(f"{FILE} is {state}")
        return int(not current)
    FILE.write_text(text, encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
