"""benchmarks/results/index.toml: every result has its command, every sentence that quotes a
number its result."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
INDEX = tomllib.loads((RESULTS / "index.toml").read_text(encoding="utf-8"))
QUOTES = [(name, *quote) for name, row in INDEX.items() for quote in row.get("quotes", [])]


def squeezed(text: str) -> str:
    """With one blank for all blanks and line breaks, and without the marks that quote a
    line."""
    return re.sub(r"\s+", " ", text)


def read(path: Path) -> str:
    return squeezed(path.read_text(encoding="utf-8"))


def test_every_result_is_in_the_index_and_no_other() -> None:
    assert sorted(INDEX) == sorted(str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.md"))
    assert all(
        set(row) <= {"about", "date", "command", "quotes", "earlier"} for row in INDEX.values()
    )


@pytest.mark.parametrize("name", INDEX)
def test_a_result_names_the_command_that_made_it(name: str) -> None:
    assert INDEX[name]["about"] and squeezed(INDEX[name]["command"]) in read(RESULTS / name)
    scripts = re.findall(r"(?:python|bash) (\S+)", INDEX[name]["command"])
    assert all((ROOT / script).is_file() for script in scripts), scripts


@pytest.mark.parametrize(("name", "page", "says", "result"), QUOTES)
def test_a_sentence_rests_on_its_result(name: str, page: str, says: str, result: str) -> None:
    assert squeezed(says) in read(ROOT / page), f"{page} no longer says {says!r}: correct the index"
    held = squeezed(result) in read(RESULTS / name)
    assert held, f"{name} no longer holds {result!r}: correct {page} and the index"


def test_pages_link_results_that_are_there_and_say_something_of_them() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    linked = {
        found for text in texts for found in re.findall(r"benchmarks/results/([\w./]+\w)", text)
    }
    assert linked and all((RESULTS / name).is_file() for name in linked)
    assert {page for _, page, _, _ in QUOTES} <= {str(page.relative_to(ROOT)) for page in pages}


def test_the_page_of_results_is_current() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts" / "results_page.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == script.FILE.read_text(encoding="utf-8"), f"python {script.__file__}"
