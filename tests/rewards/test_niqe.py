"""NIQE equals known distributions and the published implementation, and ranks real frames."""

import importlib
import importlib.util
import math

import numpy as np
import pytest
import torch
from _real import clip

from vidrl.rewards import Samples
from vidrl.rewards.niqe import CURE, Niqe, features, fitted, luma, normalised
from vidrl.synthetic import corruptions

needs_statistics = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in Niqe.needs), reason=CURE
)


def test_the_fit_finds_known_distributions():
    normal = torch.randn(1, 200_000)
    shape, mean, left, right = fitted(normal)
    assert shape.item() == pytest.approx(2.0, abs=0.05) and mean.abs().item() < 0.02
    assert left.item() == pytest.approx(math.sqrt(2), rel=0.02) and right.item() == pytest.approx(
        left.item(), rel=0.02
    )
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((1, 200_000))
    assert fitted(laplace)[0].item() == pytest.approx(1.0, abs=0.03)
    skewed = torch.where(normal < 0, normal, 2 * normal)
    assert (fitted(skewed)[3] / fitted(skewed)[2]).item() == pytest.approx(2.0, rel=0.02)


def test_normalising_takes_light_and_contrast_out():
    image = torch.rand(40, 40) * 200 + 20
    inner = slice(4, -4)
    torch.testing.assert_close(
        normalised(image, 0.0)[inner, inner],
        normalised(0.5 * image + 30, 0.0)[inner, inner],
        atol=5e-3,
        rtol=1e-2,
    )


def test_luma():
    assert luma(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).item() == pytest.approx(76.245)


def test_small_frames_are_refused_and_options_checked():
    score = Niqe()(Samples(torch.rand(1, 1, 3, 150, 300), [""], 8.0))
    assert score.value.isnan().all() and "192 x 192" in score.why[0]
    with pytest.raises(ValueError, match="even"):
        Niqe(patch=7)


@needs_statistics
def test_the_features_are_the_published_ones(monkeypatch):
    """Features equal those of scikit-video's functions on the same normalised image.

    Its resizing is not compared, because it needs a SciPy that is no longer available.
    """
    monkeypatch.setattr(np, "int", int, raising=False)
    monkeypatch.setattr(np, "float", float, raising=False)
    reference = _published()
    image = luma(clip("bikes", 50, 51)[0][0])[:192, :384]
    full = image.numpy()
    half = torch.nn.functional.interpolate(
        image[None, None], size=(96, 192), mode="bicubic", antialias=True
    )[0, 0]
    wanted = np.hstack(
        [
            reference["niqe"].extract_on_patches(
                reference["mscn"].compute_image_mscn_transform(x)[0], side
            )
            for x, side in ((full, 96), (half.numpy(), 48))
        ]
    )
    torch.testing.assert_close(features(image, 96), torch.from_numpy(wanted), atol=3e-3, rtol=3e-3)


def _published():
    """Load the modules of scikit-video that hold the features, without the other modules."""
    import types

    from vidrl.rewards._networks.weights import package_file

    root = package_file("skvideo", "utils/stats.py", CURE).parent.parent
    code = {
        name: (root / path).read_text()
        for name, path in (
            ("mscn", "utils/mscn.py"),
            ("stats", "utils/stats.py"),
            ("niqe", "measure/niqe.py"),
        )
    }
    made = {name: types.SimpleNamespace() for name in code}
    scope = {}
    for name, text in code.items():
        scope["__name__"] = name
        exec(text.replace("from ..utils import *", "").replace("import scipy.misc", ""), scope)
        made[name].__dict__.update(scope)
    return {name: types.SimpleNamespace(**scope) for name in made}


@needs_statistics
@pytest.mark.parametrize(
    ("name", "start"), [("bikes", 150), pytest.param("bigbuckbunny", 60, marks=pytest.mark.slow)]
)
def test_real_frames_get_worse_by_what_it_says(name, start):
    video = clip(name, start, start + 1)[0]
    reward = Niqe()
    clean = reward(Samples(video[None], [""], 25.0)).value.item()
    assert -7 < clean < -3
    for fault in reward.lowered_by:
        assert (
            reward(
                Samples(corruptions.corrupt(video, fault, seed=0)[None], [""], 25.0)
            ).value.item()
            < clean
        ), fault


@needs_statistics
def test_the_published_sum():
    reward = Niqe(ridge=0.0)
    video = clip("bikes", 150, 151)[0]
    measured = features(luma(video[0]), 96).double().numpy()
    mean, covariance = (x.numpy() for x in reward.setup())
    away = measured.mean(0) - mean
    wanted = -math.sqrt(
        away @ np.linalg.pinv((np.cov(measured.T) + covariance) / 2, hermitian=True) @ away
    )
    assert reward(Samples(video[None], [""], 25.0)).value.item() == pytest.approx(wanted, rel=1e-3)
