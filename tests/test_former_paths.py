"""The import paths that the pages of earlier versions showed lead to today's objects."""

import importlib

import pytest

from vidrl import credit

SAME = {
    "vidrl.segments": "vidrl.diffusion.segments",
    "vidrl.transition": "vidrl.diffusion.transition",
    "vidrl.estimators": "vidrl.credit.estimators",
}
CREDIT = [
    "advantages",
    "any_curve",
    "blend",
    "by_segment",
    "earned",
    "gls",
    "group_mean",
    "group_std",
    "leave_one_out",
    "normalise",
    "posterior",
    "scaled",
    "segment_scores",
    "segment_sums",
    "step_gains",
    "to_latent",
    "whole_clip",
    "without",
]


@pytest.mark.parametrize("former", SAME)
def test_a_former_module_has_the_objects_of_its_new_place(former):
    old, new = importlib.import_module(former), importlib.import_module(SAME[former])
    assert old.__all__
    assert all(getattr(old, name) is getattr(new, name) for name in old.__all__)


def test_a_run_starts_from_the_former_path():
    former, now = (
        importlib.import_module("vidrl.train"),
        importlib.import_module("vidrl.training.loop"),
    )
    assert former.run is now.run and issubclass(former.Trainer, now.Trainer)


@pytest.mark.parametrize("name", CREDIT)
def test_credit_has_the_names_of_the_former_module(name):
    assert callable(getattr(credit, name))
