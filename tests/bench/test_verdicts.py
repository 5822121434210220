"""One rule of what is beyond doubt, for any number of sets, in the terminal, on the page
and in the tables."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from tests.bench._results import dim, made
from vidrl.bench import results, suite, verdicts
from vidrl.bench.compare import compare_all
from vidrl.bench.page import facts, head, page
from vidrl.bench.preregistration import Preregistration
from vidrl.bench.table import table


def three(shifts=(("base", 0.0), ("mid", 0.5), ("top", 1.5)), n=60):
    rng = np.random.default_rng(0)
    quality = rng.normal(size=n)
    return [
        {
            "name": name,
            "source": name,
            "model": None,
            "skipped": [],
            "clips": [
                {
                    "path": f"{name}/{i}.mp4",
                    "id": "",
                    "prompt": f"p{i}",
                    "seed": 0,
                    "fps": 8.0,
                    "size": [8, 8],
                    "frames": 5,
                    "value": {"d": float(quality[i] + shift + 0.3 * rng.normal())},
                    "curve": {},
                    "why": {},
                }
                for i in range(n)
            ],
        }
        for name, shift in shifts
    ]


def finished(sets, least=20):
    found = {**made(), "sets": sets, "dims": [dim("d", range=[None, None])]}
    found["suite"]["least"] = least
    return results.with_statistics(found)


def test_bold_does_not_depend_on_the_order_of_the_folders():
    for order in itertools.permutations(three()):
        found = finished(list(order))
        assert facts.best_set(found, "d") == "top"
        assert verdicts.group_letters(found, "d") == {"top": "a", "mid": "b", "base": "c"}
        assert len(found["comparisons"]) == 3
        assert "<b>top</b> is better than <b>base</b>" in "".join(head._findings(found)) or (
            "<b>base</b> is worse than <b>top</b>" in "".join(head._findings(found))
        )


def test_sets_that_are_not_told_apart_share_a_letter():
    found = finished(three((("a", 0.0), ("b", 0.08), ("c", 0.3))))
    known = {
        frozenset((row["first"], row["second"]))
        for row in found["comparisons"]
        if verdicts.verdict(found, row)
    }
    said = verdicts.group_letters(found, "d")
    for one, two in itertools.combinations("abc", 2):
        assert bool(set(said[one]) & set(said[two])) == (frozenset((one, two)) not in known)
    assert 0 < len(known) < 3  # some are told apart, and not all


def test_all_pairs_of_sets_and_dims_are_one_family():
    rng = np.random.default_rng(0)
    sets = [
        {
            "name": name,
            "clips": [
                {
                    "path": f"{i}",
                    "prompt": f"{i}",
                    "seed": 0,
                    "value": {d: rng.normal() for d in "xy"},
                }
                for i in range(12)
            ],
        }
        for name in "abcd"
    ]
    rows = compare_all(sets, "xy")
    p = sorted(row["p"] for row in rows)
    assert len(rows) == 12
    assert sorted(r["p_holm"] for r in rows) == pytest.approx(
        np.minimum(1, np.maximum.accumulate([(12 - i) * q for i, q in enumerate(p)]))
    )


def test_a_page_of_ten_sets_names_the_best_and_closes_its_tables():
    found = finished(three([(f"set {i}", 0.2 * i) for i in range(10)], n=25))
    text = page(found, Path("report.html"), {})
    assert text.count("<summary>set") == 45 and "45 pairs of sets" in text
    assert text.split('class="findings"')[1].split("</ul>")[0].count("<li>") == 1
    assert len(table(found).splitlines()[2]) < 400 and "{a}" in table(found)


def seven_of_forty(n=7):
    """Sets of forty clips, of which seven have a partner; the second is better by ten times
    the spread on each."""
    asked, rng = suite.load("temporal"), np.random.default_rng(0)
    names = [one.name for one in asked.dims]
    value = {
        "a": lambda i: -1 - 0.01 * (i % 5),
        "b": lambda i: -0.9 - 0.01 * (i % 5) - 0.001 * rng.normal(),
    }
    sets = [
        {
            "name": name,
            "source": name,
            "model": None,
            "skipped": [],
            "clips": [
                {
                    "path": f"{name}/{i}.mp4",
                    "id": f"{name}{i}",
                    "prompt": f"p{i}",
                    "seed": 0,
                    "fps": 8.0,
                    "frames": 17,
                    "size": [64, 64],
                    "reader": "decord",
                    "meta": {},
                    "value": {one: value[name](i) for one in names},
                    "why": {},
                    "curve": {},
                }
                for i in range(at, at + 40)
            ],
        }
        for name, at in (("a", 0), ("b", 40 - n))
    ]
    return results.assemble(sets, asked)


def test_few_pairs_of_many_clips_are_nowhere_beyond_doubt():
    found = seven_of_forty()
    assert all(row["clips"] == [7, 7] and not row["enough"] for row in found["comparisons"])
    assert not any(verdicts.significant_side(found, row) for row in found["comparisons"])
    assert "*" not in table(found).split("note:")[0]
    assert "no difference is beyond doubt on any of 12" in head._finding(
        found, "a", "b", found["comparisons"]
    )
    assert (
        "between a and b no difference is claimed on any dim, because it rests on 7 clips"
        in table(found)
    )


def test_terminal_page_and_tables_say_the_same_of_every_row():
    found = seven_of_forty(30)
    marks = [line.split()[0] for line in table(found).splitlines() if line.rstrip().endswith(" *")]
    claimed = [row["dim"] for row in found["comparisons"] if verdicts.verdict(found, row)]
    assert marks == claimed and len(claimed) > 6
    text = page(found, Path("report.html"), {})
    assert text.count('class="versus up"') == len(claimed)


def prompts(G, dims, primary=None):
    """Two sets of 25 clips of each of G prompts that differ by ten times the spread on
    every dim."""
    rng, names = np.random.default_rng(0), [f"d{i}" for i in range(dims)]
    sets = [
        {
            "name": name,
            "source": name,
            "model": None,
            "skipped": [],
            "clips": [
                {
                    "path": f"{name}/{p}_{s}.mp4",
                    "id": "",
                    "prompt": f"p{p}",
                    "seed": s,
                    "fps": 8.0,
                    "size": [8, 8],
                    "frames": 5,
                    "value": {d: float(rng.normal() + rise) for d in names},
                    "curve": {},
                    "why": {},
                }
                for p in range(G)
                for s in range(25)
            ],
        }
        for name, rise in (("a", 0.0), ("b", 10.0))
    ]
    found = {
        **made(),
        "sets": sets,
        "dims": [dim(d, range=[None, None], hash="0000") for d in names],
    }
    return results.with_statistics(found, Preregistration(primary))


def test_too_few_prompts_for_the_family_are_said_with_the_number_that_it_takes():
    few, one_first, more = prompts(8, 12), prompts(8, 12, "d3"), prompts(12, 12)
    assert not any(verdicts.verdict(few, row) for row in few["comparisons"])
    assert (
        "nothing can be beyond doubt, however large: 8 prompts are too few for 12 comparisons, "
        "which take 12, or "
        "one dim named beforehand with --primary"
    ) in table(few)
    assert verdicts.verdict(one_first, one_first["comparisons"][3]) == 1
    assert "nothing can be beyond doubt" not in table(one_first)
    assert all(verdicts.verdict(more, row) == 1 for row in more["comparisons"])
    assert "nothing can be beyond doubt" not in table(more)


def test_the_least_difference_that_is_found_is_said_and_is_found():
    """Of 40 prompts and one dim, 80 % power: the noncentral t distribution, as an
    independent reference."""
    from scipy import stats

    from vidrl.bench.sample_size import detectable_difference, prompts_needed
    from vidrl.inference.confidence import p_before_inflation

    least, df = detectable_difference(1.0, 40, 1), 39
    reach = stats.t.ppf(1 - p_before_inflation(0.05, 40) / 2, df)
    power = (
        1 - stats.nct.cdf(reach, df, least * 40**0.5) + stats.nct.cdf(-reach, df, least * 40**0.5)
    )
    assert (
        0.8 <= power < 0.85
        and prompts_needed(1.0, least, 1) == 40
        and detectable_difference(1.0, 8, 12) is None
    )
    said = table(finished(three((("a", 0.0), ("b", 0.02)))))
    assert "between a and b 60 prompts find, in 80 % of cases, differences from: d " in said
