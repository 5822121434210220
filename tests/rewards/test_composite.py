"""How a Composite adds up, and what it does with what cannot be scored."""

import math

import pytest
import torch

from vidrl.rewards import Composite, Reward, Samples, Score, default

VIDEO = torch.rand(3, 4, 3, 8, 8)


class Fixed(Reward):
    """A reward whose values are given."""

    differentiable = True

    def __init__(self, *values: float, why: tuple[str | None, ...] = (), support: str = "frame") -> None:
        super().__init__()
        self.values, self.why, self.support = torch.tensor(values), why, support

    def forward(self, samples: Samples) -> Score:
        curve = self.values[:, None] + torch.tensor([-1.0, 1.0, 0.0, 0.0])
        return Score(self.values.clone(), curve, self.support, why=self.why)


def value(composite: Composite) -> list[float]:
    return composite(Samples(VIDEO, [""] * 3, 8.0)).value.tolist()


def test_weights_and_scales_add_up():
    parts = {"a": Fixed(1.0, 2.0, 3.0), "b": Fixed(10.0, 0.0, 5.0)}
    whole = Composite(parts, weights={"a": 2.0}, scales={"b": (5.0, 10.0)})
    score = whole(Samples(VIDEO, [""] * 3, 8.0))
    assert score.value.tolist() == pytest.approx([2.5, 3.5, 6.0])
    assert score.frames[0].tolist() == pytest.approx([0.4, 4.6, 2.5, 2.5])
    torch.testing.assert_close(score.frames.mean(1), score.value)
    assert score.weights == {"a": 2.0, "b": 1.0} and score.parts["a"].value.tolist() == [1, 2, 3]


def test_bands_take_off_on_both_sides():
    whole = Composite({"a": Fixed(0.0, 1.5, 4.0)}, scales={"a": (7.0, 2.0)}, bands={"a": (1.0, 2.0)})
    assert value(whole) == [-0.5, 0.0, -1.0]


def test_a_gate_shuts_out_what_the_others_earn():
    parts = {"moves": Fixed(0.0, 0.25, 1.0), "rest": Fixed(100.0, 100.0, 100.0)}
    whole = Composite(parts, weights={"moves": 0.0}, gates={"moves": 0.5}, floor=0.0)
    assert value(whole) == [0.0, 50.0, 100.0]


def test_batch_normalisation_makes_parts_spread_alike():
    parts = {"a": Fixed(1.0, 2.0, 3.0), "b": Fixed(300.0, 200.0, 100.0)}
    assert value(Composite(parts, normalise="batch")) == pytest.approx([0, 0, 0], abs=1e-6)
    assert value(Composite({"a": parts["a"]}, normalise="batch")) == pytest.approx([-1, 0, 1])


def test_a_part_that_is_not_scored_leaves_the_whole_unscored():
    broken = Fixed(1.0, math.nan, 2.0, why=(None, "unscored: NaN in frame 2", None))
    score = Composite({"a": Fixed(1.0, 1.0, 1.0), "b": broken})(Samples(VIDEO, [""] * 3, 8.0))
    assert score.value.isnan().tolist() == [False, True, False] and score.frames[1].isnan().all()
    assert score.why == [None, "unscored: b: NaN in frame 2", None]


@pytest.mark.parametrize(("why", "optional", "expected"), [
    ("inapplicable: one frame", ("b",), 4.0),  # b's weight goes to a
    ("inapplicable: one frame", (), math.nan),
    ("unscored: NaN", ("b",), math.nan),  # broken is not inapplicable
])
def test_only_inapplicable_parts_that_may_be_left_out_are(why, optional, expected):
    parts = {"a": Fixed(1.0, 1.0, 1.0), "b": Fixed(math.nan, 1.0, 1.0, why=(why, None, None))}
    whole = Composite(parts, weights={"b": 3.0}, optional=optional)
    assert value(whole) == pytest.approx([expected, 4.0, 4.0], nan_ok=True)


def test_nothing_left_is_unscored():
    whole = Composite({"a": Fixed(math.nan, 1.0, 1.0, why=("inapplicable: x", None, None))}, optional=("a",))
    score = whole(Samples(VIDEO, [""] * 3, 8.0))
    assert score.value.isnan().tolist() == [True, False, False] and score.why[0] == "inapplicable: a: x"


def test_gradients_pass_around_what_is_unscored():
    class Mean(Reward):
        differentiable = True

        def terms(self, samples):
            return samples.frames.mean((2, 3, 4))

    video = torch.rand(2, 3, 3, 8, 8)
    video[0, 0] = math.nan
    video.requires_grad_()
    score = Composite({"mean": Mean()})(Samples(video, ["", ""], 8.0))
    score.value.nansum().backward()
    assert torch.isfinite(video.grad).all() and video.grad[1].abs().sum() > 0 and video.grad[0].abs().sum() == 0


@pytest.mark.parametrize("what", ["weights", "scales", "bands", "gates", "optional"])
def test_a_name_that_is_no_part_is_refused(what):
    given = ("flikker",) if what == "optional" else {"flikker": (1.0, 2.0) if what in ("scales", "bands") else 1.0}
    with pytest.raises(ValueError, match=f"{what} name 'flikker'.*the parts are a"):
        Composite({"a": Fixed(1.0, 1.0, 1.0)}, **{what: given})


def test_no_parts_and_strange_normalisation_are_refused():
    with pytest.raises(ValueError, match="at least one part"):
        Composite({})
    with pytest.raises(ValueError, match="fixed"):
        Composite({"a": Fixed(1.0)}, normalise="group")


def test_the_support_is_the_widest_and_facts_are_the_parts():
    whole = Composite({"a": Fixed(1.0, support="pair"), "b": Fixed(1.0, support="prefix")})
    assert whole.support == "prefix" and whole.differentiable
    assert not default().differentiable and default().needs == ("cv2",) and default().support == "prefix"


def test_an_image_is_inapplicable_to_the_default():
    score = default()(Samples(torch.rand(1, 1, 3, 32, 32), ["a circle"], 8.0))
    assert score.value.isnan().all() and score.why[0].startswith("inapplicable: motion_consistency")
    assert torch.isfinite(score.parts["frame_quality"].value).all()


def test_maps_of_the_parts_are_handed_on():
    draw = torch.Generator().manual_seed(0)
    score = default()(Samples(torch.rand(1, 6, 3, 32, 32, generator=draw), [""], 8.0), maps=True)
    assert score.maps["freeze/change"].shape[:2] == (1, 6)
