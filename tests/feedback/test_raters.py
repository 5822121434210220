"""The raters' report: numbers by hand, and words instead of crashes where nothing is known."""

import json
import sys

import pytest

from vidrl.feedback import raters, raters_page
from vidrl.feedback.judgments import Choice, Judgments, Points
from vidrl.feedback.raters import Vote


def votes(*rows):
    """Votes (first, second, choice, rater, prompt) in the order of the page."""
    return [Vote(Choice(a, b, c, prompt=prompt, rater=who)) for a, b, c, who, prompt in rows]


def test_the_pace_counts_answers_that_were_sent_in_part():
    """Two answers of bob, the second without the question overall, and five choices."""
    rows = [
        Vote(Choice("m/a", "n/a", 1, aspect, "p", "bob"), seconds=3.0, at="2026-01-01T10:00:00Z")
        for aspect in ("motion", "picture", "overall")
    ] + [
        Vote(Choice("m/b", "n/b", 1, aspect, "q", "bob"), seconds=5.0, at="2026-01-01T10:01:00Z")
        for aspect in ("motion", "picture")
    ]
    found, page = report(rows)
    assert found["pace"][0]["answers"] == 2 and found["pace"][0]["seconds"] == 4.0
    assert found["votes"] == 5 and "5 choices between two clips" in page
    assert "Choices by rater: bob 5." in page


def report(rows, sides=True):
    found = raters.report(rows, Judgments(), sides) | {"source": "x"}
    json.dumps(found, allow_nan=False)
    return found, raters_page.page(found)


def test_numbers_by_hand():
    rows = votes(
        *((f"m/{i}", f"n/{i}", 1, "ann", f"p{i}") for i in range(6)),
        *((f"n/{i}", f"m/{i}", -1 if i < 5 else 1, "bob", f"p{i}") for i in range(6)),
    )
    found, page = report(rows)
    (agreement,) = found["agreement"]
    # Twelve answers, eleven for m: five units agree and one does not.
    assert agreement["pairs"] == 6 and agreement["alpha_nominal"]["value"] == 0.0
    assert agreement["cohen"] == {"value": 0.0, "raters": ["ann", "bob"], "units": 6, "why": ""}
    (row,) = found["wins"]
    assert (row["first"], row["second"], row["n"]) == ("m", "n", 6)
    assert row["value"] == pytest.approx((5 + 0.5) / 6, abs=1e-6), "the sixth pair ties"
    assert row["more_prompts"] == 0 or row["more_prompts"] > 0
    everyone, ann, bob = found["sides"]
    assert ann["value"] == 1.0 and bob["value"] == pytest.approx(1 / 6, abs=1e-6)
    assert everyone["n"] == 12 and everyone["value"] == pytest.approx(7 / 12, abs=1e-6)
    assert "| ann | 1.00 [" in page and "on the left" in page


def test_repeats_turn_the_sides_and_gold_pairs_have_an_answer():
    choice = Choice("a", "b", 1, prompt="p", rater="ann")
    rows = [
        Vote(choice),
        Vote(choice.flipped(), "repeat"),
        Vote(Choice("c", "d", 1, prompt="q", rater="ann")),
        Vote(Choice("d", "c", 1, prompt="q", rater="ann"), "repeat"),
        Vote(Choice("e", "f", 1, prompt="r", rater="ann"), "gold", expected=1),
        Vote(Choice("g", "h", 0, prompt="s", rater="ann"), "gold", expected=-1),
    ]
    found, _ = report(rows)
    assert found["repeats"][1] == found["repeats"][0] | {"rater": "ann"}
    assert (found["repeats"][0]["value"], found["repeats"][0]["n"]) == (0.5, 2)
    assert (found["gold"][0]["value"], found["gold"][0]["n"]) == (0.5, 2)
    assert found["agreement"][0]["pairs"] == 2, "repeats and gold pairs do not count"


def test_pairs_that_were_chosen_for_their_information_count_for_no_rate_of_wins():
    rows = [
        Vote(Choice("m/1", "n/1", 1, prompt="p", rater="ann")),
        Vote(Choice("m/2", "n/2", -1, prompt="q", rater="ann"), "informative"),
    ]
    found, _ = report(rows)
    assert [(row["value"], row["n"]) for row in found["wins"]] == [(1.0, 1)]


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "0 choices between two clips"),
        (votes(("m/a", "n/b", 1, "ann", "p")), "not known: there is one rater"),
        (
            votes(*((f"m/{i}", f"n/{i}", 0, who, f"p{i}") for i in range(3) for who in "xy")),
            "not known: all answers are the same value",
        ),
        (
            votes(("m/a", "n/b", 1, "x", "p"), ("m/a", "n/b", -1, "y", "p")),
            "not known: both win equally often",
        ),
        (votes(("a", "b", 1, "", ""), ("a", "b", -1, "", "")), "no two named raters judged"),
    ],
)
def test_nothing_crashes_where_nothing_is_known(rows, told):
    assert told in report(rows)[1]


def test_two_raters_who_contradict_each_other_are_below_chance():
    rows = votes(
        *((f"m/{i}", f"n/{i}", s, w, f"p{i}") for i in range(8) for w, s in zip("xy", (1, -1)))
    )
    found, _ = report(rows)
    alpha = found["agreement"][0]["alpha_nominal"]
    # One coincidence of two different values a unit: 1 - (n - 1) / (n / 2), n = 16 answers.
    assert alpha["value"] == pytest.approx(1 - 15 / 8, abs=1e-6)
    assert found["agreement"][0]["cohen"]["value"] == 0.0


def test_raters_whose_names_have_brackets_have_a_kappa_too():
    rows = votes(
        *((f"m/{i}", f"n/{i}", 1, who, f"p{i}") for i in range(4) for who in ("Ann (lab)", "(0)")),
        ("m/5", "n/5", -1, "Ann (lab)", "p5"),
        ("m/5", "n/5", -1, "(0)", "p5"),
        ("m/5", "n/5", 1, "", "p5"),
    )
    found = report(rows)[0]["agreement"][0]["cohen"]
    assert found == {"value": 1.0, "raters": ["(0)", "Ann (lab)"], "units": 5, "why": ""}


def test_points_have_an_alpha_of_intervals():
    points = [
        Points(c, n, 1, 5, "q", c, r)
        for c, a, b in ("x15", "y44")
        for r, n in (("1", int(a)), ("2", int(b)))
    ]
    found = raters.report([], Judgments(points=points))
    row = next(row for row in found["agreement"] if row["kind"] == "points")
    # D_o = (16 + 0) / 2; D_e = 2 (16 + 9 + 9 + 1 + 1 + 0) / (4 · 3) = 6
    assert row["alpha_interval"]["value"] == pytest.approx(1 - 8 / 6, abs=1e-6)


def test_texts_of_others_cannot_break_the_page():
    rows = votes(("m/a", "n/b", 1, "<script>|x\n", "p"), ("m/<b>", "n/<b>", 1, "<i>", "q"))
    found, page = report(rows)
    assert "<script>" not in page and "&lt;script>\\|x " in page
    found |= {"source": "<b>.db", "notes": ["<i>"]}
    html = raters_page.html(found)
    assert not [text for text in ("<script", "<b>", "<i>") if text in html]
    assert "&lt;script&gt;|x" in html and "&lt;b&gt;.db" in html
    assert "http://" not in html and "https://" not in html


def test_the_page_has_a_bar_for_each_interval():
    rows = votes(*((f"m/{i}", f"n/{i}", 1, "ann", f"p{i}") for i in range(8)))
    found, text = report(rows)
    (row,) = found["wins"]
    cell = next(cell for cell in raters_page._wins([row]).parts[1].rows[0] if len(cell) == 4)
    assert cell.words in text and cell.words in raters_page.html(found)
    assert cell.value == 1.0 and cell.low == pytest.approx(2 * row["low"] - 1)
    assert 'class="forest up"' in raters_page.html(found)


@pytest.mark.parametrize("mode", ["points", "ranking"])
def test_a_store_of_points_or_rankings_is_reported_with_its_pace(tmp_path, mode):
    pytest.importorskip("sqlalchemy")
    from vidrl.feedback.questionnaire import Axis, Questionnaire
    from vidrl.feedback.store import Answer, Shown, Store

    axes = (Axis("picture", "How is the picture?"), Axis("overall", "How is the clip?"))
    store = Store(tmp_path / "taste.db", Questionnaire(mode, axes))
    clips = tuple(Shown(f"/{name}.mp4") for name in "ab")[: 1 if mode == "points" else 2]
    value = 4 if mode == "points" else [1, 2]  # a ranking of two clips is no pair
    for i, seconds in enumerate((9.0, 9.0, 0.5, 0.0)):  # 0 stands for a time that is not known
        given, at = {"picture": value, "overall": value}, f"2026-01-01T00:00:0{i}.000Z"
        store.add(Answer("Ann", clips, given, prompt=f"p{i}", seconds=seconds, at=at))
    store.add(Answer("Ann", clips))  # a skip is no answer
    store.add(Answer("Ann", clips, {"overall": value}, prompt="p0", reason="repeat", seconds=9.0))
    store.close()
    found = raters.run(tmp_path / "taste.db", tmp_path / "out")
    (pace,) = found["pace"]
    assert (pace["answers"], pace["seconds"], pace["quick"]) == (5, 9.0, 1)
    assert [half["seconds"] for half in pace["halves"]] == [9.0, 4.75]
    assert found["notes"] == [
        "1 answer to repeated and gold pairs does not count for agreement and wins",
        "1 skipped item has no answer",
    ]
    assert found["raters"] == {"Ann": 8} and found["votes"] == 0
    kind = {"points": "8 judgments in points", "ranking": "8 rankings"}[mode]
    page = (tmp_path / "out/raters.md").read_text()
    assert f"{kind}, from" in page and "seconds 9 → 4.75 |" in page
    assert "ties" not in page.partition("seconds 9")[2]


def test_the_points_of_a_file_have_a_pace_without_seconds():
    points = [Points("x", 3, 1, 5, aspect, "q", "Ann") for aspect in ("picture", "motion")]
    (pace,) = raters.report([], Judgments(points=points))["pace"]
    assert (pace["answers"], pace["seconds"], pace["why"]) == (1, None, "the file keeps no times")


def test_the_report_of_a_store_needs_no_package_of_the_server(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sqlalchemy")
    from vidrl import cli
    from vidrl.feedback.questionnaire import Questionnaire
    from vidrl.feedback.store import Store

    Store(tmp_path / "taste.db", Questionnaire()).close()
    for package in ("starlette", "uvicorn", "jinja2"):
        monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["label", "--report", "--store", str(tmp_path / "taste.db")]) == 0
    assert capsys.readouterr().out.startswith("# Raters")


def test_a_store_is_reported_with_its_sides_and_its_pace(tmp_path):
    pytest.importorskip("sqlalchemy")
    from vidrl.feedback.questionnaire import Axis, Questionnaire
    from vidrl.feedback.store import Answer, Shown, Store

    axes = (Axis("overall", "Which is better?"),)
    store = Store(tmp_path / "taste.db", Questionnaire(axes=axes))
    for i in range(8):
        shown = (Shown(str(tmp_path / f"m/{i}.mp4")), Shown(str(tmp_path / f"n/{i}.mp4")))
        given, at = {"overall": "A"}, f"2026-01-01T00:00:0{i}.000Z"
        seconds = 8.0 if i < 4 else 0.5
        store.add(Answer("Ann", shown, given, prompt=f"p{i}", seconds=seconds, at=at))
    store.close()
    found = raters.run(tmp_path / "taste.db", tmp_path / "out")
    assert found["sides_known"] and found["sides"][0]["value"] == 1.0
    (pace,) = found["pace"]
    assert (pace["seconds"], pace["quick"]) == (4.25, 4)
    assert [half["seconds"] for half in pace["halves"]] == [8.0, 0.5]
    assert json.loads((tmp_path / "out/raters.json").read_text())["votes"] == 8
    assert "seconds 8 → 0.5" in (tmp_path / "out/raters.md").read_text()
