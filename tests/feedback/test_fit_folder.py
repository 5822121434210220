"""A folder of a fitted reward that is damaged, or was made to harm, is refused with words."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vidrl.rewards import Samples, load
from vidrl.rewards._fitted import folder
from vidrl.rewards._fitted.folder import Feature, Taste
from vidrl.rewards._fitted.picture import Direction
from vidrl.rewards.fitted import Fitted

FEATURES = tuple(Feature(f"picture.{n}", "picture", {"measure": n}) for n in ("light", "change"))
SQUARE = torch.eye(2)
COMMON = {"centre": torch.zeros(2), "scale": torch.ones(2), "precision": SQUARE}
LINEAR = {**COMMON, "weights": torch.ones(2), "covariance": SQUARE.clone()}
NONLINEAR = {
    **COMMON,
    "linear": torch.ones(3, 2),
    "outer": torch.ones(3, 4),
    "bias": torch.ones(3, 4),
    "window": torch.ones(3, 4, 6),
}


def saved(where, form="linear", features=FEATURES, **changed):
    """Write a good folder, then change tensors; None takes a tensor away."""
    tensors = LINEAR if form == "linear" else NONLINEAR
    folder.write(Taste(features, tensors, form, 1.0, {}), where)
    kept = {name: each for name, each in (tensors | changed).items() if each is not None}
    save_file(kept, where / "fit.safetensors")
    return where


def changed(where, **changes):
    """Write a good folder, then change entries of fit.json."""
    saved(where)
    table = json.loads((where / "fit.json").read_text())
    (where / "fit.json").write_text(json.dumps(table | changes))
    return where


def test_both_heads_are_read_and_score(tmp_path):
    samples = Samples(torch.rand(1, 4, 3, 8, 8), [""], 8.0)
    for form in ("linear", "temporal"):
        assert load("fitted", model=str(saved(tmp_path, form)))(samples).value.isfinite().all()


@pytest.mark.parametrize("name", list(LINEAR))
def test_each_tensor_of_the_linear_head_has_one_shape(tmp_path, name):
    for wrong in (None, torch.ones(3), torch.ones(2, 3), torch.ones(())):
        saved(tmp_path, **{name: wrong})
        with pytest.raises(ValueError, match=rf"expected {name} of shape \(2,.*fit again"):
            folder.read(tmp_path)


@pytest.mark.parametrize("name", ["linear", "outer", "bias", "window"])
def test_each_tensor_of_the_nonlinear_head_has_one_shape(tmp_path, name):
    for wrong in (None, torch.ones(3), torch.ones(2, 5), torch.ones(3, 4, 5), torch.ones(0, 4)):
        saved(tmp_path, "temporal", **{name: wrong})
        with pytest.raises(ValueError, match=r"expected \w+ of shape .*fit again"):
            folder.read(tmp_path)


def test_directions_of_an_encoder_must_hold_the_column_of_each_feature(tmp_path):
    features = tuple(
        Feature(f"clip.{n}", "encoder", {"encoder": "clip", "direction": 9 * n}) for n in range(2)
    )
    good = {"clip.directions": torch.ones(5, 10), "clip.offsets": torch.ones(10)}
    assert folder.read(saved(tmp_path, features=features, **good)).features == features
    for name, wrong in (
        ("clip.directions", None),
        ("clip.directions", torch.ones(5, 9)),
        ("clip.directions", torch.ones(10)),
        ("clip.offsets", None),
        ("clip.offsets", torch.ones(9)),
    ):
        saved(tmp_path, features=features, **(good | {name: wrong}))
        with pytest.raises(ValueError, match=r"expected clip\.\w+ of shape .*fit again"):
            folder.read(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"scale": torch.tensor([1.0, 0.0])}, "scales above 0"),
        ({"scale": torch.tensor([1.0, -2.0])}, "scales above 0"),
        ({"weights": torch.tensor([1.0, torch.nan])}, "finite tensors"),
        ({"weights": torch.tensor([1e300, 1.0], dtype=torch.float64)}, "finite tensors"),
        ({"weights": torch.tensor([1, 2])}, "floating-point numbers"),
        ({"weights": torch.tensor([True, False])}, "floating-point numbers"),
        ({"weights": torch.ones(2, dtype=torch.complex64)}, "floating-point numbers"),
    ],
)
def test_numbers_that_no_fit_has_are_refused(tmp_path, wrong, words):
    saved(tmp_path, **wrong)
    with pytest.raises(ValueError, match=words):
        folder.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"familiar": "far"}, "familiar, a number above 0"),
        ({"familiar": 0}, "familiar, a number above 0"),
        ({"familiar": float("nan")}, "familiar, a number above 0"),
        ({"familiar": True}, "familiar, a number above 0"),
        ({"familiar": 10**400}, "familiar, a number above 0"),
        ({"form": ["linear"]}, "head out of linear, temporal"),
        ({"form": "__class__"}, "head out of linear, temporal"),
        ({"facts": [1]}, "an object with facts"),
        ({"features": None}, "a list of features"),
        ({"features": []}, "a list of features"),
        ({"features": ["flicker", "drift"]}, "features with name, reward, options"),
    ],
)
def test_a_wrong_entry_of_the_table_is_named(tmp_path, changes, words):
    changed(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        folder.read(tmp_path)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "name", ["picture.light", "uncertainty", "unfamiliar", "", "a\x1b[2J", 3, None]
)
def test_names_of_features_are_printable_and_differ(tmp_path, name, trusted):
    rows = [{"name": "picture.light", "reward": "picture", "options": {"measure": "light"}}]
    changed(tmp_path, features=[*rows, rows[0] | {"name": name}])
    with pytest.raises(ValueError, match=r"names of features|of different names"):
        folder.read(tmp_path, trusted)


@pytest.mark.parametrize("text", ["", "[1]", "null", '"x"', "[" * 10**5, "{'format': 1}"])
def test_a_table_that_is_no_object_is_refused(tmp_path, text):
    saved(tmp_path)
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(ValueError, match="fit again"):
        folder.read(tmp_path)


def test_a_damaged_file_of_tensors_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "fit.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="expected safetensors"):
        folder.read(tmp_path)


def test_an_encoder_of_another_width_is_named(monkeypatch):
    from vidrl.rewards._fitted import picture

    monkeypatch.setattr(picture, "encoded", lambda samples, name: torch.ones(1, 4, 7))
    with pytest.raises(ValueError, match="expected 5 features of the encoder clip.*got 7"):
        Direction("clip", torch.ones(5), 0.0)(Samples(torch.rand(1, 4, 3, 8, 8), [""], 8.0))


def test_doubles_are_read_as_floats(tmp_path):
    saved(tmp_path, weights=torch.tensor([0.1, 0.2], dtype=torch.float64))
    found = folder.read(tmp_path)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    assert Fitted.of(found).taste is found
