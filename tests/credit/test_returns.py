"""Returns-to-go: what comes at and after a segment, discounted."""

from types import SimpleNamespace

import pytest
import torch

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.toy import Toy
from vidrl.credit import advantages
from vidrl.credit.returns import causal, later, returns_to_go
from vidrl.rewards import Reward, Samples, Score, load
from vidrl.rewards._scoring.score import join
from vidrl.training.policy import Policy


def test_returns_of_each_discount_by_hand():
    rewards = torch.tensor([[1.0, -2.0, 3.0, 5.0]], dtype=torch.float64)
    assert returns_to_go(rewards, 1.0).tolist() == [[7.0, 6.0, 8.0, 5.0]]
    found = returns_to_go(rewards, 0.5)
    assert torch.allclose(found, torch.tensor([[1.375, 0.75, 5.5, 5.0]], dtype=torch.float64))


def test_returns_obey_the_recursion_over_all_leading_axes():
    rewards = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    found = returns_to_go(rewards, 0.7)
    assert torch.allclose(found[..., :-1], rewards[..., :-1] + 0.7 * found[..., 1:], atol=1e-5)
    assert torch.equal(returns_to_go(rewards, 0.0), rewards)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_a_discount_out_of_range_is_refused(discount):
    with pytest.raises(ValueError, match="discount in \\[0, 1\\]"):
        returns_to_go(torch.ones(2), discount)
    with pytest.raises(ValueError, match="discount in \\[0, 1\\]"):
        GRPO(discount=discount)


def test_a_discount_needs_a_clip_of_chunks():
    algorithm = GRPO(segments=2, discount=0.5, scale="batch")
    with pytest.raises(ValueError, match="made at once .* got 0.5"):
        algorithm.setup(Policy(Toy.tiny(), full=True), lambda samples: samples.frames, 2)


def test_returns_have_the_exact_gradient_of_a_causal_clip():
    """A segment's noise z_j moves its own reward by z_j and the next one's by z_j / 2.

    E[G_j z_j] must be the slope of the whole reward in z_j: 1.5 for all but the last segment. A
    segment's own reward alone (γ = 0) misses the half that comes later.
    """
    z = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    rewards = z.clone()
    rewards[:, 1:] += z[:, :-1] / 2
    slopes = {g: (returns_to_go(rewards, g) * z).mean(0) for g in (0.0, 1.0)}
    assert torch.allclose(slopes[1.0], torch.tensor([1.5, 1.5, 1.0]), atol=0.03)
    assert torch.allclose(slopes[0.0], torch.ones(3), atol=0.03)


def test_a_prefix_curve_is_local_and_a_value_comes_last():
    curve = torch.tensor([[0.0, -1.0, -2.0]])
    found = causal(Score(curve.mean(1), curve, "prefix"))
    assert found.support == "frame" and torch.equal(found.frames, curve)
    parts = {"a": Score(torch.tensor([6.0])), "b": Score(curve.mean(1), curve, "pair")}
    found = causal(Score(torch.tensor([5.0]), None, "clip", parts))
    assert found.parts["a"].frames.tolist() == [[0.0, 0.0, 18.0]]
    assert found.parts["b"].frames.tolist() == [[0.0, 0.0, -3.0]]
    assert found.parts["b"].support == "frame"


class Change(Reward):
    """Minus the change of light over `reads` + 1 frames in a row."""

    time_support, rate = "pair", 8.0

    def __init__(self, reads):
        super().__init__()
        self.lookahead = reads

    def terms(self, samples):
        light = samples.frames.mean((2, 3, 4))
        return -light.unfold(1, self.lookahead + 1, 1).diff(dim=2).abs().mean(2)


def jump(frames: int, at: int, fps: float = 8.0) -> Samples:
    """A grey clip that turns brighter at a frame, with a texture for the flow."""
    ground = 0.4 + 0.1 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    light = 0.4 * (torch.arange(frames) >= at)
    return Samples((ground + light[:, None, None, None])[None], [""], fps)


@pytest.mark.parametrize("reads", [1, 2, 3])
@pytest.mark.parametrize("fps", [8.0, 24.0])
def test_no_term_is_credited_before_the_last_frame_that_it_reads(reads, fps):
    """The clip changes in frame 14 alone, so that no earlier frame has any of the value."""
    reward = Change(reads)
    score = reward(jump(32, 14, fps))
    found = causal(score, reward, fps)
    assert found.support == "frame" and float(score.value) < 0
    assert torch.allclose(found.frames.mean(1), score.value, atol=1e-6)
    assert float(found.frames[:, :14].abs().max()) < 1e-5
    assert float(score.frames[:, :14].min()) < -1e-3, "the reward's own curve has some earlier"


def test_a_seam_is_credited_to_the_chunk_after_it():
    reward = load("segment_seam", borders=[8])
    seam, smooth = (reward(jump(16, at)) for at in (8, 16))
    score = join([seam, smooth])
    algorithm = GRPO(segments=2, discount=0.5, scale="none")
    algorithm.backbone = SimpleNamespace(frame_map=[(0, 8), (8, 16)], fps=8.0)
    algorithm.reward = reward
    found = algorithm.advantages(score, torch.tensor([0, 0]), ["", ""], SimpleNamespace(segments=2))
    assert found[0, 1] < -0.1 and torch.allclose(found[:, 0], 0.5 * found[:, 1], atol=1e-5)


def test_parts_are_delayed_by_their_own_rewards():
    parts = {"seam": load("segment_seam", every=4), "motion": load("motion_consistency")}
    curve = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    scores = {name: Score(curve.mean(1), curve, "pair") for name in parts}
    found = causal(Score(curve.mean(1), None, "clip", scores), SimpleNamespace(parts=parts))
    assert [int(found.parts[name].frames.argmax()) for name in parts] == [2, 3]
    assert found.parts["seam"].support == "frame"
    assert later(curve, 9).tolist() == [[0, 0, 0, 0, 1]]


def test_a_reward_without_any_curve_is_refused():
    with pytest.raises(ValueError, match="curve over frames"):
        causal(Score(torch.tensor([1.0])))


def test_advantages_take_the_returns_of_each_segment():
    """Clip 0 has a fault in its second segment only; its first segment gets γ times the blame."""
    curve = torch.zeros(2, 4)
    curve[0, 2:] = -1.0
    score, group = Score(curve.mean(1), curve), torch.tensor([0, 0])
    spans = [(0, 2), (2, 4)]
    own = advantages(score, group, spans, "segment", 1.0, "none")
    found = advantages(score, group, spans, "segment", 1.0, "none", discount=0.5)
    assert own[:, 0].tolist() == [0.0, 0.0]
    assert torch.allclose(found[:, 1], own[:, 1]) and torch.allclose(found[:, 0], 0.5 * own[:, 1])
