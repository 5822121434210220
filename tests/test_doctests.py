"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib

import pytest
from test_layers import MODULES


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_examples(name):
    module = importlib.import_module(f"vidrl.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0
