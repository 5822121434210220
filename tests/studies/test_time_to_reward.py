"""The study of time to a reward: times, censoring, ratios and the agenda on numbers done by
hand."""

import json
import sys
import xml.etree.ElementTree as ET
from math import exp, isnan, log
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))

import _time_to_reward_ledger as ledger
import _time_to_reward_page as pages
import _time_to_reward_times as times
import time_to_reward as study
from _time_to_reward_arms import ARMS, PLAIN, RATES, SWEEP_SEED, missing
from _time_to_reward_run import Calls, Finished, Watch
from _time_to_reward_times import GUARDS, Time

BASE = {
    "composite": -2.0,
    "dynamic_degree": 0.8,
    "verifier": 0.8,
    "identity": 0.8,
    "diversity": 0.08,
    "warp_error": 0.6,
}


def run(gain, cpu=(10.0, 20.0, 30.0), arm="x", rate=RATES[2], seed=0, ended="budget", **measures):
    """A ledger's line with these gains; measures not named are the base model's."""
    looks = {name: [value] * len(gain) for name, value in BASE.items()} | measures
    looks["composite"] = [BASE["composite"] + one for one in gain]
    cost = {
        "cpu": list(cpu)[: len(gain)],
        "calls": [10 * c for c in cpu][: len(gain)],
        "look": [8.0] * len(gain),
        "clips": [24 * (i + 1) for i in range(len(gain))],
        "round": list(range(1, len(gain) + 1)),
    }
    return {
        "arm": arm,
        "rate": rate,
        "seed": seed,
        "ended": ended,
        "base": BASE,
        "looks": looks | cost,
        "commit": "0123456789",
        "spent": 50.0,
    }


def time(one, target, limit=30.0, **guards):
    return times.time_to(one, target, times.used(one, "cpu"), limit, **guards)


# Times


def test_a_time_is_interpolated_between_two_looks():
    assert time(run([0.2, 0.4, 1.0]), 0.7) == Time(25.0)
    # before the first look, from a gain of 0 at the start
    assert time(run([0.25, 0.4, 1.0]), 0.125) == Time(5.0)
    assert time(run([0.2, 0.4, 1.0]), 1.0) == Time(30.0)


def test_the_first_arrival_counts_though_the_run_falls_back():
    assert time(run([0.8, 0.1, 0.2]), 0.4) == Time(5.0)


def test_a_run_that_never_arrives_is_cut_where_it_ends():
    assert time(run([0.2, 0.4, 0.6]), 0.7) == Time(30.0, "budget")
    assert time(run([0.2, 0.4, 0.6]), 0.5, limit=24.0) == Time(24.0, "budget")  # there at 25
    assert time(run([0.2], ended="failed: not finite"), 0.1) == Time(30.0, "failed")


LOW = {"dynamic_degree": 0.759, "verifier": 0.771, "identity": 0.719, "diversity": 0.0719}
HELD = {"dynamic_degree": 0.761, "verifier": 0.773, "identity": 0.721, "diversity": 0.0721}


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_that_fails_at_or_before_arrival_cuts_the_run(name):
    """0.95, 0.965, 0.9 and 0.9 of the base model's 0.8, 0.8, 0.8 and 0.08 are 0.76, 0.772,
    0.72 and 0.072."""
    fine, low = BASE[name], LOW[name]
    # before
    assert time(run([0.2, 0.4, 1.0], **{name: [low, fine, fine]}), 0.7) == Time(30.0, "guard")
    # at arrival
    assert time(run([0.2, 0.4, 1.0], **{name: [fine, fine, low]}), 0.7) == Time(30.0, "guard")
    # after
    assert time(run([0.2, 0.8, 1.0], **{name: [fine, fine, low]}), 0.7) == Time(
        pytest.approx(18 + 1 / 3)
    )
    assert time(run([0.2, 0.4, 1.0], **{name: [low, fine, fine]}), 0.7, guards={}) == Time(25.0)
    assert time(run([0.2, 0.4, 1.0], **{name: [HELD[name]] * 3}), 0.7) == Time(25.0)


def test_steady_seconds_take_out_what_made_a_look_slow():
    one = run([0.2, 0.4, 1.0])
    # the second stretch on a machine half as fast, the third twice as fast
    one["looks"]["look"] = [8.0, 16.0, 4.0]
    assert times.steady(one, 8.0) == [0.0, 10.0, 15.0, 35.0]


def test_a_gain_at_an_amount_is_unknown_after_the_end():
    one = run([0.2, 0.4, 1.0])
    assert times.gain_at(one, 25.0, times.used(one, "cpu")) == pytest.approx(0.7)
    assert isnan(times.gain_at(one, 31.0, times.used(one, "cpu")))


# Ratios


def test_ratios_pair_by_seed_and_count_what_is_cut_at_the_budget():
    plain = {0: Time(80.0), 1: Time(100.0, "budget"), 2: Time(50.0)}
    arm = {0: Time(20.0), 1: Time(25.0), 2: Time(100.0, "guard"), 7: Time(1.0)}
    assert times.ratios(plain, arm) == [4.0, 4.0, 0.5]
    found = times.ratio(plain, arm)
    assert (
        found.value == pytest.approx(2.0)
        and (found.pairs, found.cut) == (3, 1)
        and isnan(found.low)
    )


def test_the_interval_of_a_ratio_is_of_logarithms():
    each = [2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 3.5]
    found = times.ratio(
        {i: Time(60.0) for i in range(7)}, {i: Time(60.0 / r) for i, r in enumerate(each)}
    )
    over = pages.interval([log(r) for r in each])
    assert found[:3] == pytest.approx((exp(np.mean(np.log(each))), exp(over.low), exp(over.high)))
    assert 2.0 < found.low < found.value < found.high < 8.0


def test_best_of_n_is_the_mean_over_all_draws():
    """Of 1, 2, 4, 8 the best of two: 2, 4, 8, 4, 8, 8 of six draws; of what is shown beside
    them likewise."""
    assert times.best_of([4.0, 1.0, 8.0, 2.0], 2) == pytest.approx(34 / 6)
    assert times.best_of([4.0, 1.0, 8.0, 2.0], 2, [0.0, 9.0, 1.0, 3.0]) == pytest.approx(
        (3 + 0 + 1 + 0 + 1 + 1) / 6
    )
    assert times.best_of([4.0, 1.0, 8.0, 2.0], 4) == 8.0


# The ledger


def test_a_ledger_goes_on_after_a_line_that_a_kill_cut_short(tmp_path):
    book = tmp_path / "ledger.jsonl"
    ledger.add(book, run([0.1]))
    with book.open("a") as file:
        file.write('{"arm": "cut sho')
    assert [one["arm"] for one in ledger.read(book)] == ["x"]
    ledger.add(book, run([0.2], arm="y"))
    assert [json.loads(line)["arm"] for line in book.read_text().splitlines()] == ["x", "y"]
    assert ledger.read(tmp_path / "none.jsonl") == []


def swept(arm, merits, cpu=(10.0, 20.0, 30.0)):
    """Runs of a sweep whose gains at the end are these, by place on the ladder."""
    return [run([0.0, 0.1, gain], cpu, arm, RATES[i], SWEEP_SEED) for i, gain in merits.items()]


def jobs(found):
    return [(job.arm, RATES.index(job.rate), job.seed) for job in found]


def test_a_sweep_goes_beyond_an_edge_until_the_best_rate_lies_within():
    plain = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4})
    assert ledger.sweep(plain, PLAIN) == [] and ledger.chosen(plain, PLAIN) == RATES[2]
    assert jobs(ledger.sweep(plain, "x")) == [
        ("x", 2, SWEEP_SEED),
        ("x", 3, SWEEP_SEED),
        ("x", 1, SWEEP_SEED),
    ]
    high = plain + swept("x", {1: 0.1, 2: 0.2, 3: 0.3})
    assert (
        jobs(ledger.sweep(high, "x")) == [("x", 4, SWEEP_SEED)] and ledger.chosen(high, "x") is None
    )
    assert ledger.chosen(high + swept("x", {4: 0.2}), "x") == RATES[3]
    low = plain + swept("x", {1: 0.4, 2: 0.2, 3: 0.1})
    assert jobs(ledger.sweep(low, "x")) == [("x", 0, SWEEP_SEED)]


def test_a_rate_that_arrives_sooner_or_ends_higher_is_better_and_a_broken_guard_costs():
    fast, slow, never = run([0.5, 0.9, 1.0]), run([0.1, 0.3, 1.0]), run([0.1, 0.2, 0.3])
    bad = run([0.5, 0.9, 1.0], identity=[0.5, 0.8, 0.8])
    found = [times.merit(one, 0.6, 30.0) for one in (fast, slow, never, bad)]
    assert (
        found[0] == pytest.approx(log(30 / 12.5))
        and found[2] == pytest.approx(-0.5)
        and found[3] == -0.5
    )
    assert found[0] > found[1] > found[2]


def test_the_agenda_runs_plain_first_then_pairs_in_phases(monkeypatch):
    arms = {PLAIN: ARMS[PLAIN], "segment": ARMS["segment"], "mix": ARMS["mix"]}
    assert jobs(ledger.agenda([], arms))[:3] == [
        (PLAIN, 2, SWEEP_SEED),
        (PLAIN, 3, SWEEP_SEED),
        (PLAIN, 1, SWEEP_SEED),
    ]
    runs = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4}) + swept("segment", {1: 0.3, 2: 0.5, 3: 0.4})
    runs += swept("mix", {1: 0.3, 2: 0.5, 3: 0.4}) + [
        run([0.1, 0.2, 0.5], arm=PLAIN, seed=s) for s in range(6)
    ]
    # the second best rate
    runs += [run([0.1, 0.2, 0.4], arm=PLAIN, rate=RATES[3], seed=s) for s in range(3)]
    named = jobs(ledger.agenda(runs, arms))
    assert named[:6] == [(arm, 2, seed) for arm in ("segment", "mix") for seed in range(3)]
    assert named[6:10] == [(arm, 2, seed) for arm in ("segment", "mix") for seed in range(3, 5)]
    assert named[10:12] == [(arm, 2, 5) for arm in ("segment", "mix")]
    # segment's first pairs come before the next arm's sweep
    fresh = [one for one in runs if one["arm"] != "mix"]
    assert jobs(ledger.agenda(fresh, arms))[:4] == [*named[:3], ("mix", 2, SWEEP_SEED)]
    assert named[12:] == [(arm, 2, seed) for arm in (PLAIN, "segment") for seed in range(6, 10)]
    # the best are then added
    assert ledger.best([*runs, run([0.1, 0.2, 0.5], arm="mix")], ["mix", "whole"]) == ["mix"]
    done = runs + [run([0.1, 0.2, 0.5], arm="segment", seed=0)]
    assert jobs(ledger.agenda(done, arms)) == [job for job in named if job != ("segment", 2, 0)]
    early = runs[:3] + runs[-9:-6] + runs[-3:]  # plain has three pairs, the others have no sweep
    monkeypatch.setattr(ledger, "BLOCK", 7)
    many = {name: ARMS[name] for name in [PLAIN, "segment", "mix", *list(ARMS)[-7:]]}
    named = jobs(ledger.agenda(early, many))
    assert named[:6] == [(arm, i, SWEEP_SEED) for arm in ("segment", "mix") for i in (2, 3, 1)]
    assert named[21:24] == [(PLAIN, 2, seed) for seed in (3, 4, 5)]  # before the next block
    assert {arm for arm, _, _ in named[24:30]} == set(list(ARMS)[-2:])


def test_a_rate_that_was_chosen_stays():
    runs = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4}) + swept("x", {1: 0.3, 2: 0.5, 3: 0.4})
    begun = [*runs, run([0.1, 0.2, 0.3], arm="x", rate=RATES[3])]
    assert ledger.chosen(runs, "x") == RATES[2] and ledger.chosen(begun, "x") == RATES[3]
    assert ledger.sweep(swept(PLAIN, {2: 0.5}) + begun[-1:], "x") == []


def test_a_rate_at_which_a_guard_fails_in_three_final_runs_gives_way_to_the_next_best():
    runs = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4}) + swept("x", {1: 0.3, 2: 0.4, 3: 0.5})
    low = {"identity": [0.5, 0.5, 0.5]}
    two = [
        *runs,
        *(run([0.1, 0.2, 0.3], arm="x", rate=RATES[3], seed=seed, **low) for seed in range(2)),
    ]
    assert ledger.chosen(two, "x") == RATES[3]
    three = [*two, run([0.1, 0.2, 0.3], arm="x", rate=RATES[3], seed=2, **low)]
    assert ledger.chosen(three, "x") == RATES[2]
    assert jobs(ledger.finals(three, "x", range(2))) == [("x", 2, 0), ("x", 2, 1)]
    other = [*three, run([0.1, 0.2, 0.3], arm="x", rate=RATES[2])]
    assert ledger.chosen(other, "x") == RATES[2]
    held = [*two, run([0.1, 0.2, 0.3], arm="x", rate=RATES[3], seed=2)]
    assert ledger.chosen(held, "x") == RATES[3]


def test_plain_runs_at_its_best_two_rates_and_the_better_one_counts():
    runs = swept(PLAIN, {1: 0.4, 2: 0.5, 3: 0.1})
    assert jobs(ledger.twice(runs)) == [(PLAIN, i, seed) for i in (2, 1) for seed in range(3)]
    ends = [
        (rate, gain, seed) for rate, gain in ((RATES[1], 0.4), (RATES[2], 0.3)) for seed in range(3)
    ]
    both = [run([0.0, 0.1, gain], arm=PLAIN, rate=rate, seed=seed) for rate, gain, seed in ends]
    assert ledger.chosen(runs + both, PLAIN) == RATES[1] and ledger.twice(runs + both) == []
    assert ledger.target(runs + both) == pytest.approx(0.4)


def test_target_and_budget_are_those_of_plains_ends():
    sweep = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4})
    assert (ledger.target(sweep), ledger.budget(sweep)) == (pytest.approx(0.5), 30.0)
    ends = enumerate([(0.6, 30.0), (0.9, 36.0), (0.9, 33.0)])
    finals = [run([0.1, 0.2, gain], (10.0, 20.0, cpu), PLAIN, seed=i) for i, (gain, cpu) in ends]
    assert (ledger.target(sweep + finals), ledger.budget(sweep + finals)) == (
        pytest.approx(0.8),
        33.0,
    )
    assert ledger.budget([]) == ledger.target([]) == float("inf")


def test_only_plain_is_run_while_there_is_no_budget():
    arms = {PLAIN: ARMS[PLAIN], "segment": ARMS["segment"]}
    assert {job.arm for job in study.waiting([], arms, False)} == {PLAIN}
    runs = swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4})
    assert {job.arm for job in study.waiting(runs, arms, False)} == set(arms)
    assert {job.seed for job in study.waiting(runs, arms, True)} == {SWEEP_SEED}


def test_plain_and_other_arms_are_run_side_by_side():
    jobs_ = [ledger.Job(PLAIN, 1.0, 0), ledger.Job(PLAIN, 1.0, 1), ledger.Job("x", 1.0, 0)]
    assert study.next_of(jobs_, set()) == jobs_[0] and study.next_of(jobs_[1:], {PLAIN}) == jobs_[2]
    assert (
        study.next_of(jobs_[1:2], {PLAIN}) == jobs_[1]
        and study.next_of(jobs_[1:], {"x"}) == jobs_[1]
    )


# A run


def test_calls_are_rows_with_and_without_gradient():
    calls = Calls()
    predict = calls.wrap(lambda x, t: x + t)
    predict(torch.zeros(3, 2), 1.0)
    with torch.no_grad():
        assert predict(torch.zeros(5, 2), t=1.0).shape == (5, 2)
    assert (calls.graded, calls.free) == (3, 5)


def watch(target, budget, gains_seen, cpu):
    one = Watch(None, 1, target, budget, 10**6, Path(), GUARDS)
    one.start, one.cpu = BASE, cpu
    one.rows = [BASE | {"composite": -2.0 + gain} for gain in gains_seen]
    return one


def test_a_run_ends_at_the_target_with_its_guards_held_or_at_the_budget():
    watch(0.5, 100.0, [0.2, 0.4], 50.0)._end(False)
    watch(0.5, 100.0, [0.2, 0.6], 24.0)._end(False)  # a quarter of the budget is used in any case
    arrived, late = watch(0.5, 100.0, [0.6], 50.0), watch(0.5, 100.0, [0.4], 100.0)
    for one, over, why in ((arrived, False, "target"), (late, True, "budget")):
        with pytest.raises(Finished):
            one._end(over)
        assert one.ended == why
    broken = watch(0.5, 100.0, [0.6], 50.0)
    broken.rows[0]["identity"] = 0.5
    broken._end(False)
    assert broken.ended == ""


def test_arms_of_todays_algorithms_have_options_that_exist():
    assert [name for name, arm in ARMS.items() if arm.algorithm == "grpo" and missing(arm)] == []


# The page


def test_page_and_plot_of_a_small_ledger(tmp_path):
    book = tmp_path / "ledger.jsonl"
    for one in swept(PLAIN, {1: 0.3, 2: 0.5, 3: 0.4}) + swept("segment", {1: 0.3, 2: 0.5, 3: 0.4}):
        ledger.add(book, one)
    for seed in range(6):
        ledger.add(book, run([0.1, 0.2, 0.5 + 0.01 * seed], arm=PLAIN, seed=seed))
        ledger.add(book, run([0.6 + 0.02 * seed, 0.9, 1.0], arm="segment", seed=seed))
    pages.write(book, tmp_path / "page.md", say=lambda text: None)
    text = (tmp_path / "page.md").read_text()
    assert "composite +0.525 above" in text and "| segment | 0.003 | 6 of 6 | none |" in text
    assert "python benchmarks/studies/time_to_reward.py run" in text
    assert ET.fromstring((tmp_path / "page.svg").read_text()).tag.endswith("svg")
    assert (tmp_path / "page.jsonl").read_text() == book.read_text()
