"""The credit of a fitted reward: its own curve, with its caution, whatever per_part says."""

import warnings

import pytest
import torch

from vidrl.credit import advantages
from vidrl.rewards import Samples
from vidrl.rewards._fitted.folder import Feature, Taste
from vidrl.rewards.fitted import Fitted

SPANS = [(0, 3), (3, 6)]


def linear() -> Taste:
    features = tuple(Feature(name, "picture", {"measure": name}) for name in ("light", "colour"))
    tensors = {
        "centre": torch.tensor([0.5, 0.1]),
        "scale": torch.tensor([0.1, 0.2]),
        "precision": torch.eye(2),
        "weights": torch.tensor([2.0, -1.0]),
        "covariance": torch.tensor([[0.5, 0.1], [0.1, 0.3]]),
    }
    return Taste(features, tensors, "linear", 3.0)


def score(taste: Taste, caution: float):
    video = torch.rand(4, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    video = video * torch.tensor([0.2, 0.5, 0.8, 1.0]).view(4, 1, 1, 1, 1)
    return Fitted.of(taste, caution)(Samples(video, [""] * 4, 8.0))


@pytest.mark.parametrize("caution", [0.0, 2.0])
def test_per_part_changes_nothing_of_a_fitted_reward(caution):
    """Its features divided by their spread in the round would be another taste."""
    found = score(linear(), caution)
    group = torch.tensor([0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, split = (
            advantages(found, group, SPANS, "segment", 1.0, "batch", each) for each in (False, True)
        )
    assert torch.equal(whole, split) and whole.any()


@pytest.mark.parametrize(
    "taste, caution, named",
    [(linear(), 0.0, []), (linear(), 1.0, ["uncertainty"]), (Fitted.tiny().taste, 1.0, [])],
)
def test_only_a_part_that_adds_to_the_value_is_named_as_one_without_curve(taste, caution, named):
    """`unfamiliar` adds nothing; the curve of a bent head is credited itself."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        advantages(score(taste, caution), torch.zeros(4).long(), SPANS, "segment", 1.0, "batch")
    assert [str(one.message).split()[0] for one in seen] == named
