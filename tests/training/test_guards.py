"""vidrl.training.guards: what an interval shows of a guarded measure, and what a run says
of it."""

import json

import numpy as np
import pytest

from vidrl.training import evaluate, guards
from vidrl.training.record import Record

ZONE = (-0.05, 0.2)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.05, 0.2, guards.STAYS),
        (-0.051, 0.1, guards.INSIDE),
        (0.0, 0.21, guards.INSIDE),
        (-0.3, -0.06, guards.LEFT),
        (0.21, 0.4, guards.LEFT),
        (-0.3, 0.0, guards.OUTSIDE),
        (None, None, guards.INSIDE),
    ],
)
def test_the_interval_decides(low: float | None, high: float | None, told: str) -> None:
    middle = 0.0 if low is None else (low + high) / 2
    assert guards.verdict({"difference": middle, "low": low, "high": high}, ZONE) == told


def test_a_band_of_a_negative_measure_and_of_a_share() -> None:
    assert guards.allowed("composite", (0.5, 2.0), -2.0) == (-2.0, 1.0)
    assert guards.allowed("unscored_share", (0.0, 0.1), 0.0) == (0.0, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [-0.05, -0.08])
def test_a_measure_that_fell_by_more_is_seldom_said_to_stay(truth: float) -> None:
    """Non-inferiority at 2.5 %: 400 runs of 64 clips whose true difference is on the
    margin, or beyond it."""
    said = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        before = draw.normal(1.0, 0.1, 64)
        row = evaluate.compare({"a": before}, {"a": before + truth + 0.1 * draw.normal(size=64)})[
            "a"
        ]
        said += guards.verdict(row, (-0.05, 1.0)) == guards.STAYS
    assert said <= 19  # binomial of 400 at 2.5 %: more in 0.4 %


def test_a_run_says_what_is_shown_of_each_guard(tmp_path) -> None:
    record = Record(tmp_path, bands={"verifier": (0.9, 1.1), "unmeasured": (0.0, 1.0)})
    draw = np.random.default_rng(0)
    before = {"composite": draw.normal(size=30), "verifier": np.full(30, 0.8)}
    after = {"composite": before["composite"] + 1, "verifier": 0.4 + 0.05 * draw.normal(size=30)}
    evaluate.save(tmp_path / "evals", 0, before)
    evaluate.save(tmp_path / "evals", 4, after)
    complaints = evaluate.outside(
        {"verifier": (0.9, 1.1)}, evaluate.values(before), evaluate.values(after)
    )
    record.broken_guards(4, complaints)
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert event["kind"] == "guard" and event["message"].endswith(f": {guards.LEFT}")
    told = record._results(4, "running")["guards"]
    assert told == {"verifier": {"allowed": pytest.approx([-0.08, 0.08]), "verdict": guards.LEFT}}
