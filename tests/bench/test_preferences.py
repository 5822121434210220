"""vidrl.bench.preferences: what the table says of choices whose answer is known, and real
clips end to end."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidrl.audit.clips import world_clips
from vidrl.bench import preference_page, preferences
from vidrl.bench import suite as suites
from vidrl.bench.items import Item
from vidrl.bench.suite import Suite
from vidrl.rewards import video
from vidrl.synthetic.corruptions import corrupt

ONE = suites.load("temporal").only(["flicker"])


def known(values: dict[str, float | None]) -> preferences.Measure:
    """Measures that look the clip's name up; the others are unreadable."""

    def measure(items: list[Item], suite: Suite) -> Iterable[dict[str, Any]]:
        for item in items:
            if item.path.name not in values:
                yield {"path": str(item.path), "why": "missing: no such file"}
                continue
            value = values[item.path.name]
            why = (
                {}
                if value is not None
                else {dim.name: "inapplicable: too short" for dim in suite.dims}
            )
            yield {"value": {dim.name: value for dim in suite.dims}, "why": why}

    return measure


def table(
    tmp_path: Path, rows: list[dict[str, str]], values: dict[str, float | None], **options: Any
) -> dict[str, Any]:
    path = tmp_path / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return preferences.run(path, ONE, measure=known(values), beside=False, **options)


def pair(a: str, b: str, choice: str, **more: str) -> dict[str, str]:
    return {"path_a": a, "path_b": b, "choice": choice} | more


def test_accuracy_by_hand_and_nothing_dropped(tmp_path: Path) -> None:
    rows = [
        pair("1", "2", "a"),
        pair("3", "4", "a"),
        pair("5", "6", "tie"),
        pair("7", "8", "b"),
        pair("9", "1", "a"),
    ]
    found = table(
        tmp_path, rows, {"1": 2, "2": 1, "3": 0, "4": 1, "5": 1, "6": 1.1, "7": None, "8": 0}
    )
    (row,) = found["table"]
    assert (row["pairs"], row["scored"], row["ties"]) == (5, 3, 1)
    assert row["without_ties"]["value"] == 0.5 and row["without_ties"]["n"] == 2
    assert row["with_ties"]["value"] == pytest.approx(2 / 3, abs=1e-6) and row[
        "epsilon"
    ] == pytest.approx(0.1)
    assert row["missing_as_chance"] == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert row["missing_as_wrong"] == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert [(Path(one["path"]).name, one["why"]) for one in found["unscored"]] == [
        ("7", "inapplicable: too short"),
        ("9", "missing: no such file"),
    ]
    assert "flicker (overall): 2 of 5 pairs have a clip without a value" in found["notes"]
    assert "missing: no such file" in preference_page.page(found) and "3/5" in preference_page.text(
        found
    )


def test_raters_who_disagree(tmp_path: Path) -> None:
    """Shown in either order; the majority, each answer, and one rater alone."""
    rows = [
        pair("1", "2", "a", rater="x"),
        pair("2", "1", "b", rater="y"),
        pair("1", "2", "b", rater="z"),
    ]
    values: dict[str, float | None] = {"1": 2, "2": 1}
    said = {
        raters: table(tmp_path, rows, values, raters=raters)["table"][0]["without_ties"]
        for raters in ("majority", "each", "x", "z")
    }
    assert {name: (one["value"], one["n"]) for name, one in said.items()} == {
        "majority": (1, 1),
        "each": (pytest.approx(2 / 3, abs=1e-6), 3),
        "x": (1, 1),
        "z": (0, 1),
    }
    people = table(tmp_path, rows, values)["people"][0]
    assert people["several"] == 1 and people["answers"] == 3
    # x against y and z, who tie; y the same; z against x and y, who agree on the other clip
    assert (
        people["without_ties"]["value"] == 0
        and people["with_ties"]["value"] == 0
        and people["half"]["value"] == 0
    )
    (beside,) = table(tmp_path, rows, values)["beside_a_rater"]
    # of the one answer whose others are decided
    assert beside["n"] == 1 and beside["agreement"] == 1
    with pytest.raises(ValueError, match="one of x, y, z, got 'w'"):
        table(tmp_path, rows, values, raters="w")


def test_a_rater_who_answers_twice_votes_once(tmp_path: Path) -> None:
    """Else the rater would stand among the others whom that rater is held against."""
    rows = [
        pair("1", "2", "a", rater="x"),
        pair("2", "1", "b", rater="x"),
        pair("1", "2", "b", rater="y"),
    ]
    found = table(tmp_path, rows, {"1": 2, "2": 1})
    assert found["people"][0]["ties"] == 1 and any("one vote" in note for note in found["notes"])
    assert "one vote" not in "".join(table(tmp_path, rows[1:], {"1": 2, "2": 1})["notes"])


def test_dims_and_a_rater_have_a_table_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rows, values = [], {}
    for i in range(60):
        values |= {f"{i}a": 1.0, f"{i}b": 0.0}
        rows += [
            pair(f"{i}a", f"{i}b", "a" if rng.random() < 0.8 else "b", rater=name) for name in "xyz"
        ]
    found = table(tmp_path, rows, values)
    (row,) = found["beside_a_rater"]
    assert row["verdict"] == "above" and row["prompts"] == 60
    for page in (preference_page.page(found), preference_page.text(found)):
        assert "above a rater" in page and "ceiling" not in page


def test_a_bias_of_position_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [pair(f"{2 * i}", f"{2 * i + 1}", "a" if rng.random() < 0.8 else "b") for i in range(80)]
    found = table(tmp_path, rows, {str(i): float(rng.normal()) for i in range(160)})
    assert found["people"][0]["first"][
        "low"
    ] > 0.6 and "a bias of position" in preference_page.text(found)


def test_draws_are_over_prompts(tmp_path: Path) -> None:
    """Ten pairs of one prompt say as much as one: the interval is as wide as that of few
    prompts."""
    values: dict[str, float | None] = {f"{p}.{i}": float(i) for p in range(6) for i in range(11)}
    rows = [
        pair(f"{p}.{i}", f"{p}.{i + 1}", "b" if p % 2 else "a", prompt=f"p{p}")
        for p in range(6)
        for i in range(10)
    ]
    found = table(tmp_path, rows, values)
    assert found["people"][0]["clusters"] == 6
    low, high = (found["table"][0]["without_ties"][key] for key in ("low", "high"))
    assert low < 0.2 and high > 0.8


def test_scores_of_single_clips(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(
        "path,prompt,temporal consistency\n"
        + "".join(f"{i},p{i % 3},{1 + i % 4}\n" for i in range(12))
    )
    found = preferences.run(
        path, ONE, measure=known({str(i): float(i % 4) for i in range(12)}), beside=False
    )
    (row,) = found["table"]
    assert (
        row["aspect"] == "temporal consistency"
        and row["spearman"] == 1
        and row["without_ties"]["value"] == 1
    )
    assert "Spearman" in preference_page.page(found) and found["people"][0]["first"] is None


def test_real_files_end_to_end(tmp_path: Path) -> None:
    """People prefer the sound clip to the flickering one: flicker does, and so does
    VBench's; a broken file is told."""
    rows = []
    for i, clip in enumerate(world_clips(4, size=32, frames=9)):
        video.write(tmp_path / f"good {i}.mp4", clip.video, clip.fps)
        video.write(tmp_path / f"bad {i}.mp4", corrupt(clip.video, "flicker", 1.0, i), clip.fps)
        rows.append(pair(f"good {i}.mp4", f"bad {i}.mp4", "a", prompt=clip.prompt))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows.append(pair("good 0.mp4", "broken.mp4", "a", prompt='<b>"quotes"</b> | pipe'))
    path = tmp_path / "choices.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = preferences.run(path, ONE, tmp_path / "out")
    said = {row["dim"]: row for row in found["table"]}
    assert said["flicker"]["without_ties"]["value"] == 1 and said["flicker"]["scored"] == 4
    assert said["vbench_temporal_flickering"]["without_ties"]["value"] == 1
    assert (
        said["flicker"]["profile"] == "vidrl"
        and said["vbench_dynamic_degree"]["profile"] == "vbench"
    )
    assert any("broken.mp4" in one["path"] for one in found["unscored"])
    again = json.loads((tmp_path / "out" / "preferences.json").read_text(encoding="utf-8"))
    assert again == found
    page = (tmp_path / "out" / "preferences.md").read_text(encoding="utf-8")
    assert page.count("\n| flicker |") == 2  # agreement, and between dims
    assert any("several prompts" in note for note in found["notes"])


def test_no_text_of_others_is_markup_of_the_page(tmp_path: Path) -> None:
    """Names of files, aspects and raters, and reasons, come from tables of strangers."""
    evil = "<x-evil>|`[a](javascript:b)\n# c"
    found = table(
        tmp_path, [pair("1", "2", "a"), pair("3", "4", "b")], {"1": 2, "2": 1, "3": 0, "4": None}
    )
    for people in found["people"]:
        people["aspect"] = evil
    for row in found["table"]:
        row["aspect"] = evil
    found |= {"file": evil, "raters": evil, "command": evil, "notes": [evil]}
    found["unscored"] = [{"path": evil, "dim": "flicker", "why": evil}]
    text = preference_page.page(found)
    outside = "\n".join(line for line in text.split("\n") if not line.startswith("`"))
    assert (
        "<x-evil" not in outside
        and "[a](" not in outside.replace("\\[", "")
        and "\n# c" not in text
    )
    assert "&lt;x-evil>\\|" in outside and text.count("`") - text.count("\\`") == 2
