"""A folder of `vidrl fit` from anybody is data: no feature of it runs code or calls a server."""

import json
import sys

import pytest
import torch

from vidrl.feedback import fit_card
from vidrl.rewards import load
from vidrl.rewards._fitted import folder
from vidrl.rewards._fitted.folder import Feature, Taste
from vidrl.rewards._fitted.offered import ENCODERS, REWARDS
from vidrl.rewards._fitted.picture import MEASURES


def saved(where, *features):
    """Write a linear fit of some features, one weight each."""
    count = len(features)
    tensors = {
        "centre": torch.zeros(count),
        "scale": torch.ones(count),
        "precision": torch.eye(count),
        "weights": torch.ones(count),
        "covariance": torch.eye(count),
        "clip.directions": torch.ones(4, 1),
        "clip.offsets": torch.zeros(1),
    }
    taste = Taste(tuple(features), tensors, "linear", 1.0, {})
    folder.write(taste, where)
    return taste


def test_a_feature_that_names_a_program_does_not_run_it(tmp_path):
    mark = tmp_path / "mark"
    saved(tmp_path, Feature("x", "subprocess:Popen", {"args": ["touch", str(mark)]}))
    with pytest.raises(ValueError, match=r"expected features .* got 'x'.*trusted"):
        load("fitted", model=str(tmp_path))
    assert not mark.exists()


def test_a_feature_that_names_a_module_does_not_import_it(tmp_path, monkeypatch):
    (tmp_path / "planted_by_a_folder.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    for options in ({"reward": "planted_by_a_folder:Reward"}, {"reward": "flicker"}):
        flow = {"options": {"flow": "planted_by_a_folder:flow"}}
        saved(tmp_path, Feature("x", **options, **flow))
        with pytest.raises(ValueError, match="expected features"):
            load("fitted", model=str(tmp_path))
    assert "planted_by_a_folder" not in sys.modules


@pytest.mark.parametrize(
    ("reward", "options"),
    [
        ("flicker", {"flow": "raft:/etc/passwd"}),
        ("flicker", {"detail": 0.3, "flow_size": 10**6}),
        ("http_scorer", {"url": "https://elsewhere.example"}),
        ("judge", {"base_url": "https://elsewhere.example/v1"}),
        ("fitted", {"model": "other/", "trusted": True}),
        ("default", {}),
        ("encoder", {"encoder": "clip:/somewhere", "direction": 0}),
        ("encoder", {"encoder": "clip", "direction": "0"}),
        ("encoder", {"encoder": "clip", "direction": True}),
        ("encoder", {"encoder": "clip", "direction": 0, "chunk": 2}),
        ("picture", {"measure": "__class__"}),
        ("../escape", {}),
        (["flicker"], {}),
        ("flicker", ["detail"]),
    ],
)
def test_options_that_vidrl_fit_does_not_write_are_refused(tmp_path, reward, options):
    saved(tmp_path, Feature("x", reward, options))
    with pytest.raises(ValueError, match="expected features"):
        load("fitted", model=str(tmp_path))


def test_features_of_another_shape_are_refused(tmp_path):
    saved(tmp_path, Feature("x", "flicker"))
    table = json.loads((tmp_path / "fit.json").read_text())
    (tmp_path / "fit.json").write_text(json.dumps(table | {"features": [{"run": "x"}]}))
    with pytest.raises(ValueError, match="expected features with name, reward, options"):
        load("fitted", model=str(tmp_path))


def test_all_that_vidrl_fit_offers_is_read(tmp_path):
    features = [Feature(name, *spec) for name, spec in REWARDS.items()]
    features += [Feature(name, "picture", {"measure": name}) for name in MEASURES]
    features += [Feature(name, "encoder", {"encoder": name, "direction": 0}) for name in ("clip",)]
    saved(tmp_path, *features)
    assert folder.read(tmp_path).features == tuple(features)
    every = [Feature(name, "encoder", {"encoder": name, "direction": 7}) for name in ENCODERS]
    assert folder.need_trust(every) == []


def test_a_folder_of_ones_own_code_is_read_on_request_and_the_card_says_how(tmp_path, monkeypatch):
    (tmp_path / "own_code_of_a_fit.py").write_text(
        "from vidrl.rewards.flicker import Flicker\n\n\nclass Own(Flicker):\n    '''Own.'''\n"
    )
    monkeypatch.chdir(tmp_path)
    taste = saved(tmp_path, Feature("own", "own_code_of_a_fit:Own", {"flow": "farneback"}))
    with pytest.raises(ValueError, match="trusted"):
        load("fitted", model=str(tmp_path))
    assert load("fitted", model=str(tmp_path), trusted=True).parts["own"].flow == "farneback"
    assert fit_card.trust(taste) == " --option trusted=true"
    assert fit_card.trust(saved(tmp_path, Feature("flicker", *REWARDS["flicker"]))) == ""
