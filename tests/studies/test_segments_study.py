"""The training study: its statistics on numbers done by hand, its machinery on runs of a
moment."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import product
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from vidrl import config
from vidrl.synthetic import world
from vidrl.training import checkpoint, evaluate

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


study = script("benchmarks/studies/segments.py")
paired = study.paired


def timed(times, events):
    return np.array(times, float), np.array(events, bool)


# Curves


def test_first_crossing():
    x, y = np.array([0, 100, 200, 300]), np.array([0.0, 0.4, 0.2, 1.0])
    assert paired.first_crossing(x, y, 0.1) == (25.0, True)
    assert paired.first_crossing(x, y, 0.3) == (75.0, True)  # first, though the curve falls again
    assert paired.first_crossing(x, y, 0.6) == (250.0, True)
    assert paired.first_crossing(x, y, 1.1) == (300.0, False)
    assert paired.first_crossing(x, y, nan) == (300.0, False)


def test_a_broken_guard_does_not_count_as_reached():
    x, y = np.array([0, 100, 200]), np.array([0.0, 1.0, 1.2])
    assert paired.first_crossing(x, y, 0.5, np.array([True, False, True])) == (200.0, True)
    assert paired.first_crossing(x, y, 0.5, np.array([True, False, False])) == (200.0, False)


def test_mean_height_is_the_area_by_the_width():
    assert paired.mean_height(np.array([0, 2, 6]), np.array([0.0, 1.0, 3.0])) == pytest.approx(
        (1 + 8) / 6
    )


# Censored times


def test_restricted_mean_by_hand():
    """S is 1 to 2, 3/4 to 5 (3 is censored), 3/8 to 8 (two were at risk at 5), and stays:
    to 10."""
    time_, event = timed([2, 3, 5, 8], [1, 0, 1, 0])
    assert paired.restricted_mean(time_, event, 10) == pytest.approx(2 + 0.75 * 3 + 0.375 * 5)
    assert paired.restricted_mean(time_, event, 4) == pytest.approx(2 + 0.75 * 2)


def test_restricted_mean_takes_an_event_before_what_is_censored_at_once_and_ties_together():
    time_, event = timed([4, 4, 4, 9], [0, 1, 1, 1])
    assert paired.restricted_mean(time_, event, 10) == pytest.approx(4 + 0.5 * 5)


def test_restricted_mean_of_runs_censored_at_the_horizon_is_the_mean():
    time_, event = timed([3, 7, 10, 10], [1, 1, 0, 0])
    assert paired.restricted_mean(time_, event, 10) == pytest.approx(7.5)
    rows = np.random.default_rng(0).integers(0, 4, (50, 4))
    assert np.allclose(paired.restricted_mean(time_[rows], event[rows], 10), time_[rows].mean(1))


def test_restricted_mean_is_scipys_survival_curve():
    rng = np.random.default_rng(1)
    time_, event = rng.integers(1, 30, 25).astype(float), rng.random(25) < 0.6
    curve = stats.ecdf(stats.CensoredData.right_censored(time_, ~event)).sf
    grid = np.linspace(0, 30, 300_001)
    assert paired.restricted_mean(time_, event, 30.0) == pytest.approx(
        curve.evaluate(grid).mean() * 30, abs=1e-3
    )


def test_median_time_by_hand():
    assert paired.median_time(*timed([5, 1, 3, 9], [1, 1, 1, 0])) == 3
    # two at risk: S falls to 1/2
    assert paired.median_time(*timed([5, 1, 3, 9], [1, 0, 0, 0])) == 5
    assert paired.median_time(*timed([1, 9, 9, 9], [1, 0, 0, 0])) == inf


def test_logrank_scores_by_hand_and_their_sum():
    """Hazards: 1/4 at 1; 1/3 more at 2; nothing at 3; all at 4."""
    scores = paired.logrank_scores(*timed([1, 2, 3, 4], [1, 1, 0, 1]))
    assert np.allclose(scores, [1 - 1 / 4, 1 - 7 / 12, -7 / 12, 1 - 19 / 12])
    tied = paired.logrank_scores(*timed([2, 2, 5, 5, 5], [1, 1, 1, 0, 0]))
    assert tied.sum() == pytest.approx(0)


# Pairs


def test_sign_flips_by_hand():
    assert paired.sign_flip_p([1, 2, 3]) == 2 / 8
    assert paired.sign_flip_p([1, 1, 1, 1, 1, 1]) == 2 / 64
    assert paired.sign_flip_p([0, 0, 0]) == 1.0
    assert paired.sign_flip_p([3, -1, 2]) == 4 / 8  # ±(3, 1, 2), ±(3, −1, 2)


def test_many_sign_flips_are_scipys():
    d = np.random.default_rng(0).normal(0.4, 1, 20)
    theirs = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert paired.sign_flip_p(d) == pytest.approx(theirs.pvalue, abs=0.01)


def test_the_paired_test_is_exact_and_leaves_doubly_censored_pairs_out():
    whole = timed([50, 60, 70, 80, 90, 99], [1] * 6)
    arm = timed([20, 21, 22, 23, 24, 25], [1] * 6)
    assert paired.paired_time_p([whole], [arm]) == 2 / 64
    assert paired.paired_time_p([whole, whole], [arm, arm]) == 2 / 4096
    both_cut = timed([99] * 6, [0] * 6)
    assert paired.paired_time_p([both_cut], [both_cut]) == 1.0
    half = timed([10, 10, 10, 99, 99, 99], [1, 1, 1, 0, 0, 0])
    assert paired.paired_time_p([both_cut], [half]) == 2 / 8  # three pairs say something
    assert paired.paired_time_p([half], [both_cut]) == 2 / 8


def test_wins_with_censoring():
    whole = timed([50, 60, 99, 99, 40], [1, 1, 0, 0, 1])
    arm = timed([40, 99, 99, 98, 40], [1, 0, 0, 1, 1])
    assert paired.wins(whole, arm) == (2, 1, 2)


def test_holm_by_hand():
    assert paired.holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert paired.holm([0.5, 0.01]) == pytest.approx([0.5, 0.02])
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0] and paired.holm([]) == []


# Intervals


@pytest.mark.parametrize("df", [2, 4, 5, 9, 30])
def test_t_quantile_is_scipys(df):
    assert paired.t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), abs=2e-3)


def test_expanded_percentiles_are_hesterbergs():
    low, high = paired.expanded_levels(6)
    assert low == pytest.approx(stats.norm.cdf(-np.sqrt(6 / 5) * stats.t.ppf(0.975, 5)), abs=1e-5)
    assert high == pytest.approx(1 - low)


def test_mean_difference_is_paired():
    whole = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    found = paired.mean_difference(whole, whole + [1, 2, 3, 1.5, 2.5, 2])
    assert found.value == 2 and found.low < 1.4 and found.high > 2.6
    wide = paired.mean_difference(whole, whole[::-1])
    assert wide.value == 0 and wide.low < -15 and wide.high > 15
    # five pairs have no interval
    assert np.isnan(paired.mean_difference(whole[:5], whole[:5] + 1).low)
    assert paired.mean_difference(whole[:1], whole[:1] + 2)[0] == 2
    assert np.isnan(paired.mean_difference(whole[:1], whole[:1]).low)


def test_time_ratio():
    arm = timed([10, 20, 30, 40, 40, 40], [1] * 6)
    whole = timed([20, 40, 60, 80, 80, 80], [1] * 6)
    assert paired.time_ratio(whole, whole, 100) == pytest.approx((1, 1, 1))
    assert paired.time_ratio(whole, arm, 100) == pytest.approx((2, 2, 2))
    # cut: nearer to 1
    assert paired.time_ratio(whole, arm, 50).value == pytest.approx((20 + 40 + 4 * 50) / 180)
    both = paired.pooled_ratio([((whole, arm), 100), ((arm, whole), 100)])
    assert both == pytest.approx((1, 1, 1))


def trial(rng, n, horizon):
    """Two arms alike, pairs sharing something of their seed."""
    seed = rng.normal(0, 0.2, n)
    times = 300 * np.exp(seed + rng.normal(0, 0.3, (2, n)))
    return [(np.minimum(t, horizon), t <= horizon) for t in times]


@pytest.mark.parametrize("n, horizon", [(6, 480.0), (10, 350.0)])
def test_where_nothing_differs_the_interval_covers_one_and_the_test_is_calm(n, horizon):
    rng, covered, called, trials = np.random.default_rng(n), 0, 0, 400
    for _ in range(trials):
        whole, arm = trial(rng, n, horizon)
        found = paired.time_ratio(whole, arm, horizon, draws=1000)
        covered += found.low <= 1 <= found.high
        called += paired.paired_time_p([whole], [arm]) <= 0.05
    assert 0.915 <= covered / trials <= 0.985  # 95 % within three standard errors
    assert called / trials <= 0.085


# Jobs


@pytest.fixture
def o(tmp_path):
    return study.Options(tmp_path / "out", ("whole", "segment"), ("everywhere",), seeds=2)


def test_pairs_differ_in_the_arm_alone(o):
    jobs = study.run_jobs(o, {"whole": 0.001, "segment": 0.002})
    assert [(job.seed, job.arm) for job in jobs] == list(product((0, 1), ("whole", "segment")))
    a, b = (set(job.overrides) for job in jobs[:2])
    assert a ^ b == set(study.ARMS["whole"]) ^ set(study.ARMS["segment"]) ^ {
        "train.learning_rate=0.001",
        "train.learning_rate=0.002",
    }


def test_each_arm_is_swept_alike(o):
    jobs = study.sweep_jobs(o)
    budget = {
        arm: sorted((j.value, j.kind, j.seed) for j in jobs if j.arm == arm) for arm in o.arms
    }
    assert budget["whole"] == budget["segment"] and len(budget["whole"]) == 2 * len(study.VALUES)
    both = study.sweep_jobs(study.Options(o.out, o.arms))
    assert {(job.seed, job.kind) for job in both} == {(100, "everywhere"), (101, "local")}
    assert not {job.seed for job in jobs} & set(range(study.SEEDS))


def test_an_edited_arm_has_a_folder_of_its_own(o, monkeypatch):
    before = {job.folder for job in study.sweep_jobs(o)}
    monkeypatch.setitem(
        study.ARMS, "segment", (*study.ARMS["segment"], "algorithm.options.eta=0.6")
    )
    after = {job.folder for job in study.sweep_jobs(o)}
    assert len(before) == len(after) == 12 and len(before & after) == 6


def test_every_arm_is_a_recipe(o):
    study.check(
        study.run_jobs(
            study.Options(o.out, tuple(study.ARMS), ("everywhere",), 1),
            dict.fromkeys(study.ARMS, 1e-3),
        )
    )


def test_bad_arms_are_refused_before_any_run(o, monkeypatch):
    monkeypatch.setitem(study.ARMS, "segment", ("algorithm.options.segmints=5",))
    with pytest.raises(Exception, match="segments"):
        study.check(study.sweep_jobs(o))
    monkeypatch.setitem(study.ARMS, "segment", ())
    monkeypatch.setitem(study.KINDS, "everywhere", "runs/nothing-here")
    with pytest.raises(SystemExit, match="local_faults"):
        study.check(study.sweep_jobs(o))


def test_the_manifest_keeps_the_newest_of_each_run(o):
    study.note(o.out, study.run_jobs(o, {"whole": 0.001, "segment": 0.001}))
    study.note(o.out, study.run_jobs(o, {"whole": 0.001, "segment": 0.002})[:2])
    rows = json.loads((o.out / "manifest.json").read_text())
    assert sorted((r["arm"], r["seed"], r["value"]) for r in rows) == [
        ("segment", 0, 0.002),
        ("segment", 1, 0.001),
        ("whole", 0, 0.001),
        ("whole", 1, 0.001),
    ]
    assert rows[0]["overrides"][0] == study.COMMON[0]


# Running


@dataclass(frozen=True)
class Fake(study.Job):
    """A job whose work is a line of Python in its folder's parent."""

    code: str = ""

    @property
    def mark(self):
        return self.folder.with_name(f"{self.folder.name}.done")

    def command(self):
        if self.mark.exists():
            return None
        return [
            sys.executable,
            "-c",
            f"from pathlib import Path; mark = Path({str(self.mark)!r}); {self.code}",
        ]


def fakes(out, code, seeds=3, arm="whole"):
    return [Fake("run", "everywhere", arm, seed, (), out, code=code) for seed in range(seeds)]


def test_work_does_what_is_left_and_counts_its_cost(tmp_path):
    jobs = fakes(tmp_path, "sum(range(3_000_000)); mark.touch()")
    jobs[0].folder.parent.mkdir(parents=True)
    jobs[0].mark.touch()
    assert study.work(jobs, 2) == []
    assert all(job.mark.exists() for job in jobs)
    cost = json.loads(jobs[1].folder.with_name("seed-1.cost.json").read_text())
    assert cost["cpu"] > 0 and cost["wall"] > 0
    assert not jobs[0].folder.with_name("seed-0.cost.json").exists()
    assert study.work(jobs, 2) == []


def test_a_failed_arm_is_told_and_not_tried_again_but_others_go_on(tmp_path):
    bad = fakes(
        tmp_path,
        "Path(mark.parent / 'tries').open('a').write('x'); raise RuntimeError('no such thing')",
    )
    good = fakes(tmp_path, "mark.touch()", arm="segment")
    failed = study.work([*bad, *good], 1)
    assert len(failed) == 1 and "no such thing" in failed[0]
    assert (bad[0].folder.parent / "tries").read_text() == "x"
    assert all(job.mark.exists() for job in good)


def test_one_that_ends_well_but_is_not_done_is_a_failure(tmp_path):
    assert len(study.work(fakes(tmp_path, "pass", seeds=1), 1)) == 1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_study_lets_its_runs_leave(tmp_path, sent):
    """The children get SIGTERM and have time to save; nothing stays behind."""
    lines = [
        "import signal, sys, time",
        "signal.signal(signal.SIGTERM, lambda *a: (mark.with_suffix('.saved').touch(), "
        "sys.exit(0)))",
        "mark.with_suffix('.ready').touch()",
        "time.sleep(60)",
    ]
    code = f"exec({chr(10).join(lines)!r})"
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'studies')!r})\n"
        f"import test_segments_study as t\nfrom pathlib import Path\n"
        f"t.study.work(t.fakes(Path({str(tmp_path)!r}), {code!r}, 2), 2)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, cwd=ROOT)
    ready = [job.mark.with_suffix(".ready") for job in fakes(tmp_path, "", 2)]
    deadline = time.time() + 120
    while (
        not all(path.exists() for path in ready) and time.time() < deadline and child.poll() is None
    ):
        time.sleep(0.1)
    child.send_signal(sent)
    _, words = child.communicate(timeout=60)
    assert child.returncode and b"the same command goes on" in words
    assert all(path.with_suffix(".saved").exists() for path in ready)


# Reading and the report


def fake_run(job, rise, n=12, rounds=20, every=5, motion=0.0):
    """A finished run's folder whose composite rises by `rise` at each evaluation."""
    folder = job.folder
    (folder / "evals").mkdir(parents=True)
    recipe = config.load(
        ROOT / study.RECIPE, [w for w in job.all_overrides() if "credit=" not in w]
    )
    (folder / "config.toml").write_text(recipe.to_toml())
    rng = np.random.default_rng(0)
    base = {
        "composite": rng.normal(-3, 1, n),
        "dynamic_degree": rng.uniform(0.7, 1, n),
        "verifier": np.ones(n),
        "identity": np.full(n, 0.8),
    }
    for k, round_ in enumerate(range(0, rounds + 1, every)):
        now = base | {
            "composite": base["composite"] + rise[k],
            "dynamic_degree": base["dynamic_degree"] - motion * k,
        }
        evaluate.save(folder / "evals", round_, now)
        checkpoint.append(
            folder / "evals.jsonl", {"round": round_, "n": n, "measures": evaluate.means(now)}
        )
    for round_ in range(1, rounds + 1):
        seconds = {"sample": 1.0, "decode": 0.5, "reward": 0.5, "update": 2.0}
        row = {"round": round_, "reward": {"mean": float(rise[-1])}, "seconds": seconds}
        checkpoint.append(folder / "metrics.jsonl", row)
    (folder / "summary.json").write_text(json.dumps({"status": "finished"}))
    folder.with_name(f"{folder.name}.cost.json").write_text(
        json.dumps({"cpu": 50.0, "wall": 100.0})
    )


SLOW, FAST = (0, 0.25, 0.5, 0.75, 1.0), (0, 0.5, 1.0, 1.0, 1.0)


def filled(o, slow=SLOW, fast=FAST, **more):
    jobs = study.run_jobs(o, dict.fromkeys(o.arms, 0.003))
    study.note(o.out, jobs)
    for job in jobs:
        rise = np.array(slow if job.arm == "whole" else fast) * (1 + 0.1 * job.seed)
        fake_run(job, rise, **(more if job.arm != "whole" else {}))
    return jobs


def test_a_run_read(o):
    jobs = filled(o)
    curve = study.read(jobs[0].folder, 0)
    clips = 48 * np.arange(0, 21, 5)  # 6 prompts of 8
    assert (curve.x["clips"] == clips).all() and np.allclose(curve.gain, SLOW)
    # 10 steps; 4 in the update, forward and backward
    assert (curve.x["calls"] == clips * (10 + 3 * 4)).all()
    # half of the wall clock was theirs
    assert np.allclose(curve.x["cpu"], 4.0 * np.arange(0, 21, 5) * 0.5)
    assert curve.held.all() and not curve.outside.any() and curve.reward == 1.0


def test_a_broken_guard_is_seen_and_the_target_not_reached(o):
    jobs = filled(o, motion=0.1)
    curve = study.read(jobs[1].folder, 0)
    assert curve.held.tolist() == [True, False, False, False, False] and curve.outside[1:].all()
    row = study.compare(study.finished(o.out)["everywhere"], "segment", "whole")
    assert row.reached == 0 and row.censored.all()


def test_comparison_by_hand(o):
    """The target is 0.8 × 1.05. Seed 0: whole at 0.84 of 960 clips, the arm at 0.42 of 960;
    seed 1 at 10/11 of it."""
    filled(o)
    runs = study.finished(o.out)["everywhere"]
    row = study.compare(runs, "segment", "whole")
    assert study.target_of(runs["whole"]) == pytest.approx(0.84)
    whole = np.array([0.84, 0.84 / 1.1]) * 960
    assert np.allclose(row.pair[0][0], whole) and np.allclose(row.pair[1][0], whole / 2)
    assert row.ratio["clips"].value == pytest.approx(2) and np.allclose(row.each, 2)
    assert np.isnan(row.ratio["clips"].low)  # two pairs have no interval
    assert row.final.value == pytest.approx(0) and row.height.value == pytest.approx(
        1.05 * (0.75 - 0.5)
    )
    assert row.p == 0.5 and row.reached == 2 and not row.censored.any()


def test_without_a_gain_there_is_no_target(o):
    filled(o, slow=(0, -0.1, -0.1, -0.2, -0.2))
    runs = study.finished(o.out)["everywhere"]
    assert np.isnan(study.target_of(runs["whole"]))
    row = study.compare(runs, "segment", "whole")
    assert row.ratio["clips"].value == 1 and row.p == 1 and row.reached == 0
    study.do_report(o, o.out / "page.md")  # is still written
    ET.fromstring((o.out / "page.svg").read_text())


def test_the_report_of_two_kinds(o, capsys):
    o = study.Options(o.out, o.arms, ("everywhere", "local"), seeds=3)
    filled(o)
    study.do_report(o, o.out / "page.md")
    page = (o.out / "page.md").read_text()
    # three pairs have no interval
    assert page.count("| segment | 3 | 3 |") == 2 and "2.00 [nan, nan]" in page
    assert (
        "All kinds together" in page
        and "| segment | 6 | 2.00 [nan, nan] | 0.0312 | 0.0312 |" in page
    )
    assert "6 of 6" not in page and "12 of 12 runs are finished" in page
    drawing = ET.fromstring((o.out / "page.svg").read_text())
    named = {e.tag.split("}")[1] for e in drawing.iter()}
    assert {"polyline", "polygon", "circle"} <= named and "nan" not in (
        o.out / "page.svg"
    ).read_text()


def test_a_command_is_told_without_where_files_go():
    assert study._without_places(["--out", "/a", "--arms", "x", "--results", "/b"]) == [
        "--arms",
        "x",
    ]


def test_the_report_of_half_a_study(o):
    jobs = filled(o)
    assert study.read(jobs[0].folder, 0) is not None
    for job in jobs[2:]:
        (job.folder / "summary.json").unlink()
    study.do_report(o, o.out / "page.md")
    assert "2 of 4 runs are finished" in (o.out / "page.md").read_text()
    ET.fromstring((o.out / "page.svg").read_text())


def test_runs_of_different_lengths_are_not_compared(o):
    jobs = filled(o)
    config_ = jobs[0].folder / "config.toml"
    text = config_.read_text()
    assert f"rounds = {o.rounds}" in text
    config_.write_text(text.replace(f"rounds = {o.rounds}", "rounds = 10"))
    with pytest.raises(SystemExit, match="one length"):
        study.finished(o.out)


def test_the_sweep_chooses_the_highest_curve(o):
    jobs = study.sweep_jobs(o)
    study.note(o.out, jobs)
    best = {"whole": study.VALUES[1], "segment": study.VALUES[2]}
    for job in jobs:
        fake_run(job, np.array([0, 0.5, 1.0]) * (2 if job.value == best[job.arm] else 1), rounds=10)
    assert study.chosen(o.out, o.arms)[0] == best


# The local faults


@pytest.fixture(scope="module")
def local():
    return script("scripts/local_faults.py")


def test_a_local_fault_leaves_the_rest_of_the_clip_alone(local):
    import random

    pool, spans = world.scenes("train"), []
    for index in range(60):
        draw = random.Random(f"a test {index}")
        scene = draw.choice(pool)
        state = draw.getstate()
        clip, span = local.local_fault(scene, draw)
        draw.setstate(state)
        draw.random()
        clean = world.render(
            scene, local.tiny.SIZE, local.tiny.FRAMES, local.tiny.FPS, draw.randrange(2**31)
        ).video
        changed = (clip != clean).flatten(1).any(1)
        spans.append(span)
        if span is None:
            assert not changed.any()
        else:
            assert (
                not torch.cat([changed[: span[0]], changed[span[1] :]]).any()
                and 3 <= span[1] - span[0] <= 6
            )
    faulty = [span for span in spans if span]
    assert 0.5 < len(faulty) / 60 < 0.9 and len({span[0] for span in faulty}) > 5


def test_the_extent_of_bad_frames(local):
    bad = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 1]]).float()
    assert local._extent(bad).tolist() == [3, 1, 5]


# The whole


@pytest.mark.slow
def test_the_study_end_to_end(tmp_path):
    words = [
        "--arms",
        "whole,segment",
        "--kinds",
        "everywhere",
        "--seeds",
        "1",
        "--rounds",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--results",
        str(tmp_path / "page.md"),
        "--set",
        "data.held_out_n=4",
        "--set",
        "train.prompts_per_round=1",
        "--set",
        "train.group=2",
        "--set",
        "train.eval_every=1",
        "--set",
        "guard.bands={}",
    ]
    command = [sys.executable, str(ROOT / "benchmarks/studies/segments.py"), "run", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs are finished" in (tmp_path / "page.md").read_text()
    start = time.time()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and time.time() - start < 60
