"""The study of memory options: its recipes are known without weights, and its page is built."""

import json

from vidrl import config
from vidrl.benchmarks.studies import memory
from vidrl.cost import driven


def test_each_model_of_the_study_is_known_without_weights():
    """A recipe with a misspelt hub id is unknown, too."""
    for model in memory.MODELS:
        driven.check_here(config.load(memory.RECIPES / f"{model}.toml"))


def test_stored_cells_make_the_page(tmp_path):
    values = dict(zip(memory.SETS, (90, 40, 30, 24, 22, 20, 10), strict=True))
    cells = tmp_path / "cells.jsonl"
    cells.write_text(
        "".join(
            json.dumps({"model": "flux", "set": name, "cell": {"peak": value}}) + "\n"
            for name, value in values.items()
        )
    )
    out = tmp_path / "page.md"
    arguments = ["--models", "flux", "--cells", str(cells), "--out", str(out)]
    assert memory.main(arguments) == 0
    row = (
        "| `flux` | 90.0 | 40.0 (48) | 30.0 (48) | 24.0 (48) | 22.0 (24) | 20.0 (24) | 10.0 (24) |"
    )
    assert row in out.read_text()  # 92 % of 24 GB are 22.1


def test_each_set_adds_to_the_one_before():
    names = list(memory.SETS)
    last = "backbone.options.quantization=nf4"
    assert memory.overrides(names[-1])[-1] == last and last not in memory.overrides(names[-2])
