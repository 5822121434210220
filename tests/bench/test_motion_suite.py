"""The prompts of the motion suite: what their words say is what is to be checked, and they
are balanced."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from vidrl.bench import suite
from vidrl.bench.expectations import seconds, things
from vidrl.rewards._prompts.motion_words import WantedMotion, wanted_motion
from vidrl.synthetic import world

ROOT = Path(__file__).parent.parent.parent
FILES = ("motion.jsonl", "motion_world.jsonl")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "motion_suite", ROOT / "scripts" / "motion_suite.py"
    )
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["motion_suite"] = module  # where its dataclass looks for its types
    spec.loader.exec_module(module)
    return module


def rows(name="motion.jsonl"):
    return [
        json.loads(line)
        for line in (suite._folder() / name).read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_what_the_script_writes(script, name):
    assert (suite._folder() / name).read_text(encoding="utf-8") == script.text(script.FILES[name]())


@pytest.mark.parametrize("name", FILES)
def test_the_words_say_what_is_expected(name):
    for row in rows(name):
        ask = row["expect"]
        told = WantedMotion(
            tuple(ask.get("heading", (0, 0))),
            ask.get("path", ""),
            tuple(ask.get("camera", (0, 0, 0, 0))),
            ask.get("still_camera", False),
            ask.get("rest", False),
            ask.get("pace", 1.0),
        )
        assert wanted_motion(row["prompt"]) == told, row["prompt"]
        assert seconds(row["prompt"]) == ask.get("seconds", 0), row["prompt"]
        assert ask.get("count", 0) in (0, things(row["prompt"])), row["prompt"]


def test_the_fields_say_what_is_expected():
    for row in rows():
        ask, kind = row["expect"], row["kind"]
        assert ask["seconds"] == row["seconds"]
        assert (kind == "rest") == ask.get("rest", False)
        assert ask.get("pace", 1.0) == {"slow": 0.5, "plain": 1.0, "quick": 2.0}[row["speed"]]
        axis = {"pan": 0, "tilt": 1, "zoom": 2, "roll": 3}.get(row["camera"])
        assert [i for i, x in enumerate(ask.get("camera", [])) if x] == (
            [] if axis is None else [axis]
        )
        assert ask.get("still_camera", False) == (row["camera"] == "static")
        assert ("heading" in ask) == (kind in ("left", "right", "up", "down"))
        assert ask.get("path", kind) == kind


def test_no_prompt_comes_twice_even_by_letter_case():
    prompts = [row["prompt"].lower() for name in FILES for row in rows(name)]
    assert len(prompts) == len(set(prompts)) and 100 <= len(rows()) <= 200


def test_the_suite_is_balanced_and_so_is_its_beginning():
    found = rows()
    cells = Counter((row["kind"], row["speed"], row["camera"]) for row in found)
    # what rests has no pace but the camera's
    assert set(cells.values()) == {1} and len(cells) == 9 * 18 + 14
    for field, parts in (("kind", 10), ("speed", 3), ("camera", 6), ("thing", 5), ("seconds", 3)):
        counts = Counter(row[field] for row in found)
        assert len(counts) == parts and max(counts.values()) - min(counts.values()) <= 4, (
            field,
            counts,
        )
    assert set(Counter(row["count"] for row in found)) == {1, 2, 3, "many"}
    for field, parts in (("kind", 10), ("speed", 3), ("camera", 6)):
        assert len({row[field] for row in found[:10]}) == parts, field


def test_both_ways_of_each_camera_are_asked():
    ways = Counter(tuple(row["expect"]["camera"]) for row in rows() if "camera" in row["expect"])
    assert len(ways) == 8 and max(ways.values()) - min(ways.values()) <= 4, ways


def test_sentences_begin_large_and_end_with_a_stop():
    for row in rows():
        prompt = row["prompt"]
        assert prompt[0].isupper() and prompt.endswith("seconds.") and "  " not in prompt
        assert (row["count"] == 1) == prompt.startswith(("A ", "An ")) or row["count"] == "many"


def test_the_captions_are_held_out():
    trained = {scene.caption for scene in world.scenes("train")}
    assert not trained & {row["prompt"] for row in rows("motion_world.jsonl")}


def test_the_suite_loads_with_a_dim_for_each_kind_of_demand():
    made = suite.load("motion")
    names = {dim.name for dim in made.dims}
    assert (
        made.prompts.name == "motion.jsonl"
        and (made.prompts.parent / made.sampling["world"]).is_file()
    )
    assert {key for row in rows() for key in row["expect"]} - {"seconds"} | {"length"} <= names
