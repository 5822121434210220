"""Write the run folder, which holds all that a page or a later comparison needs of a run.

Only the main process writes. When a call returns, the disk has what was written. Logs
(*.jsonl) grow by rows; any other file is replaced as a whole, so that a reader never sees
half of a file.
"""

from __future__ import annotations

import functools
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from vidrl.config import Recipe
from vidrl.credit import group_std
from vidrl.credit.influence import Influence
from vidrl.data import references
from vidrl.diffusion.segments import Span, frame_spans
from vidrl.rewards import Samples, Score
from vidrl.rewards._scoring.left_out import left_out

from . import checkpoint, evaluate, guards
from .about_reward import AboutReward, chosen
from .changes import Change, inexact
from .rollout import Plan
from .scored import Scored
from .standstill import ROUNDS, standstill

Item = TypeVar("Item")
PACKAGES = (
    "vidrl",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "opencv-python-headless",
    "numpy",
)
Method = TypeVar("Method", bound=Callable[..., None])


def _written(what: str) -> Callable[[Method], Method]:
    """Decorate a method of `Record`: where the disk refuses a file, the error names `what`."""

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def wrapped(self: Record, *arguments: Any, **named: Any) -> None:
            with checkpoint.writing(self.folder, what):
                method(self, *arguments, **named)

        return cast(Method, wrapped)

    return decorate


class Record:
    """The writer of one run's folder; it does nothing unless it is `active`.

    `active` is whether this is the main process. `bands` are the guards' bands, to which the
    summary and the page compare the held-out measures. `about` is what the page says of the
    reward.
    """

    def __init__(
        self,
        folder: Path,
        active: bool = True,
        bands: Mapping[str, tuple[float, float]] | None = None,
        about: AboutReward | None = None,
    ):
        self.folder, self.active = folder, active
        self.bands = bands or {}
        self.about = about or AboutReward()

    @_written("the logs")
    def cut_back(self, round: int) -> None:
        """Delete what was written after the checkpoint of a round; −1: delete all rows."""
        for name in ("metrics.jsonl", "evals.jsonl", "events.jsonl"):
            checkpoint.cut_back(self.folder / name, round)
        (self.folder / "progress.json").unlink(missing_ok=True)
        # a clip that was being written when the run was killed
        for path in (self.folder / "clips").rglob(f"{checkpoint.PARTIAL}*"):
            path.unlink(missing_ok=True)
        for path in (self.folder / "checkpoints").glob("[0-9]*"):
            # a complete checkpoint, but the run was killed before `latest` named it
            if int(path.name[:6]) > round:
                shutil.rmtree(path, ignore_errors=True)
        if round >= 0:
            self.event(round, "resume", f"resumed after round {round}")

    @_written("metrics.jsonl")
    def metrics(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl; warn where the weights no longer move."""
        if not self.active:
            return
        path = self.folder / "metrics.jsonl"
        checkpoint.append(path, row)
        # the rows that `standstill` compares: ROUNDS rounds and the two before them
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-ROUNDS - 2 :]
        warning = standstill([json.loads(line) for line in last])
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
            self.event(row["round"], "standstill", warning)

    @_written("events.jsonl")
    def event(self, round: int, kind: str, message: str) -> None:
        """Append an event to events.jsonl, unless the same event is there already.

        A resumed run repeats the events of its start.
        """
        if not self.active:
            return
        path, row = self.folder / "events.jsonl", {"round": round, "kind": kind, "message": message}
        written = (
            path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        )
        if json.dumps(row, ensure_ascii=False) not in written:
            checkpoint.append(path, row)

    @_written("events.jsonl")
    def changes(
        self, round: int, found: Sequence[Change], guarded: bool, scheduled: bool = False
    ) -> None:
        """Write an event for each change, and an event where the run is no longer exact.

        `found`, `guarded`, `scheduled`: see `changes.inexact`.
        """
        for change in found:
            self.event(round, "change", str(change))
        ending = inexact(found, guarded, scheduled)
        if ending:
            self.event(
                round,
                "exactness",
                f"from round {round} on the weights may differ from those of a run without "
                f"these changes: {', '.join(ending)}",
            )

    @_written("the evaluations")
    def put_evaluations_aside(self, round: int) -> None:
        """Move the evaluations up to a round to other names; later ones cannot be compared."""
        aside = f"evals-until-{round:06d}"
        self.event(
            round,
            "evaluation",
            f"evaluations are made in another way from here on: the base model is measured "
            f"again, and the earlier numbers are in {aside}.jsonl",
        )
        for suffix in (".jsonl", ""):
            now, old = self.folder / f"evals{suffix}", self.folder / f"{aside}{suffix}"
            # both exist where an earlier attempt to measure again was interrupted
            if old.exists() and now.exists():
                shutil.rmtree(now) if now.is_dir() else now.unlink()
            elif now.exists():
                now.rename(old)

    @_written("an evaluation")
    def evaluation(self, round: int, measures: evaluate.Measures, eval_n: int = 0) -> None:
        """Append a row to evals.jsonl, and save every clip's numbers.

        A second evaluation of a round replaces the first. Where other evaluations measure
        only the first `eval_n` clips (0: all measure all), the row also holds the means over
        these clips, under "first".
        """
        if self.active:
            checkpoint.cut_back(self.folder / "evals.jsonl", round - 1)
            evaluate.save(self.folder / "evals", round, measures)
            row = {"round": round} | _means(measures)
            if 0 < eval_n < row["n"]:
                row["first"] = _means(evaluate.first(measures, eval_n))
            checkpoint.append(self.folder / "evals.jsonl", row)

    @_written("the clips")
    def clips(self, kind: str, samples: Samples | None, score: Score, n: int) -> None:
        """Write the first n clips under clips/`kind`, and their scores to clips/`kind`.json.

        Clips are written as mp4, images as png.
        """
        if not self.active:
            return
        rows = (
            []
            if samples is None
            else [
                self._clip(
                    kind, f"{i:04d}", samples.video[i], samples.prompts[i], samples.fps, score, i
                )
                for i in range(min(n, len(samples)))
            ]
        )
        file = self.folder / "clips" / f"{kind}.json"
        file.parent.mkdir(parents=True, exist_ok=True)  # no clip has made it if n is 0
        checkpoint.write_text(file, json.dumps(rows, indent=1))

    def _clip(
        self, kind: str, stem: str, clip: Tensor, prompt: str, fps: float, score: Score, i: int
    ) -> dict[str, Any]:
        """Write clip i of a score as mp4, an image as png; return its row."""
        from vidrl.rewards import video

        path = self.folder / "clips" / kind / f"{stem}{video.suffix(len(clip))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        video.write(path, clip.cpu(), fps)
        everything = {"composite": score, **score.parts}
        return {
            "prompt": prompt,
            "file": path.name,
            "fps": fps,
            "value": _numbers(score.value[i]),
            "parts": {part: _numbers(s.value[i]) for part, s in score.parts.items()},
            "curves": {
                part: _numbers(s.frames[i])
                for part, s in everything.items()
                if s.frames is not None
            },
            **references.shown(prompt, path.with_suffix(".png"), *clip.shape[-2:]),
        }

    @_written("credit.json and its clips")
    def credit(
        self,
        scored: Scored,
        advantage: Tensor,
        plan: Plan,
        frame_map: Sequence[Span],
        influence: Influence | None = None,
    ) -> None:
        """Write the best and the worst clip of a round, with the credit of their segments.

        `scored` keeps the clips that `extremes` names. `influence` is the measured influence
        that the algorithm reads, if any; it is written once a run.
        """
        score = scored.score
        if not self.active or not bool(score.value.isfinite().any()):
            return
        spans = list(frame_spans(frame_map, plan.segments))
        rows = [
            self._credit_row(name, i, scored, advantage[i], plan) | {"segments": spans}
            for name, i in zip(("best", "worst"), extremes(score.value), strict=True)
        ]
        checkpoint.write_text(self.folder / "credit.json", json.dumps(rows, indent=1))
        path = self.folder / "influence.json"
        if influence is not None and influence.fits(score) and not path.exists():
            summary = influence.summary(plan.segments) | {"segments": spans}
            checkpoint.write_text(path, json.dumps(summary))

    def _credit_row(
        self, name: str, i: int, scored: Scored, advantage: Tensor, plan: Plan
    ) -> dict[str, Any]:
        """Write clip i under a name, and return its row of credit.json."""
        score, prompts = scored.score, scored.prompts
        row = self._clip("train", name, scored.clips[i], prompts[i], scored.fps, score, i)
        return {
            **row,
            "file": f"clips/train/{row['file']}",
            **_credited(advantage, plan),
            "curve": row["curves"].get("composite"),
            **_comparison(prompts, score, i),
        }

    @_written("the summary")
    def summary(self, recipe: Recipe, seconds: float, round: int, status: str) -> None:
        """Write the results of a run: summary.json, timelines.json and report.html."""
        if self.active:
            content = self._results(round, status) | {
                "train_seconds": round_to(seconds),
                "seed": recipe.seed,
                "versions": _versions(),
                "device": _device(),
            }
            self._show("summary.json", content)
            (self.folder / "progress.json").unlink(missing_ok=True)

    def broken_guards(self, round: int, complaints: Sequence[str]) -> None:
        """Write an event for each guard whose mean has left its band, with the verdict."""
        if self.active and complaints:
            rows = guards.verdicts(self.bands, self.compared(round))
            for message in complaints:
                name = message.partition(":")[0]
                self.event(
                    round,
                    "guard",
                    f"{message}: {rows[name]['verdict']}" if name in rows else message,
                )

    @_written("the page")
    def progress(self, round: int) -> None:
        """Write the results so far: progress.json, timelines.json and report.html."""
        if self.active:
            self._show("progress.json", self._results(round, "running"))

    def _results(self, round: int, status: str) -> dict[str, Any]:
        """Return the comparison with the base model, and the verdicts on the guards."""
        rows = self.compared(round)
        return {
            "held_out": rows,
            "guards": guards.verdicts(self.bands, rows),
            "remarks": list(self.about.remarks),
            "choices": self._choices(round),
            "rounds": round,
            "status": status,
        }

    def _choices(self, round: int) -> dict[str, dict[str, Any]]:
        """Return, by measure, how often people would choose the clips of a round's weights."""
        before, after = (evaluate.load(self.folder / "evals", n) for n in (0, round))
        found = {
            name: chosen(before[name][: len(after[name])], after[name])
            for name in self.about.in_logits
            if name in before and name in after
        }
        return {name: row for name, row in found.items() if row is not None}

    def compared(self, round: int) -> dict[str, dict[str, Any]]:
        """Return, by measure, the base model compared with the weights of a round.

        Both are measured on the same held-out prompts. Where only the first prompts were
        evaluated after that round, the base model's numbers are of these prompts too.
        """
        before, after = (
            evaluate.load(self.folder / "evals", 0),
            evaluate.load(self.folder / "evals", round),
        )
        rows = evaluate.compare(evaluate.first(before, len(after["composite"])), after)
        return {
            name: row for name, row in rows.items() if name != "weight_drift" or name in self.bands
        }

    def _show(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of results, and the page."""
        from vidrl.report import run_report

        checkpoint.write_text(
            self.folder / "timelines.json", json.dumps(self._timelines(), indent=1)
        )
        checkpoint.write_text(self.folder / name, json.dumps(content, indent=1))
        run_report.write(self.folder)

    def _timelines(self) -> list[dict[str, Any]]:
        """Return the scores and curves of the shown clips, before and after training."""
        files = [self.folder / f"clips/{kind}.json" for kind in ("before", "after")]
        # a person may have deleted the clips
        if not all(file.is_file() for file in files):
            return []
        before, after = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        # not strict: train.show may have changed, so that one list is longer
        pairs = zip(before, after, strict=False)
        shared = ("prompt", "file", "fps", "reference", "references")
        return [
            {k: a[k] for k in shared if k in a} | {"before": _scores(a), "after": _scores(b)}
            for a, b in pairs
        ]


def _means(measures: evaluate.Measures) -> dict[str, Any]:
    return {"n": len(measures["composite"]), "measures": evaluate.means(measures)}


def _credited(advantage: Tensor, plan: Plan) -> dict[str, Any]:
    """Return the advantages (S,) or (K, S) of a clip, as credit.json holds them."""
    if advantage.dim() == 1:
        return {"advantage": _numbers(advantage)}
    steps = {
        "advantage_steps": [_numbers(step) for step in advantage],
        "times": [plan.times[k] for k in plan.keep],
    }
    return {"advantage": _numbers(advantage.mean(0)), **steps}


def extremes(value: Tensor) -> tuple[int, int]:
    """Return the places of the best and the worst scored clip; 0 where none is scored.

    Example:
        >>> extremes(torch.tensor([0.5, float("nan"), 0.9, 0.1]))
        (2, 3)
    """
    return int(value.nan_to_num(-torch.inf).argmax()), int(value.nan_to_num(torch.inf).argmin())


def _comparison(prompts: Sequence[str], score: Score, i: int) -> dict[str, Any]:
    """Return what a clip's curves are compared with on the page.

    "others": the mean curves of the group's other clips; "slopes": how much each part
    counts; "supports": what an entry of a part's curve is about.
    """
    alike = torch.tensor([prompt == prompts[i] and k != i for k, prompt in enumerate(prompts)])
    everything = {"composite": score, **score.parts}
    others = {
        part: s.frames[: len(alike)][alike.to(s.frames.device)].nanmean(0)
        for part, s in everything.items()
        if s.frames is not None and bool(alike.any())
    }
    return {
        "others": {part: _numbers(curve) for part, curve in others.items()},
        "slopes": {part: _numbers(slope[i]) for part, slope in score.slopes.items()},
        "supports": {part: s.support for part, s in score.parts.items()},
    }


class Clock:
    """A clock that adds up the seconds of each stage: `with clock("sample"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of an iterator, and count the seconds that it takes to a stage."""
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item
            del item  # else it would stay in memory while the next item is made


def summarise(score: Score, group: Tensor) -> dict[str, Any]:
    """Return the statistics of a round's scores, a part of its row of metrics.jsonl.

    These are the mean, the std and the std within groups of the reward and of its parts,
    the share of unscored clips, and the share of groups whose rewards are all equal. Groups
    of one clip have no std: the std within groups and the last share are then left out.
    """
    parts = {
        name: _statistics(part.value, group)
        for name, part in score.parts.items()
        if name not in left_out(score)
    }
    row = {
        "reward": _statistics(score.value, group),
        "parts": parts,
        "unscored_share": float(score.value.isnan().float().mean()),
    }
    tied = group_std(score.value, group).nan_to_num(0) < 1e-6
    return row if alone(group) else row | {"zero_std_share": float(tied.float().mean())}


def alone(group: Tensor) -> bool:
    """Return whether every group has a single clip."""
    return len(group.unique()) == len(group)


def _statistics(value: Tensor, group: Tensor) -> dict[str, float]:
    """Return mean, std and std within groups of the scored clips."""
    scored = value[~value.isnan()]
    within = {} if alone(group) else {"within_group_std": float(group_std(value, group).nanmean())}
    return {"mean": float(scored.mean()), "std": float(scored.std(correction=0))} | within


def round_to(seconds: float) -> float:
    """Return seconds to one decimal."""
    return round(seconds, 1)


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("value", "parts", "curves")}


def _numbers(values: Tensor) -> Any:
    """Return numbers as JSON holds them, with five decimals; NaN becomes null."""
    found = values.detach().float().cpu().tolist()
    if isinstance(found, list):
        return [None if v != v else round(v, 5) for v in found]
    return None if found != found else round(found, 5)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} thread(s) a process"
