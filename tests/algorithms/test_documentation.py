"""What a person reads about an algorithm: a sentence, the paper, and every option with its
meaning."""

import importlib
import inspect
import re

import pytest

from vidrl import plugin


@pytest.fixture(params=plugin.names("algorithms"))
def name(request) -> str:
    return request.param


def test_every_option_is_explained_where_it_is_shown(name):
    """Options that come from a shared base are explained there, and `vidrl show` prints
    that too."""
    facts = plugin.facts("algorithms", name)
    assert [
        option["name"] for option in facts["options"] if f"`{option['name']}`" not in facts["doc"]
    ] == []


def test_the_summary_is_one_sentence_without_a_formula(name):
    summary = plugin.facts("algorithms", name)["summary"]
    assert summary.endswith(".") and summary.count(". ") == 0 and len(summary) <= 120
    assert not re.search(r"[=ΣβρσΔ‖]", summary), summary


def test_the_file_cites_its_paper(name):
    module = importlib.import_module(f"vidrl.algorithms.{name}")
    cited = inspect.getdoc(module) + inspect.getdoc(plugin.find("algorithms", name))
    assert re.search(r"\d{4}\.\d{5}", cited)
