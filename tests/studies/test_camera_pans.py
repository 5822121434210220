"""The study of the camera: what it measures of films whose truth is known."""

import importlib
from dataclasses import replace

import pytest
import torch

from vidrl.rewards import Samples
from vidrl.synthetic import world

ASKED = list(world.CAMERAS)


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend("benchmarks/studies")
    return importlib.import_module("camera_pans")


def films(shown: list[str]) -> Samples:
    """Films under the cameras `shown`, whose captions ask for each camera in turn."""
    scene = world.Scene("cross", "blue", "rest", "slow", "speckled")
    clips = [world.render(replace(scene, camera=camera), 64, seed=3).video for camera in shown]
    captions = [replace(scene, camera=camera).caption for camera in ASKED]
    return Samples(torch.stack(clips), captions, 8.0)


def test_true_films_show_the_camera_and_the_thing_of_their_captions(study) -> None:
    found = study.measured(films(ASKED))
    for name in ("named", "explained", "all", "identity"):
        assert found[name].tolist() == [1.0] * 5, name
    diagonal = world.CAMERA_SPEED / 2**0.5  # of the rendered camera, diagonals a second
    assert found["along"][1:].tolist() == pytest.approx([diagonal] * 4, rel=0.15)


def test_films_of_another_camera_do_not_and_their_things_are_the_same(study) -> None:
    found = study.measured(films([*ASKED[1:], ASKED[0]]))
    assert not found["named"].any() and not found["explained"].any()
    assert found["all"].all()
