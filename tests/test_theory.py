"""docs/theory.md: each function and each test that the page names exists."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "theory.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(vidrl\.[\w.]+)`", TEXT))))
def test_each_function_exists(name: str) -> None:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        assert callable(found)
        return
    pytest.fail(f"no module of {name}")


@pytest.mark.parametrize(
    "file, test", sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
)
def test_each_test_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()
