"""Two sets: which clips are paired, what their difference is, and how sure that is."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from vidrl.bench.compare import (
    compare,
    compare_all,
    compare_results,
    order_pairs,
    pairs,
    shared_dims,
)
from vidrl.inference.clusters import clusters
from vidrl.inference.exchange import exchange_p
from vidrl.inference.means import interval

KEYS = {
    "first",
    "second",
    "dim",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "wins",
    "ties",
    "losses",
    "effect",
    "n",
    "prompts",
    "paired_by",
    "notes",
    "win_rate",
    "win_low",
    "win_high",
    "clips",
    "groups",
    "enough",
    "pairing",
    "p_scored",
    "unscored",
    "worst",
    "all_low",
    "all_high",
    "margin",
    "within",
    "spread",
}


def clip(path, value, prompt="", seed=None):
    values = value if isinstance(value, dict) else {"flicker": value}
    return {"path": path, "prompt": prompt, "seed": seed, "value": values}


def made(name, rows):
    return {"name": name, "clips": [clip(f"{name}/{i}.mp4", *row) for i, row in enumerate(rows)]}


def seeded(name, G=6, m=2, rise=0.0, seed=0):
    values = np.random.default_rng(seed).normal(0, 1, (G, m))
    noise = np.random.default_rng(len(name) + seed).normal(rise, 0.3, (G, m))
    return made(
        name, [(values[g, s] + noise[g, s], f"prompt {g}", s) for g in range(G) for s in range(m)]
    )


# --- pairing


def test_prompt_and_seed_pair_whatever_the_order():
    a = made("a", [(1.0, "x", 0), (2.0, "x", 1), (3.0, "y", 0)])
    b = made("b", [(3.5, "y", 0), (2.25, "x", 1), (1.0, "x", 0)])
    found = pairs(a["clips"], b["clips"], "flicker")
    assert found.by == "prompt and seed" and found.notes == []
    gaps = {(p.prompt, p.before): p.difference for p in found.pairs}
    assert gaps == {("x", 1.0): 0.0, ("x", 2.0): 0.25, ("y", 3.0): 0.5}


def test_other_seeds_pair_by_the_means_of_a_prompt():
    a = made("a", [(1.0, "x", 0), (3.0, "x", 1), (5.0, "y", 0)])
    b = made("b", [(4.0, "x", 7), (9.0, "y", 7), (7.0, "y", 8)])
    found = pairs(a["clips"], b["clips"], "flicker")
    assert found.by == "prompt"
    assert [(p.prompt, p.before, p.after) for p in found.pairs] == [
        ("x", 2.0, 4.0),
        ("y", 5.0, 8.0),
    ]


def test_a_seed_that_would_lose_a_prompt_is_not_paired_by():
    a = made("a", [(1.0, "x", 0), (5.0, "y", 0)])
    b = made("b", [(4.0, "x", 0), (9.0, "y", 1)])
    assert pairs(a["clips"], b["clips"], "flicker").by == "prompt"


def test_without_prompts_names_pair_whatever_the_ending():
    a = [clip(f"runs/a/{name}.mp4", 1.0) for name in ("one", "two", "sub/one")]
    b = [clip(f"b/{name}.webm", 2.0) for name in ("sub/one", "one", "three")]
    found = pairs(a, b, "flicker", ("a", "b"))
    assert found.by == "file name"
    assert [(p.first[0]["path"], p.second[0]["path"]) for p in found.pairs] == [
        ("runs/a/one.mp4", "b/one.webm"),
        ("runs/a/sub/one.mp4", "b/sub/one.webm"),
    ]
    assert found.notes[0].startswith("paired by file name, because no clip has a prompt")
    assert found.notes[1:] == [
        "1 of 3 clips of a have no partner",
        "1 of 3 clips of b have no partner",
    ]


def test_names_in_other_folders_pair_where_they_are_unique():
    a, b = (
        [clip("a/one.mp4", 1.0), clip("a/two.mp4", 1.0)],
        [clip("b/x/one.mp4", 2.0), clip("b/y/two.mp4", 4.0)],
    )
    assert [p.difference for p in pairs(a, b, "flicker").pairs] == [1.0, 3.0]


def test_one_name_of_two_prompts_pairs_nothing():
    a, b = (
        made("a", [(1.0, "a cat"), (2.0, "a dog")]),
        made("b", [(1.0, "a bird"), (2.0, "a fish")]),
    )
    found = pairs(a["clips"], b["clips"], "flicker")
    assert (found.by, found.pairs) == ("nothing", []) and "unpaired" in found.notes[0]


def test_names_pair_where_only_one_set_has_prompts():
    a, b = made("a", [(1.0, "a cat"), (2.0, "a dog")]), made("b", [(1.5,), (2.0,)])
    found = pairs(a["clips"], b["clips"], "flicker")
    assert found.by == "file name" and [p.prompt for p in found.pairs] == ["a cat", "a dog"]


def test_what_is_unscored_is_left_out_and_counted():
    a = made("a", [(1.0, "x", 0), (None, "x", 1), (3.0, "y", 0), (4.0, "z", 0)])
    b = made("b", [(2.0, "x", 0), (2.0, "x", 1), (math.nan, "y", 0), (5.0, "z", 0), (1.0, "z", 9)])
    found = pairs(a["clips"], b["clips"], "flicker", ("a", "b"))
    assert [p.prompt for p in found.pairs] == ["x", "z"]
    assert found.notes == [
        "1 of 5 clips of b have no partner",
        "2 of 4 pairs are not scored on both sides",
    ]
    (row,) = compare(a, b, ["flicker"], least=2)
    assert (row["n"], row["difference"], row["unscored"]["counts"]) == (2, 1.0, [1, 1])


# --- numbers


def test_a_row_is_what_numbers_by_hand_say():
    a, b = seeded("a"), seeded("bb", rise=0.5)
    (row,) = compare(a, b, ["flicker"], least=12)
    gaps = np.array(
        [y["value"]["flicker"] - x["value"]["flicker"] for x, y in zip(a["clips"], b["clips"])]
    )
    prompts = [c["prompt"] for c in a["clips"]]
    assert set(row) == KEYS and (row["first"], row["second"], row["dim"]) == ("a", "bb", "flicker")
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        interval(gaps, prompts)[:3]
    )
    assert row["p"] == row["p_holm"] == interval(gaps, prompts).p
    x, y = (np.array([c["value"]["flicker"] for c in one["clips"]]).reshape(6, 2) for one in (a, b))
    # every clip of a prompt with every other one
    shares = (y[:, None, :] > x[:, :, None]).mean((1, 2))
    assert (row["wins"], row["ties"], row["losses"]) == (
        (shares > 0.5).sum(),
        (shares == 0.5).sum(),
        (shares < 0.5).sum(),
    )
    assert row["win_rate"] == pytest.approx(shares.mean())
    assert (row["n"], row["prompts"], row["paired_by"], row["notes"]) == (
        12,
        6,
        "prompt and seed",
        [],
    )


def test_exchanging_the_sets_turns_the_numbers_round():
    a, b = seeded("a"), seeded("bb", rise=0.5)
    (there,), (back,) = compare(a, b, ["flicker"]), compare(b, a, ["flicker"])
    assert back["difference"] == pytest.approx(-there["difference"])
    assert (back["wins"], back["losses"], back["p"]) == (there["losses"], there["wins"], there["p"])
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]))
    assert back["effect"] == pytest.approx(-there["effect"])


def test_a_set_is_equal_to_itself():
    (row,) = compare(seeded("a", G=20), seeded("a", G=20), ["flicker"])
    assert (row["difference"], row["p"], row["ties"], row["win_rate"]) == (0.0, 1.0, 20, 0.5)
    assert (
        row["notes"][0] == "all 40 pairs are equal"
        and "have one value" in row["notes"][1]
        and row["low"] is None
    )


def test_rounding_is_a_tie():
    a, b = (
        made("a", [(0.1 + 0.2, "x", 0), (1.0, "y", 0)]),
        made("b", [(0.3, "x", 0), (1.1, "y", 0)]),
    )
    (row,) = compare(a, b, ["flicker"])
    assert (row["wins"], row["ties"], row["losses"], row["win_rate"]) == (1, 1, 0, 0.75)


def test_few_pairs_are_marked_and_one_or_none_have_no_interval():
    a, b = made("a", [(1.0, "x", 0)]), made("b", [(2.0, "x", 0)])
    (row,) = compare(a, b, ["flicker"])
    assert (
        row["difference"] == 1.0
        and row["low"] is row["p"] is row["p_holm"] is row["effect"] is None
    )
    assert row["notes"] == [
        "the difference rests on 1 clips of a and 1 of b, fewer than the minimum of 20",
        "an interval needs 6 prompts, and there are 1",
    ]
    (none,) = compare(a, made("b", [(None, "x", 0)]), ["flicker"])
    assert none["difference"] is None and none["n"] == 0 and set(none) == KEYS
    json.dumps([row, none], allow_nan=False)


def test_one_prompt_has_an_interval_over_its_clips_but_no_p():
    a, b = (
        made("a", [(i, "x", i) for i in range(6)]),
        made("b", [(i + 1 + i / 10, "x", i) for i in range(6)]),
    )
    (row,) = compare(a, b, ["flicker"], least=5)
    assert row["low"] < 1.2 < row["high"] and row["p"] is None
    assert row["notes"] == ["one prompt: nothing is said of other prompts"]


def test_unpaired_sets_are_compared_by_welch_and_said_to_be():
    draw = np.random.default_rng(0)
    x, y = draw.normal(0, 1, 60), draw.normal(1, 3, 90)
    a, b = (
        made("a", [(v, f"a {i}") for i, v in enumerate(x)]),
        made("b", [(v, f"b {i}") for i, v in enumerate(y)]),
    )
    (row,) = compare(a, b, ["flicker"])
    welch = stats.ttest_ind(y, x, equal_var=False)
    interval_ = welch.confidence_interval()
    assert (
        row["paired_by"] == "nothing" and row["wins"] is None and row["n"] == row["prompts"] == 60
    )
    assert (row["low"], row["high"]) == pytest.approx((interval_.low, interval_.high), abs=0.1)
    assert (
        row["p"] == pytest.approx(welch.pvalue, abs=0.01) and "compared unpaired" in row["notes"][0]
    )


def test_few_unpaired_clips_get_welchs_own_interval_or_a_wider_one():
    x, y = [1.0, 2.0, 4.0, 2.5, 3.0, 1.5], [3.0, 6.0, 7.0, 9.0, 2.0, 5.0, 4.0]
    a, b = (
        made("a", [(v, f"a {i}") for i, v in enumerate(x)]),
        made("b", [(v, f"b {i}") for i, v in enumerate(y)]),
    )
    (row,) = compare(a, b, ["flicker"], least=3)
    welch = stats.ttest_ind(y, x, equal_var=False).confidence_interval()
    assert (
        welch.low - 1 < row["low"] <= welch.low + 1e-9
        and welch.high + 1 > row["high"] >= welch.high - 1e-9
    )
    (few,) = compare(
        made("a", [(v, f"a {i}") for i, v in enumerate(x[:5])]), b, ["flicker"], least=3
    )
    assert (
        few["low"] is few["p"] is None
        and "an interval needs 6 prompts, and there are 5" in few["notes"]
    )


def test_exchanges_are_scipys_permutation_test():
    x, y = np.array([1.0, 2.0, 4.0, 2.5]), np.array([3.0, 6.0, 7.0, 9.0, 2.2])

    def ratio(a, b, axis=-1):
        return np.abs(stats.ttest_ind(a, b, equal_var=False, axis=axis).statistic)

    reference = stats.permutation_test(
        (x, y), ratio, n_resamples=np.inf, alternative="greater", vectorized=True
    )
    assert exchange_p(clusters(x, range(4)), clusters(y, range(5))) == pytest.approx(
        reference.pvalue
    )


def test_random_exchanges_agree_with_all_of_them():
    draw = np.random.default_rng(0)
    a, b = clusters(draw.normal(0, 1, 8), range(8)), clusters(draw.normal(1, 1, 8), range(8))
    assert exchange_p(a, b, draws=5000) == pytest.approx(exchange_p(a, b, draws=20_000), abs=0.02)
    assert exchange_p(a, a) == 1.0


# --- many dims, many sets


def test_holm_counts_all_dims_and_all_sets():
    draw = np.random.default_rng(0)
    dims = ["one", "two", "three"]
    sets = [
        {
            "name": name,
            "clips": [
                clip(f"{name}/{i}.mp4", {d: draw.normal(rise, 1) for d in dims}, str(i), 0)
                for i in range(12)
            ],
        }
        for name, rise in (("a", 0), ("b", 0.5), ("c", 1))
    ]
    rows = compare_all(sets, dims)
    assert [(r["first"], r["second"], r["dim"]) for r in rows] == [
        ("a", s, d) for s in "bc" for d in dims
    ] + [("b", "c", d) for d in dims]
    p = sorted(r["p"] for r in rows)
    by_hand = np.minimum(1, np.maximum.accumulate([(9 - i) * q for i, q in enumerate(p)]))
    assert sorted(r["p_holm"] for r in rows) == pytest.approx(by_hand)
    assert [r["p"] for r in compare(sets[0], sets[1], [{"name": d} for d in dims])] == [
        r["p"] for r in rows[:3]
    ]


def test_a_dim_without_numbers_does_not_count_among_the_tests():
    a, b = seeded("a"), seeded("bb")
    rows = compare(a, b, ["flicker", "nowhere"])
    assert rows[1]["p"] is rows[1]["p_holm"] is None and rows[0]["p_holm"] == rows[0]["p"]


def test_pairs_come_from_the_best_to_the_worst():
    a = made("a", [(1.0, "x", 0), (1.0, "y", 0), (None, "z", 0)])
    b = made("b", [(0.0, "x", 0), (3.0, "y", 0), (1.0, "z", 0)])
    found = [
        (pair.prompt, pair.difference, pair.second[0]["path"])
        for pair in order_pairs(a, b, "flicker")
    ]
    assert found == [("y", 2.0, "b/1.mp4"), ("x", -1.0, "b/0.mp4")]
    assert order_pairs(made("a", [(1.0, "x")]), made("b", [(1.0, "other")]), "flicker") == []


# --- pairing that keeps the most information


def sampled(name, seeds, shift=0.0, prompts=20):
    def draw(p, s):
        return float(np.random.default_rng([p, s, len(name)]).normal() + shift)

    return made(name, [(draw(p, s), f"p{p}", s) for p in range(prompts) for s in seeds])


def test_few_shared_seeds_do_not_throw_the_other_clips_away():
    a, b = sampled("a", range(9)), sampled("bb", range(8, 17), 0.3)
    (row,) = compare(a, b, ["flicker"])
    x, y = (np.mean([c["value"]["flicker"] for c in one["clips"]]) for one in (a, b))
    assert (row["paired_by"], row["n"], row["clips"]) == ("prompt", 20, [180, 180])
    assert row["difference"] == pytest.approx(y - x)
    assert row["pairing"] == [
        "paired by prompt, over all its seeds, because pairing by seed would use only 20 of 180 "
        "clips of a and 20 of 180 clips of bb"
    ]


def test_nearly_all_seeds_in_common_pair_by_seed():
    (row,) = compare(sampled("a", range(9)), sampled("bb", range(1, 10)), ["flicker"])
    assert (row["paired_by"], row["n"]) == ("prompt and seed", 160)
    assert row["pairing"] == [
        "20 of 180 clips of a have no partner",
        "20 of 180 clips of bb have no partner",
    ]


def test_one_file_name_of_thirty_in_common_pairs_nothing():
    a, b = (
        {"name": n, "clips": [clip(f"{n}/{i:04d}.mp4", float(i)) for i in range(30)]} for n in "ab"
    )
    b["clips"] = [
        b["clips"][0],
        *({**c, "path": f"b/x{i}.mp4"} for i, c in enumerate(b["clips"][1:])),
    ]
    (row,) = compare(a, b, ["flicker"])
    assert (row["paired_by"], row["n"], row["clips"]) == ("nothing", 30, [30, 30])
    assert "(1 of their file names)" in row["pairing"][0]


def test_one_prompt_of_thirty_in_common_pairs_nothing_and_seven_of_forty_do():
    one = compare(
        sampled("a", [0], prompts=30),
        made("b", [(0.0, f"p{i}", 0) for i in range(29, 59)]),
        ["flicker"],
    )[0]
    seven = compare(
        sampled("a", [0], prompts=40),
        made("b", [(0.0, f"p{i}", 0) for i in range(33, 73)]),
        ["flicker"],
    )
    assert one["paired_by"] == "nothing" and (seven[0]["paired_by"], seven[0]["n"]) == (
        "prompt and seed",
        7,
    )


def test_effect_and_win_rate_do_not_depend_on_the_way_of_pairing():
    a, b = sampled("a", range(9)), sampled("bb", range(9), 0.5)
    other = {**b, "clips": [{**c, "seed": c["seed"] + 100} for c in b["clips"]]}
    (same,), (apart,) = compare(a, b, ["flicker"]), compare(a, other, ["flicker"])
    assert (same["paired_by"], apart["paired_by"]) == ("prompt and seed", "prompt")
    for key in ("difference", "effect", "win_rate", "win_low", "wins", "ties", "losses"):
        assert same[key] == pytest.approx(apart[key]), key
    x, y = (np.array([c["value"]["flicker"] for c in one["clips"]]) for one in (a, b))
    pooled = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    assert same["effect"] == pytest.approx((y.mean() - x.mean()) / pooled * (1 - 3 / (4 * 360 - 9)))


# --- a primary dim


def test_a_primary_dim_is_not_corrected_and_no_part_is_surer_than_it():
    draw = np.random.default_rng(1)
    sets = [
        {
            "name": name,
            "clips": [
                clip(f"{name}/{i}.mp4", {d: draw.normal(rise, 1) for d in "xyz"}, str(i), 0)
                for i in range(12)
            ],
        }
        for name, rise in (("a", 0), ("b", 1))
    ]
    plain, gated = (
        {r["dim"]: r for r in compare(*sets, "xyz", primary=primary)} for primary in (None, "x")
    )
    assert gated["x"]["p_holm"] == plain["x"]["p"]
    parts = sorted((plain[d]["p"], d) for d in "yz")
    by_hand = {parts[0][1]: min(1, 2 * parts[0][0])}
    by_hand[parts[1][1]] = max(by_hand[parts[0][1]], parts[1][0])
    assert {d: gated[d]["p_holm"] for d in "yz"} == pytest.approx(
        {d: max(p, plain["x"]["p"]) for d, p in by_hand.items()}
    )
    with pytest.raises(
        ValueError, match="expected one of the measured dims as the primary one, got 'w'"
    ):
        compare(*sets, "xyz", primary="w")


# --- differences that are too small to matter


def test_a_margin_is_judged_by_the_interval_of_all_differences_together():
    a = sampled("a", [0], prompts=40)
    b = {
        "name": "b",
        "clips": [
            {**c, "value": {"flicker": c["value"]["flicker"] + 0.01 * (i % 5 - 2)}}
            for i, c in enumerate(a["clips"])
        ],
    }
    (row,) = compare(a, b, [{"name": "flicker", "relevant": 0.02}])
    assert (row["margin"], row["within"]) == (0.02, "equivalent")
    assert compare(a, b, ["flicker"], margins={"flicker": 0.005})[0]["within"] == "equivalent"
    assert compare(a, b, ["flicker"], margins={"flicker": 0.003})[0]["within"] is None
    (alone,) = compare(a, b, ["flicker"])
    many = compare(a, b, ["flicker", *map(str, range(50))])[0]
    assert alone["margin"] is alone["within"] is None and (alone["all_low"], alone["all_high"]) == (
        alone["low"],
        alone["high"],
    )
    assert many["all_low"] < many["low"] < many["high"] < many["all_high"]
    # too few clips
    assert compare(a, b, ["flicker"], least=41, margins={"flicker": 1.0})[0]["within"] is None


def test_not_worse_by_more_than_a_margin_and_not_so_where_unscored_clips_say_otherwise():
    rng = np.random.default_rng(0)
    a = made("a", [(x, f"p{i}", 0) for i, x in enumerate(rng.normal(size=40))])
    b = made(
        "b",
        [
            (c["value"]["flicker"] + x, c["prompt"], 0)
            for c, x in zip(a["clips"], rng.normal(0.05, 0.2, 40), strict=True)
        ],
    )
    (row,) = compare(a, b, ["flicker"], margins={"flicker": 0.08})
    assert row["within"] == "not worse" and row["all_low"] > -0.08 < 0.08 < row["all_high"]
    assert compare(b, a, ["flicker"], margins={"flicker": 0.08})[0]["within"] == "not better"
    b["clips"][3]["value"]["flicker"] = None
    (lost,) = compare(
        a, b, [{"name": "flicker", "range": [-100.0, None]}], margins={"flicker": 0.08}
    )
    assert lost["within"] is None and lost["all_low"] > -0.08


# --- refusals


def results(sets, protocol="aaaa", dim="1111", fps=0):
    return {
        "suite": {"least": 5},
        "protocol": {"fps": fps, "hash": protocol},
        "sets": sets,
        "dims": [
            {"name": "flicker", "hash": dim},
            {"name": f"only {sets[0]['name']}", "hash": "2222"},
        ],
    }


def test_results_of_one_protocol_are_compared_on_their_common_dims():
    a, b = seeded("a"), seeded("bb")
    assert shared_dims(results([a]), results([b])) == ["flicker"]
    assert compare_results(results([a]), results([b])) == compare(a, b, ["flicker"], 5)


def test_results_of_other_protocols_or_dims_are_refused():
    a, b = seeded("a"), seeded("bb")
    with pytest.raises(ValueError, match="expected one protocol, got aaaa and bbbb .fps 0 and 8."):
        compare_results(results([a]), results([b], protocol="bbbb", fps=8))
    with pytest.raises(ValueError, match="'flicker' was measured in two ways, 1111 and 3333"):
        compare_results(results([a]), results([b], dim="3333"))
    other = results([b]) | {"dims": [{"name": "jerk", "hash": "1"}]}
    with pytest.raises(ValueError, match="a dim in common, got flicker, only a and jerk"):
        compare_results(results([a]), other)


@pytest.mark.slow
def test_p_is_below_five_percent_in_at_most_five_percent_of_equal_sets():
    """Paired, where ten prompts make p larger, and exchanged, whose p is exact."""
    draw, hits = np.random.default_rng(0), {"paired": 0, "exchanged": 0}
    for _ in range(600):
        x, y = (draw.lognormal(0, 1, (10, 1)) + draw.normal(0, 1, (10, 2)) for _ in range(2))
        a, b = (
            made(n, [(v[g, s], f"{g}", s) for g in range(10) for s in range(2)])
            for n, v in (("a", x), ("b", y))
        )
        hits["paired"] += compare(a, b, ["flicker"])[0]["p"] < 0.05
        sides = [clusters(v.ravel(), np.repeat(range(10), 2).tolist()) for v in (x, y)]
        hits["exchanged"] += exchange_p(*sides, draws=2000) < 0.05
    assert stats.binomtest(hits["exchanged"], 600, 0.05).pvalue > 0.01, hits
    assert (
        hits["paired"] > 0 and stats.binomtest(hits["paired"], 600, 0.05, "greater").pvalue > 0.01
    ), hits
