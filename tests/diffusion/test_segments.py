"""vidrl.diffusion.segments against hand-computed numbers and the identity that makes
segment credit exact."""

import pytest
import torch

from vidrl.diffusion.path import flow
from vidrl.diffusion.segments import borders, frame_spans, pool, pool_frames
from vidrl.diffusion.transition import log_density, step

WAN = [(0, 1), (1, 5), (5, 9), (9, 13), (13, 17)]  # five latent frames of Wan's causal autoencoder


@pytest.mark.parametrize(
    "frames, segments, spans",
    [
        (5, 1, [(0, 5)]),
        (5, 2, [(0, 3), (3, 5)]),
        (5, 3, [(0, 2), (2, 4), (4, 5)]),
        (5, 5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (21, 4, [(0, 6), (6, 11), (11, 16), (16, 21)]),
    ],
)
def test_borders_by_hand(frames: int, segments: int, spans: list[tuple[int, int]]) -> None:
    assert borders(frames, segments) == spans


@pytest.mark.parametrize("frames", range(1, 23))
def test_borders_partition_evenly(frames: int) -> None:
    for segments in range(1, frames + 1):
        spans = borders(frames, segments)
        assert [f for a, b in spans for f in range(a, b)] == list(range(frames)) and len(
            spans
        ) == segments
        lengths = [b - a for a, b in spans]
        assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


def test_pool_by_hand() -> None:
    # two channels, three frames
    elements = torch.tensor([[1.0, 2.0, 6.0], [10.0, 20.0, 60.0]]).view(1, 2, 3, 1, 1)
    assert pool(elements, 2).tolist() == [[(1 + 2 + 10 + 20) / 4, (6 + 60) / 2]]
    assert pool(elements, 1).tolist() == [[16.5]]


@pytest.mark.parametrize("segments", range(1, 8))
def test_segments_add_up_to_the_clip(segments: int) -> None:
    """Σ_j |S_j| mean_j / L is the mean over the clip: the log-density of a step splits
    exactly over time."""
    shape = (3, 4, 7, 2, 5)
    x, raw, after = (torch.randn(shape, dtype=torch.float64) for _ in range(3))
    density = log_density(step(flow(), "dance_sde", raw, x, 0.6, 0.5, 0.3), after)
    lengths = torch.tensor([b - a for a, b in borders(7, segments)], dtype=torch.float64)
    assert torch.allclose(
        pool(density, segments) @ lengths / 7, density.mean((1, 2, 3, 4)), rtol=1e-14
    )


def test_a_segments_pool_sees_its_own_frames_alone() -> None:
    elements = torch.randn(2, 3, 5, 2, 2)
    changed = elements.clone()
    changed[:, :, 3:] += 1
    before, after = pool(elements, 2), pool(changed, 2)
    assert torch.equal(before[:, 0], after[:, 0]) and torch.allclose(
        after[:, 1], before[:, 1] + 1, atol=1e-6
    )


def test_frame_spans_of_wan() -> None:
    assert frame_spans(WAN, 1) == [(0, 17)]
    assert frame_spans(WAN, 2) == [(0, 9), (9, 17)]
    assert frame_spans(WAN, 5) == WAN


def test_pool_frames_by_hand() -> None:
    curve = torch.arange(17.0)[None]
    assert pool_frames(curve, frame_spans(WAN, 2)).tolist() == [[4.0, 12.5]]
    assert pool_frames(curve, WAN).tolist() == [[0.0, 2.5, 6.5, 10.5, 14.5]]


def test_an_unscored_frame_leaves_its_segment_unscored_and_no_other() -> None:
    curve = torch.ones(1, 17)
    curve[0, 4] = float("nan")
    assert pool_frames(curve, WAN).isnan().tolist() == [[False, True, False, False, False]]


@pytest.mark.parametrize("frames, segments", [(5, 0), (5, 6), (1, 2), (3, -1)])
def test_no_segment_is_empty(frames: int, segments: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to {frames} segments.*got {segments}"):
        borders(frames, segments)


@pytest.mark.parametrize("frames", [16, 18])
def test_a_curve_of_another_clip(frames: int) -> None:
    with pytest.raises(ValueError, match=f"expected a curve of 17 frames.*got {frames}"):
        pool_frames(torch.zeros(1, frames), WAN)
