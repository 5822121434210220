"""The study of reward workers times the same numbers, and computes what is possible."""

import pytest
import torch

from vidrl.benchmarks.studies import overlap as study


def test_the_best_possible_seconds():
    assert study.best(0.2, 0.4, 8, 0) == pytest.approx(4.8)
    assert study.best(0.2, 0.4, 8, 1) == pytest.approx(0.6 + 7 * 0.4)
    assert study.best(0.2, 0.4, 8, 2) == pytest.approx(0.6 + 7 * 0.2)


def test_numbers_that_differ_stop_the_study(monkeypatch):
    monkeypatch.setattr(study, "COUNTS", (0,))
    drawn = iter(torch.rand(9))

    def chunks():
        yield study.Samples(torch.full((1, 3, 3, 16, 16), float(next(drawn))), [""], 8.0)

    with pytest.raises(RuntimeError, match="the same numbers"):
        study.timed(study.Waits(0.0), chunks, repeats=1)
