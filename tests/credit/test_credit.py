"""vidrl.credit against hand-computed numbers, and the rules of what is not scored."""

from math import sqrt

import pytest
import torch
from torch import Tensor

from vidrl.credit import blend, by_segment, group_mean, group_std, normalise, segment_scores
from vidrl.rewards import Score

NAN = float("nan")
SPANS = [(0, 2), (2, 6)]


def near(got: Tensor, expected: object) -> bool:
    return torch.allclose(got, torch.tensor(expected), atol=1e-6)


def test_group_statistics_by_hand() -> None:
    values, group = torch.tensor([1.0, 10.0, 3.0, 40.0, NAN]), torch.tensor([7, 2, 7, 2, 7])
    assert near(group_mean(values, group), [2.0, 25.0, 2.0, 25.0, 2.0])
    assert near(group_std(values, group)[:4], [1.0, 15.0, 1.0, 15.0])
    assert group_mean(torch.tensor([NAN, 1.0]), torch.tensor([0, 1])).isnan().tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    "scale, expected",
    [
        ("group", [-1 / (1 + 1e-4), 1 / (1 + 1e-4), -3 / (3 + 1e-4), 3 / (3 + 1e-4)]),
        # (1 + 1 + 9 + 9) / 4 = 5
        ("batch", [-1 / sqrt(5), 1 / sqrt(5), -3 / sqrt(5), 3 / sqrt(5)]),
        ("none", [-1.0, 1.0, -3.0, 3.0]),
    ],
)
def test_normalise_by_hand(scale: str, expected: list[float]) -> None:
    values, group = torch.tensor([1.0, 3.0, 10.0, 16.0]), torch.tensor([0, 0, 1, 1])
    assert torch.allclose(normalise(values, group, scale), torch.tensor(expected), atol=5e-5)


def test_segments_are_normalised_each_for_itself() -> None:
    values = torch.tensor([[1.0, 100.0], [3.0, 300.0]])
    assert near(normalise(values, torch.zeros(2), eps=0.0), [[-1.0, -1.0], [1.0, 1.0]])


def test_a_segment_may_be_unscored_where_another_is_not() -> None:
    values = torch.tensor([[1.0, NAN], [3.0, 5.0], [5.0, 7.0]])
    got = normalise(values, torch.zeros(3), eps=0.0)
    assert near(got[:, 0], [-sqrt(1.5), 0.0, sqrt(1.5)]) and near(got[:, 1], [0.0, -1.0, 1.0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_unscored_samples_and_groups_of_one_get_nothing(scale: str) -> None:
    values = torch.tensor([1.0, 3.0, NAN, 9.0, NAN, NAN, NAN, 5.0])
    group = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    got = normalise(values, group, scale)
    assert got[2:].tolist() == [0.0] * 6 and got[0] == -got[1] < 0
    # and they disturb nobody
    assert torch.allclose(got[:2], normalise(values[:2], group[:2], scale))


@pytest.mark.parametrize("level", [0.0, 0.1, 1000.1])
@pytest.mark.parametrize("members", [2, 3, 7])
def test_equal_rewards_give_no_gradient(level: float, members: int) -> None:
    """Not even the rounding of a mean, blown up by a std that is rounding too."""
    assert normalise(torch.full((members,), level), torch.zeros(members)).abs().max() < 1e-5


def test_order_does_not_matter() -> None:
    values, group = torch.randn(12, 3), torch.arange(12) % 4
    values[5, 1] = NAN
    order = torch.randperm(12)
    for scale in ("group", "batch", "none"):
        got = normalise(values, group, scale)
        assert torch.allclose(normalise(values[order], group[order], scale), got[order], atol=1e-6)


def test_shift_and_scale_of_a_reward_do_not_matter() -> None:
    values, group = torch.randn(8, dtype=torch.float64), torch.arange(8) // 4
    got = normalise(values, group, eps=0.0)
    assert torch.allclose(normalise(3 * values - 7, group, eps=0.0), got)
    assert group_mean(got, group).abs().max() < 1e-12 and torch.allclose(
        group_std(got, group), torch.ones(8).double()
    )


def test_nothing_differs_within_one_group_and_batch_scale_does_not_blow_it_up() -> None:
    values, group = torch.tensor([0.0, 10.0, 5.0, 5.001]), torch.tensor([0, 0, 1, 1])
    by_group, by_batch = normalise(values, group, "group"), normalise(values, group, "batch")
    assert by_group[3] > 0.8 and 0 < by_batch[3] < 1e-3


def test_local_curves_are_averaged_and_others_spread() -> None:
    value, curve = torch.tensor([5.0]), torch.tensor([[1.0, 3.0, 0.0, 4.0, 8.0, 0.0]])
    for support in ("frame", "pair"):
        assert by_segment(value, curve, support, SPANS).tolist() == [[2.0, 3.0]]
    for support in ("prefix", "clip"):
        assert by_segment(value, curve, support, SPANS).tolist() == [[5.0, 5.0]]
    assert by_segment(value, None, "frame", SPANS).tolist() == [[5.0, 5.0]]


def test_blend_by_hand() -> None:
    whole, local = torch.tensor([1.0, -1.0]), torch.tensor([[3.0, -1.0], [0.0, 2.0]])
    assert blend(whole, local, 0.0).tolist() == [[1.0, 1.0], [-1.0, -1.0]]
    assert torch.equal(blend(whole, local, 1.0), local)
    assert blend(whole, local, 0.25).tolist() == [[1.5, 0.5], [-0.75, -0.25]]


def test_errors() -> None:
    with pytest.raises(ValueError, match='expected scale "group", "batch" or "none", got \'std\''):
        normalise(torch.ones(2), torch.zeros(2), "std")
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match=rf"expected α in \[0, 1\], got {alpha}"):
            blend(torch.ones(1), torch.ones(1, 2), alpha)


def test_a_composite_credits_each_part_by_its_own_support() -> None:
    local = Score(torch.tensor([2.0]), torch.tensor([[1.0, 1.0, 3.0, 3.0]]), "frame")
    prefix = Score(torch.tensor([5.0]), torch.tensor([[9.0, 9.0, 1.0, 1.0]]), "prefix")
    slopes = {"a": torch.tensor([4.0]), "b": torch.ones(1)}
    whole = Score(torch.tensor([10.0]), parts={"a": local, "b": prefix}, slopes=slopes)
    # 10 + 4 (1 - 2), 10 + 4 (3 - 2); the prefix part looks at the whole clip and moves no
    # segment
    assert segment_scores(whole, [(0, 2), (2, 4)]).tolist() == [[6.0, 14.0]]
