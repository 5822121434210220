"""The study of agreement: the true world agrees with itself, and a world of no motion does not."""

import importlib
import sys
from pathlib import Path

import pytest

from vidrl.worlds.simulator import TrueWorld

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))


class Still(TrueWorld):
    """A world in which every action is "stay"."""

    def follow(self, frames, actions, draws):
        return super().follow(frames, ["stay"] * len(actions), draws)


@pytest.fixture
def study(monkeypatch):
    module = importlib.import_module("world_agreement")
    monkeypatch.setattr(module, "SINGLE", 20)
    return module


def test_worlds_that_are_known(study) -> None:
    true, still = (study.measures(world, 3, 12) for world in (TrueWorld(), Still()))
    assert true.keys() == still.keys()
    for name, value in true.items():
        if "same reward" in name or "right after" in name:
            assert value.tolist() == [1] * len(value), name
        elif "cells away" in name:
            assert value.max() < 0.01
    assert still["push, slips 0.0: success"].tolist() == [0, 0, 0]
    assert still["right after a push"].tolist() == [0] * 20
    assert 0 < still["right after a random action"].mean() < 1  # some actions move nothing
    assert still["cells away after 8 actions"].min() > 0


def test_a_run_that_is_not_there_is_named_before_any_measurement(
    study, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(study, "measures", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["world_agreement.py", "runs/none"])
    with pytest.raises(SystemExit):
        study.main()
    assert "runs/none: expected a run folder" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_measure(study) -> None:
    world = study.measures(Still(), 6, 4)
    lines = study.table("run", world, world).splitlines()
    assert len(lines) == len(world) and "+0.000" in lines[0]
