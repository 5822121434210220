"""Features of encoders in `vidrl fit`: alone, kept between fits, and as the saved reward sees them."""

import numpy as np
import pytest
import torch

import vidrl
from vidrl.feedback import fit_features
from vidrl.feedback.fit import fit
from vidrl.feedback.fit_features import compute, principal_directions
from vidrl.feedback.judgments import Choice, Judgments
from vidrl.rewards import Samples, video
from vidrl.rewards._files.writing import write
from vidrl.rewards._fitted import picture
from vidrl.rewards.fitted import Fitted


@pytest.fixture
def calls(monkeypatch):
    """Replace the network by a fixed projection, and count the frames that it reads."""
    seen = []
    weights = torch.randn(3 * 16 * 16, 20, generator=torch.Generator().manual_seed(0))

    def network(frames):
        seen.append(len(frames))
        return frames.flatten(1) @ weights

    monkeypatch.setitem(picture._ENCODERS, "efficientnet", network)
    return seen


@pytest.fixture
def clips(tmp_path):
    draw, found = torch.Generator().manual_seed(1), []
    for n in range(24):
        path = tmp_path / f"{n}.mp4"
        write(path, 0.7 * torch.rand(5, 3, 16, 16, generator=draw) + 0.012 * n, 8.0)
        found.append(str(path))
    return found


def test_an_encoder_alone_is_fitted_and_scores_what_was_fitted(tmp_path, clips, calls):
    curves = compute(clips, ["efficientnet"], cache=tmp_path / "cache")
    assert not curves.lost and len(curves.features) == fit_features.DIRECTIONS
    assert curves.curves[clips[0]].shape == (5, 8) and curves.seconds[clips[0]] == 5 / 8
    pairs = [Choice(clips[n + 1], clips[n], 1 if n % 5 else -1) for n in range(23)]
    taste = fit(Judgments(choices=pairs), curves, form="linear", quick=True)
    frames = video.read(clips[3])[0].float() / 255
    parts = Fitted.of(taste)(Samples(frames[None], [""], 8.0)).parts
    for n, feature in enumerate(curves.features):
        np.testing.assert_allclose(
            parts[feature.name].frames[0], curves.curves[clips[3]][:, n], atol=1e-4
        )


def test_the_features_of_an_encoder_are_kept_between_fits(tmp_path, clips, calls, monkeypatch):
    first = compute(clips[:20], ["picture", "efficientnet"], cache=tmp_path / "cache")
    read = len(calls)
    again = compute(clips[:20], ["efficientnet", "picture"], cache=tmp_path / "cache")
    assert read == 20 and len(calls) == 20
    for clip in clips[:20]:
        np.testing.assert_allclose(first.curves[clip], again.curves[clip])
    compute(clips, ["efficientnet"], cache=tmp_path / "cache")
    assert len(calls) == 24
    monkeypatch.setattr(vidrl, "__version__", "another")
    compute(clips[:1], ["efficientnet"], cache=tmp_path / "cache")
    assert len(calls) == 25


def test_curves_of_another_version_are_computed_again(clips, monkeypatch):
    features, _ = fit_features.chosen(["picture"])
    keys = []
    for version in ("1", "2"):
        monkeypatch.setattr(vidrl, "__version__", version)
        keys.append([fit_features._key(clips[0], what, {}) for what in (features, "clip")])
    assert len({key for pair in keys for key in pair}) == 4


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_files_of_the_cache_are_computed_again(tmp_path, clips, calls, damage):
    from safetensors.numpy import save

    def run():
        return compute(clips[:1], ["picture", "efficientnet"], cache=tmp_path / "cache")

    first, files = run(), list((tmp_path / "cache").iterdir())
    other = save({"curve": np.zeros((5, 3, 1)), "other": np.ones(1)})
    for file in files:
        file.write_bytes(other if damage is None else damage)
    np.testing.assert_allclose(run().curves[clips[0]], first.curves[clips[0]])
    assert len(files) == 2 and len(calls) == 2


def test_a_clip_that_an_encoder_cannot_read_is_lost_with_its_reason(tmp_path, clips, calls):
    broken, gone = tmp_path / "broken.mp4", str(tmp_path / "gone.mp4")
    broken.write_bytes(b"no film")
    curves = compute([str(broken), gone, *clips[:2]], ["efficientnet"])
    assert list(curves.curves) == clips[:2] and curves.lost[gone] == "the file is gone"
    assert curves.lost[str(broken)].startswith("unreadable")
    none = compute([gone], ["efficientnet"])
    assert none.curves == {} and list(none.lost) == [gone]


def test_no_feature_at_all_is_refused(clips):
    with pytest.raises(ValueError, match="expected features out of rewards, picture"):
        compute(clips, [])
    with pytest.raises(ValueError, match="expected rewards or picture"):
        fit_features.of_video({}, ["clip"])


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_directions_are_those_of_the_singular_value_decomposition(shape):
    draw = np.random.default_rng(0)
    rows = draw.normal(size=shape) * np.linspace(3, 1, shape[1])
    mean, found = principal_directions(rows, 4)
    right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:4].T
    np.testing.assert_allclose(np.abs((found * right).sum(0)), 1, atol=1e-9)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-9)
    assert principal_directions(np.ones((5, 3)), 4)[1].shape == (3, 0)
