"""docs/guides/algorithms.md says what is: its table is current, its refusals come, its example
trains."""

import json
import re
import sys
import tomllib

import pytest
import toys
from test_docs import ROOT, blocks, script

from vidrl import plugin
from vidrl.training import loop

TABLE = script("algorithms_table")
PAGE = ROOT / "docs" / "guides" / "algorithms.md"
REFUSED = re.findall(r"^\| (\w+) \| `(.+?)` \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)


def test_the_table_is_what_the_script_prints():
    """If this fails: python scripts/algorithms_table.py"""
    assert PAGE.read_text(encoding="utf-8") == TABLE.page()


def test_needs_and_rows_by_hand():
    """Ten steps of the toy, of which nine draw noise; four noises a clip; one pair of eight
    clips under four noises."""
    about = {
        name: TABLE.about(name)[3:] for name in ("ddpo", "grpo", "nft", "dpo", "reward_backprop")
    }
    assert about["ddpo"] == ("a sampler that draws noise", "9")
    assert about["grpo"] == ("a sampler that draws noise; two clips of a prompt or more", "9")
    assert about["nft"] == ("two clips of a prompt or more", "4")
    assert about["dpo"][1] == "1" and about["reward_backprop"] == (
        "the gradient of the reward",
        "1",
    )


def test_every_algorithm_is_told_of():
    assert set(plugin.names("algorithms")) <= set(
        re.findall(r"^\*\*(\w+)\*\*", PAGE.read_text(), re.MULTILINE)
    )


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=lambda text: text[:30])
def test_a_wrong_option_is_refused_as_the_page_says(name, options, message):
    wrong = tomllib.loads(f"options = {{{options}}}")["options"]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        plugin.load("algorithms", name, **wrong)


def test_there_are_refusals():
    assert len(REFUSED) >= 10


def test_the_example_trains(tmp_path, monkeypatch):
    (tmp_path / "my_algorithms.py").write_text(blocks(PAGE, "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_algorithms", raising=False)
    recipe = toys.recipe(
        tmp_path,
        algorithm={"name": "my_algorithms:AboveMean", "options": {"steps": 4, "noises": 2}},
    )
    rows = [
        json.loads(line) for line in (loop.run(recipe) / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows and all(row["weight"] > 0 and row["kl"] > 0 for row in rows)
