"""Copies of a file make no result: equal content is found, said and counted once."""

import json

import numpy as np

from tests.bench._clips import folder
from vidrl.bench import duplicates
from vidrl.bench.compare import compare


def clip(path, value, content=None, prompt="", seed=None, curve=None):
    return {
        "path": path,
        "prompt": prompt,
        "seed": seed,
        "id": content,
        "value": {"d": float(value)},
        "curve": {"d": curve} if curve else {},
        "why": {},
    }


def sets(k, prompted=False):
    """Ten clips of each of two models, every file copied k times; `prompted`: each copy
    under a prompt of its own."""
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=10), "b": rng.normal(0.15, 0.3, 10)}
    return [
        {
            "name": name,
            "clips": [
                clip(f"{name}/{j}_{i}.mp4", x, f"{name}{i}", f"p{j} {i}" * prompted)
                for j in range(k)
                for i, x in enumerate(found)
            ],
        }
        for name, found in values.items()
    ]


def test_copies_of_every_file_change_no_number():
    (once,), (often,) = (compare(*sets(k), ["d"], least=5) for k in (1, 5))
    for key in ("difference", "low", "high", "p", "n", "win_rate", "win_low", "effect", "clips"):
        assert once[key] == often[key], key
    assert "40 pairs are copies of other pairs and not counted again" in often["notes"]


def test_copies_under_prompts_of_their_own_count_as_one_prompt_in_tests():
    (once,), (often,) = (
        compare(*sets(1), ["d"], least=5),
        compare(*sets(5, prompted=True), ["d"], least=5),
    )
    assert often["groups"] == 10 and often["p"] == once["p"]
    for key in ("difference", "low", "high"):
        assert abs(often[key] - once[key]) < 1e-9, key


def test_black_frames_for_many_prompts_stay_answers_to_them():
    """A filter returned one black clip for ten prompts of b: leaving out nine of them would
    raise b."""
    a = {"name": "a", "clips": [clip(f"a/{i}.mp4", 0.0, f"a{i}", f"p{i}") for i in range(30)]}
    b = {
        "name": "b",
        "clips": [
            clip(f"b/{i}.mp4", *((-3.0, "black") if i < 10 else (1.0, f"b{i}")), f"p{i}")
            for i in range(30)
        ],
    }
    (row,) = compare(a, b, ["d"])
    assert (
        row["n"] == 30 and abs(row["difference"] - (20 - 30) / 30) < 1e-12 and row["groups"] == 21
    )
    assert duplicates.duplicate_notes([b]) == [
        "b: 10 prompts share 1 clip of equal content: they count as 1 in intervals and tests"
    ]


def test_copies_in_unpaired_sets_count_once():
    a, b = sets(5)
    for i, one in enumerate(b["clips"]):
        one["path"] = f"b/other{i}.mp4"
    (row,) = compare(a, b, ["d"], least=5)
    assert (row["paired_by"], row["n"], row["clips"]) == ("nothing", 10, [10, 10])


def test_a_film_in_another_container_is_a_copy_and_two_dark_clips_are_not():
    curve = [0.1, 0.25, 0.3, 0.45, 0.5]
    same = [clip("1.mp4", 0.3, "x", curve=curve), clip("2.mkv", 0.3, "y", curve=curve)]
    dark = [clip("1.mp4", 0.0, "x", curve=[0.0] * 5), clip("2.mp4", 0.0, "y", curve=[0.0] * 5)]
    assert duplicates.content_numbers(same) == [0, 0] and duplicates.content_numbers(dark) == [0, 1]


def test_the_same_file_in_both_sets_is_said():
    a, b = sets(1)
    b["clips"][3]["id"] = a["clips"][7]["id"]
    assert duplicates.duplicate_notes([a, b]) == [
        "1 of 10 clips of b are also in a: on them the two sets cannot differ"
    ]
    assert duplicates.duplicate_notes(sets(1)) == []


def test_copied_files_are_found_by_the_command_and_counted_once(tmp_path, capsys):
    from vidrl import cli

    base = folder(tmp_path / "base", 3)
    for j in range(4):
        (base / f"copy{j}.mp4").write_bytes(
            (base / sorted(p.name for p in base.glob("*.mp4"))[0]).read_bytes()
        )
    assert (
        cli.main(
            [
                "bench",
                str(base),
                "--dims",
                "flicker",
                "--jobs",
                "0",
                "--out",
                str(tmp_path / "out"),
                "--format",
                "json",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["summary"]["base"]["flicker"]["n"] == 3
    assert (
        "base: 4 of 7 clips are a copy" in said
        or "base: 4 of 7 clips are copies of another one" in said
    )
