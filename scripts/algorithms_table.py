"""Write the table of docs/guides/algorithms.md: what every algorithm needs, does in a round, and
gained in the study.

python scripts/algorithms_table.py    # after a change of an algorithm or of the study;
`--check` only asks
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
BEGIN, END = (
    "<!-- python scripts/algorithms_table.py: begin -->",
    "<!-- python scripts/algorithms_table.py: end -->",
)
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
GROUP = 8  # clips of a prompt, as many prompts a round


class Plain(Reward):
    """A reward with or without a gradient, to ask what an algorithm refuses."""

    def __init__(self, differentiable: bool) -> None:
        super().__init__()
        self.differentiable = differentiable  # type: ignore[misc]

    def forward(self, samples: Samples) -> Score:
        raise NotImplementedError("no clip is scored")


def block() -> str:
    """The table with its marks."""
    study = measured()
    lines = table(
        HEAD, ((*about(name), *gained(name, study)) for name in plugin.names("algorithms"))
    )
    return "\n".join([BEGIN, "", *lines, END])


def about(name: str) -> tuple[str, ...]:
    """What the code says of an algorithm: name, papers, lines, needs, rows."""
    cls = plugin.find("algorithms", name)
    file = Path(inspect.getfile(cls))
    lines = len(file.read_text(encoding="utf-8").splitlines())
    link = f"[{name}](../../{file.resolve().relative_to(ROOT).as_posix()})"
    return link, papers(cls), str(lines), needs(cls), f"{rows(name):g}"


def papers(cls: type) -> str:
    """Links to what the docstring of the file cites; else to what those of the class and
    its bases cite."""
    classes = [inspect.cleandoc(one.__doc__ or "") for one in cls.__mro__ if one is not object]
    own = inspect.getdoc(importlib.import_module(cls.__module__)) or ""
    found = re.findall(r"\b\d{4}\.\d{5}\b", own) or re.findall(
        r"\b\d{4}\.\d{5}\b", "\n".join(classes)
    )
    return ", ".join(f"[{one}](https://arxiv.org/abs/{one})" for one in dict.fromkeys(found))


def needs(cls: Any) -> str:
    """What an algorithm cannot do without, as its class and its refusals say."""
    clips = cls.data == "clips"
    told = ["clips of files (`data.clips`)"] if clips else []
    told += ["a sampler that draws noise"] if issubclass(cls, Trajectory) else []
    told += ["the gradient of the reward"] if refuses(cls, Plain(False), GROUP) else []
    told += ["two clips of a prompt or more"] if refuses(cls, Plain(True), 1) else []
    return (
        "; ".join(told) + (", or files (`data.pairs`)" if cls.data == "optional pairs" else "")
        or "a reward"
    )


def refuses(cls: type[Algorithm], reward: Reward, group: int) -> bool:
    """Whether an algorithm of default options refuses a reward and a number of clips a
    prompt."""
    try:
        cls().check(reward, group)
    except ValueError:
        return True
    return False


def rows(name: str) -> float:
    """Clips that the denoiser predicts with gradient in a round, for each clip of the
    round; default options."""
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
    """The study, or None where no run of the reference arm is in its file."""
    runs = ledger.read(LEDGER)
    return Study(runs) if ledger.of(runs, PLAIN, False) else None


def gained(name: str, study: Study | None) -> tuple[str, str]:
    """The gain and the time of the algorithm's arm with the largest ratio to plain, and how
    this arm is called."""
    arms = [arm for arm in (study.arms if study else ()) if ARMS[arm].algorithm == name]
    if study is None or not arms:
        return ABSENT, ABSENT
    arm = max(arms, key=lambda one: study.ratio(PLAIN, one, "steady").value)
    gains = [value for value in study.gain(arm, 0.25).values() if value == value]
    if not gains:
        return ABSENT, seconds(study, arm)
    over, plural = interval(gains, unit="pairs"), "s" * (len(gains) > 1)
    return f"{spread(over.mean, over.low, over.high)} ({arm}, {len(gains)} seed{plural})", seconds(
        study, arm
    )


def seconds(study: Study, arm: str) -> str:
    """The mean over the runs that arrived, with its interval, and how many arrived."""
    found = study.reached(arm, "steady")
    values = [time.value for time in found.values() if not time.why]
    count = f"{arm}, {len(values)} of {len(found)} arrived"
    if not values:
        return f"over {study.budgets['steady']:.0f} ({count})"
    over = interval(values, unit="pairs")
    return f"{spread(over.mean, over.low, over.high, 0)} ({count})"


def page() -> str:
    """The whole page, with a new table in its marks."""
    before, _, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{FILE}: expected the marks {BEGIN} and {END}, found none: put them back")
    return before + block() + after


def main() -> int:
    made = page()
    if "--check" in sys.argv[1:]:
        current = FILE.read_text(encoding="utf-8") == made
        print(
            f"{FILE} is {'current' if current else 'not current: python scripts/algorithms_table.py'}"
        )
        return int(not current)
    FILE.write_text(made, encoding="utf-8")
    print(FILE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
