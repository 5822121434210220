"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import sys
from pathlib import Path

import pytest
from test_layers import MODULES

# A study imports its helper modules by their plain names, as it does when it runs as a script.
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "studies"))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_examples(name):
    module = importlib.import_module(f"vidrl.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0
