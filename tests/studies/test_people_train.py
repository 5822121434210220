"""The study of training on simulated raters' taste: its parts, and its smallest form."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vidrl.feedback.store import Store

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))
labels = importlib.import_module("_people_train_labels")
page = importlib.import_module("_people_train_page")
runs = importlib.import_module("_people_train_runs")
study = importlib.import_module("people_train")

SMALL = labels.Size(prompts=8, each=3, labels=24)
SHORT = {
    "rounds": 1,
    "prompts_per_round": 2,
    "group": 4,
    "eval_n": 2,
    "eval_steps": 2,
    "eval_every": 1,
}


def test_a_ledger_is_continued_at_the_first_run_that_it_lacks():
    rows = [{"arm": arm, "seed": 0} for arm in study.PARTS["b"][:2]]
    assert next(study.missing(rows, "b")) == (study.PARTS["b"][2], 0)
    every = [{"arm": arm, "seed": seed} for arm in study.PARTS["c"] for seed in range(9)]
    assert list(study.missing(every, "c")) == []


def test_pairs_share_a_prompt_and_come_once_in_either_order():
    prompts = {f"{text}{i}": text for text in "xyz" for i in range(4)}
    found = labels.pairs(prompts, 18, seed=1)  # three prompts have six pairs each
    assert len({frozenset(pair) for pair in found}) == 18
    assert all(prompts[a] == prompts[b] for a, b in found)
    assert 0 < sum(a < b for a, b in found) < 18


def test_gains_are_paired_by_seed_and_a_fall_is_counted_from_the_peak():
    def row(arm, seed, *true):
        return {"arm": arm, "seed": seed, "rounds": [0, 4, 8], "measures": {"true": list(true)}}

    rows = [row("x", 1, 0, 1, 4), row("x", 0, 0, 3, 2), row("y", 0, 0, 1, 1)]
    assert page.differences(rows, "x", "y") == [1.0]
    assert [page.peak(one) for one in page.of(rows, "x")] == [(4, 1.0), (8, 0.0)]


@pytest.mark.slow
def test_the_smallest_form_goes_round_the_circle(tmp_path):
    """Label, store, fit and train; permuted answers are the same answers on other pairs."""
    home = tmp_path / "seed0"
    given = {}
    for name in ("taste", "permuted"):
        store = Store(labels.label(home, 0, SMALL, name == "permuted"))
        given[name] = store.judgments().choices
        store.close()
    pairs = {name: [(one.first, one.second) for one in found] for name, found in given.items()}
    chosen = {name: np.array([one.choice for one in found]) for name, found in given.items()}
    assert pairs["taste"] == pairs["permuted"] and len(set(pairs["taste"])) == 24
    assert (chosen["taste"] != chosen["permuted"]).any()
    assert (np.sort(chosen["taste"]) == np.sort(chosen["permuted"])).all()
    rows = [runs.run(arm, 0, tmp_path, SMALL, SHORT, 2) for arm in ("fitted", "true", "dpo", "kto")]
    for row in rows:
        assert row["rounds"] == [0, 1] and row["train_cpu"] > 0
        assert row["measures"]["true"][0] == rows[0]["measures"]["true"][0]  # one start for all
    fits = [{"fit": "24 labels", "seed": 0, "agreement": 0.5, "low": 0.4}]
    text, drawn = page.page(rows, fits, list(labels.spreads(tmp_path, SMALL)), "unknown")
    assert "| fitted | the reward fitted to the labels | 1 |" in text and drawn.startswith("<svg")
    assert not list(tmp_path.rglob("run-*"))
    json.dumps(rows, allow_nan=False)
