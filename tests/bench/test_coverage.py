"""95 % intervals hold the truth 95 times in a hundred, by the simulation of
benchmarks/results/bench/bench_coverage.md."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

ROOT = Path(__file__).parents[2]


def script(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(ROOT / "benchmarks/studies"))  # a script finds what stands beside it
study = script("benchmarks/studies/bench_coverage.py")
TEN_BY_FOUR, TWENTY, HUNDRED, UNLIKE = (4,) * 10, (1,) * 20, (1,) * 100, tuple(range(1, 11))


def between(hits, runs, low=0.93, high=0.97):
    """Whether so many hits may come of a coverage between low and high, one time in a
    thousand wrongly not."""
    return (
        stats.binom.cdf(hits, runs, low) > 0.0005 and stats.binom.sf(hits - 1, runs, high) > 0.0005
    )


def hits(method, kind, sizes, runs, seed):
    sample = study.case(kind, sizes, runs, seed)
    low, high = method(sample)
    return int(((low <= sample.truth) & (sample.truth <= high)).sum())


@pytest.mark.parametrize("kind", ["normal", "skewed", "bounded"])
def test_intervals_hold_the_truth(kind):
    assert between(
        sum(hits(study.ours, kind, sizes, 300, seed=3) for sizes in (TEN_BY_FOUR, TWENTY)), 600
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [TEN_BY_FOUR, UNLIKE, TWENTY, HUNDRED], ids=["10 x 4", "10 x 1-10", "20", "100"]
)
@pytest.mark.parametrize("kind", study.USUAL)
def test_intervals_hold_the_truth_between_93_and_97_times_in_a_hundred(kind, sizes):
    assert 0.93 <= hits(study.ours, kind, sizes, 1500, seed=5) / 1500 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("kind", study.USUAL)
def test_intervals_of_unpaired_differences_do_as_well(kind):
    assert between(study.unpaired(kind, TWENTY, (2,) * 30, 2.0, 800) * 800, 800)


def test_clips_taken_for_independent_do_not_hold_the_truth():
    """The simulation can tell: what it must find wrong, it does."""
    assert hits(study.clips_alone, "normal", TEN_BY_FOUR, 500, seed=3) < 0.88 * 500


@pytest.mark.parametrize("kind", study.KINDS)
def test_the_truth_is_the_mean_of_the_simulated_clips(kind):
    truth, _ = integrate.quad(
        lambda z: study.KINDS[kind](z) * stats.norm.pdf(z), -10, 10, points=[1]
    )
    assert study.true_mean(kind) == pytest.approx(truth, abs=1e-6)


def test_simulated_clips_of_one_prompt_resemble_each_other():
    sample = study.case("normal", (2,) * 50, 200)
    first, second = sample.values[:, ::2].ravel(), sample.values[:, 1::2].ravel()
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(study.SHARED, abs=0.03)


def test_the_page_has_what_the_script_would_write():
    page = (
        (ROOT / "benchmarks/results/bench/bench_coverage.md")
        .read_text()
        .partition("## Values piled up")[0]
    )
    rows = re.findall(r"^\| (\w[\w ]*) \| (\d+ × [\w ]+) \| ([\d.]+) \|", page, re.M)
    assert len(rows) == len(study.KINDS) * len(study.SIZES)
    usual = [
        float(share)
        for kind, size, share in rows
        if kind in study.USUAL and int(size.split()[0]) >= 10
    ]
    assert min(usual) >= 93 and max(usual) <= 97


def test_the_page_says_that_no_single_test_of_equal_models_errs_more_than_one_time_in_twenty():
    page = (
        (ROOT / "benchmarks/results/bench/bench_coverage.md")
        .read_text()
        .partition("## Tests of equal models")[2]
    )
    single, families = page.split("## Families of dims")
    rows = re.findall(r"^\| .* \| ([\d.]+) \| [\d.]+, [\d.]+ \| [\d.]+ \|$", single, re.M)
    assert len(rows) == len(study.nulls.KINDS) * len(study.nulls.SIZES) + len(study.nulls.UNPAIRED)
    assert max(map(float, rows)) <= 5 + 3 * 0.5  # three standard errors of 2000 runs
    listed = re.findall(r"^\| (?:normal|(?:strongly )?skewed) \| \d+ \| \d+ \|", families, re.M)
    assert len(listed) == len(study.nulls.FAMILIES)


def test_the_page_says_that_values_piled_up_are_held():
    page = (
        (ROOT / "benchmarks/results/bench/bench_coverage.md")
        .read_text()
        .partition("## Values piled up")[2]
    )
    rows = re.findall(r"^\| .* \| \d+ × \d \| ([\d.]+) \| [\d.]+, [\d.]+ \| \d+ \|$", page, re.M)
    assert (
        len(rows) == len(study.PILES) * len(study.PILE_SIZES) + 1
        and min(map(float, rows)) >= 95 - 3 * 0.5
    )
