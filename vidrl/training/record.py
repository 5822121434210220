"""The run folder: everything a run writes, so that whoever looks back needs nothing else.

Only the main process writes. Rows are appended and on the disk when a call returns; files
are replaced at once.
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
from .changes import Change, inexact
from .rollout import Plan
from .scored import Scored
from .standstill import ROUNDS, standstill

Made = TypeVar("Made")
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
Does = TypeVar("Does", bound=Callable[..., None])  # a method that gives nothing back


def _written(what: str) -> Callable[[Does], Does]:
    """A method of `Record` that writes; where the disk refuses it, the error says what was
    to be written."""

    def decorate(method: Does) -> Does:
        @functools.wraps(method)
        def wrapped(self: Record, *arguments: Any, **named: Any) -> None:
            with checkpoint.writing(self.folder, what):
                method(self, *arguments, **named)

        return cast(Does, wrapped)

    return decorate


class Record:
    """Writes one run's folder; does nothing where it is not active."""

    def __init__(
        self,
        folder: Path,
        active: bool = True,
        bands: Mapping[str, tuple[float, float]] | None = None,
    ):
        self.folder, self.active, self.bands = folder, active, bands or {}

    @_written("the logs")
    def cut_back(self, round: int) -> None:
        """Take away what was written after the checkpoint of a round; −1: everything that
        grows."""
        for name in ("metrics.jsonl", "evals.jsonl", "events.jsonl"):
            checkpoint.cut_back(self.folder / name, round)
        (self.folder / "progress.json").unlink(missing_ok=True)
        # the clip being written at a kill
        for path in (self.folder / "clips").rglob(f"{checkpoint.PARTIAL}*"):
            path.unlink(missing_ok=True)
        for path in (self.folder / "checkpoints").glob("[0-9]*"):
            if int(path.name[:6]) > round:  # whole, but the run was killed before `latest` named it
                shutil.rmtree(path, ignore_errors=True)
        if round >= 0:
            self.event(round, "resume", f"resumed after round {round}")

    @_written("metrics.jsonl")
    def metrics(self, row: dict[str, Any]) -> None:
        """A line of metrics.jsonl; where training stands still, an event that says why."""
        if not self.active:
            return
        path = self.folder / "metrics.jsonl"
        checkpoint.append(path, row)
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-ROUNDS - 2 :]
        told = standstill([json.loads(line) for line in last])
        if told:
            print(f"warning: {told}", file=sys.stderr)
            self.event(row["round"], "standstill", told)

    @_written("events.jsonl")
    def event(self, round: int, kind: str, message: str) -> None:
        """A line of events.jsonl; an event that a resumed run meets again is written
        once."""
        if not self.active:
            return
        path, row = self.folder / "events.jsonl", {"round": round, "kind": kind, "message": message}
        told = (
            path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        )
        if json.dumps(row, ensure_ascii=False) not in told:
            checkpoint.append(path, row)

    @_written("events.jsonl")
    def changes(
        self, round: int, found: Sequence[Change], guarded: bool, scheduled: bool = False
    ) -> None:
        """An event for each change, with the old and the new value; and where exactness
        ends, if it does."""
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
        """Move the evaluations up to a round, which others must not be compared with, out
        of the way."""
        aside = f"evals-until-{round:06d}"
        self.event(
            round,
            "evaluation",
            f"evaluations are made in another way from here on: the base model is measured "
            f"again, and the earlier numbers are in {aside}.jsonl",
        )
        for suffix in (".jsonl", ""):
            now, old = self.folder / f"evals{suffix}", self.folder / f"{aside}{suffix}"
            if old.exists() and now.exists():  # an earlier attempt to measure again was interrupted
                shutil.rmtree(now) if now.is_dir() else now.unlink()
            elif now.exists():
                now.rename(old)

    @_written("an evaluation")
    def evaluation(self, round: int, measures: evaluate.Measures, few: int = 0) -> None:
        """A line of evals.jsonl, and every clip's numbers; a round's later evaluation takes
        the earlier one's place.

        Where other evaluations measure only the first `few` clips (0: none does), the line
        holds the means over these as well, under "first".
        """
        if self.active:
            checkpoint.cut_back(self.folder / "evals.jsonl", round - 1)
            evaluate.save(self.folder / "evals", round, measures)
            row = {"round": round} | _means(measures)
            more = {"first": _means(evaluate.first(measures, few))} if 0 < few < row["n"] else {}
            checkpoint.append(self.folder / "evals.jsonl", row | more)

    @_written("the clips")
    def clips(self, kind: str, samples: Samples | None, score: Score, n: int) -> None:
        """The first n clips as mp4, images as png, under clips/`kind`, their scores and
        curves beside them."""
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
        checkpoint.write_text(self.folder / "clips" / f"{kind}.json", json.dumps(rows, indent=1))

    def _clip(
        self, kind: str, stem: str, clip: Tensor, prompt: str, fps: float, score: Score, i: int
    ) -> dict[str, Any]:
        """Write clip i of a score as mp4, an image as png; its row."""
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
        """Write the best and the worst clip of a round, their credit, and the influence.

        `scored` keeps the clips that `extremes` names.
        """
        if not self.active or not bool(scored.score.value.isfinite().any()):
            return
        score, prompts, spans, rows = (
            scored.score,
            scored.prompts,
            frame_spans(frame_map, plan.segments),
            [],
        )
        for name, i in zip(("best", "worst"), extremes(score.value), strict=True):
            row = self._clip("train", name, scored.clips[i], prompts[i], scored.fps, score, i)
            where = {
                "segments": list(spans),
                "file": f"clips/train/{row['file']}",
                **_credited(advantage[i], plan),
            }
            rows.append(
                row | where | {"curve": row["curves"].get("composite")} | _beside(prompts, score, i)
            )
        checkpoint.write_text(self.folder / "credit.json", json.dumps(rows, indent=1))
        if (
            influence is not None
            and influence.fits(score)
            and not (self.folder / "influence.json").exists()
        ):
            summary = influence.summary(plan.segments) | {"segments": list(spans)}
            checkpoint.write_text(self.folder / "influence.json", json.dumps(summary))

    @_written("the summary")
    def summary(self, recipe: Recipe, seconds: float, round: int, status: str) -> None:
        """summary.json, timelines.json and report.html: what the run came to."""
        if self.active:
            told = self._against_the_first(round, status) | {
                "train_seconds": round_to(seconds),
                "seed": recipe.seed,
                "versions": _versions(),
                "device": _device(),
            }
            self._show("summary.json", told)
            (self.folder / "progress.json").unlink(missing_ok=True)

    def broken(self, round: int, complaints: Sequence[str]) -> None:
        """An event for each guard whose mean has left its band, with what the interval
        shows of it."""
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
        """progress.json, timelines.json and report.html of a run that goes on: how the last
        evaluation stands."""
        if self.active:
            self._show("progress.json", self._against_the_first(round, "running"))

    def _against_the_first(self, round: int, status: str) -> dict[str, Any]:
        rows = self.compared(round)
        return {
            "held_out": rows,
            "guards": guards.verdicts(self.bands, rows),
            "rounds": round,
            "status": status,
        }

    def compared(self, round: int) -> dict[str, dict[str, Any]]:
        """The base model and the weights of a round on the same held-out prompts, measure
        by measure.

        Where only the first prompts were evaluated after that round, the base model's
        numbers are of these alone too.
        """
        before, after = (
            evaluate.load(self.folder / "evals", 0),
            evaluate.load(self.folder / "evals", round),
        )
        rows = evaluate.compare(evaluate.first(before, len(after["composite"])), after)
        return {
            name: row for name, row in rows.items() if name != "weight_drift" or name in self.bands
        }

    def _show(self, name: str, told: Mapping[str, Any]) -> None:
        from vidrl.report import run_report

        checkpoint.write_text(
            self.folder / "timelines.json", json.dumps(self._timelines(), indent=1)
        )
        checkpoint.write_text(self.folder / name, json.dumps(told, indent=1))
        run_report.write(self.folder)

    def _timelines(self) -> list[dict[str, Any]]:
        files = [self.folder / f"clips/{kind}.json" for kind in ("before", "after")]
        if not all(file.is_file() for file in files):  # a person may have deleted the clips
            return []
        before, after = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        # of the same prompts, but train.show may have changed meanwhile
        pairs = zip(before, after, strict=False)
        shared = ("prompt", "file", "fps", "reference", "references")
        return [
            {k: a[k] for k in shared if k in a} | {"before": _scores(a), "after": _scores(b)}
            for a, b in pairs
        ]


def _means(measures: evaluate.Measures) -> dict[str, Any]:
    return {"n": len(measures["composite"]), "measures": evaluate.means(measures)}


def _credited(advantage: Tensor, plan: Plan) -> dict[str, Any]:
    """Advantages (S,) or (K, S) of a clip, as credit.json holds them."""
    if advantage.dim() == 1:
        return {"advantage": _numbers(advantage)}
    steps = {
        "advantage_steps": [_numbers(one) for one in advantage],
        "times": [plan.times[k] for k in plan.keep],
    }
    return {"advantage": _numbers(advantage.mean(0)), **steps}


def extremes(value: Tensor) -> tuple[int, int]:
    """The places of the best and of the worst scored clip; the first clip where none is
    scored.

    Example:
        >>> extremes(torch.tensor([0.5, float("nan"), 0.9, 0.1]))
        (2, 3)
    """
    return int(value.nan_to_num(-torch.inf).argmax()), int(value.nan_to_num(torch.inf).argmin())


def _beside(prompts: Sequence[str], score: Score, i: int) -> dict[str, Any]:
    """What a clip's curves are to be read against: those of its group's others, and how
    much each part counts."""
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
    """Seconds a stage: `with clock("sample"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def each(self, stage: str, made: Iterator[Made]) -> Iterator[Made]:
        """What an iterator makes, its seconds counted to a stage."""
        while True:
            with self(stage):
                one = next(made, None)
            if one is None:
                return
            yield one
            del one  # else it would live while the next is made


def summarise(score: Score, group: Tensor) -> dict[str, Any]:
    """What a round's scores say: reward and parts (mean, std, std within groups), unscored
    and zero-variance share.

    Groups of one clip have no spread: the std within groups and the zero-variance share are
    then left out.
    """
    parts = {
        name: _spread(part.value, group)
        for name, part in score.parts.items()
        if name not in left_out(score)
    }
    row = {
        "reward": _spread(score.value, group),
        "parts": parts,
        "unscored_share": float(score.value.isnan().float().mean()),
    }
    tied = group_std(score.value, group).nan_to_num(0) < 1e-6
    return row if alone(group) else row | {"zero_std_share": float(tied.float().mean())}


def alone(group: Tensor) -> bool:
    """Whether every group has one clip alone."""
    return len(group.unique()) == len(group)


def _spread(value: Tensor, group: Tensor) -> dict[str, float]:
    scored = value[~value.isnan()]
    within = {} if alone(group) else {"within_group_std": float(group_std(value, group).nanmean())}
    return {"mean": float(scored.mean()), "std": float(scored.std(correction=0))} | within


def round_to(seconds: float) -> float:
    return round(seconds, 1)


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("value", "parts", "curves")}


def _numbers(values: Tensor) -> Any:
    """Numbers as JSON holds them: NaN is null."""
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
