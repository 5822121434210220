"""Segments cut the time axis of a clip into runs of latent frames, and so of pixel frames.

Legend: B batch, C channels, L latent frames, F pixel frames, S segments. A step's density is
a diagonal Gaussian, so that log p = Σ_j log p_j holds exactly for any partition of the latent
frames into segments j.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Span = tuple[int, int]


def borders(frames: int, segments: int) -> list[Span]:
    """Return the latent frames [start, end) of each segment.

    The segments are as even as possible; where L is not a multiple of S, the first ones are
    one frame longer. Raises ValueError for fewer frames than segments.

    Example:
        >>> borders(5, 2)
        [(0, 3), (3, 5)]
    """
    if not 1 <= segments <= frames:
        cure = ": an image has one latent frame, use segments=1" if frames == 1 else ""
        raise ValueError(
            f"expected 1 to {frames} segments, one latent frame or more in each, got "
            f"{segments}{cure}"
        )
    sizes = [frames // segments + (j < frames % segments) for j in range(segments)]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def pool(elements: Tensor, segments: int) -> Tensor:
    """Return the means of elements (B, C, L, ...) over each segment, (B, S).

    A mean, not a sum: published trainers take the mean of the log-density over a whole clip,
    and so a segment's log-ratio has the same scale as a clip's.

    Example:
        >>> pool(torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1, 1), 2)
        tensor([[2., 6.]])
    """
    if segments == 1:  # needs no time axis, so that images and tokens (B, N, C) pass too
        return elements.flatten(1).mean(1, keepdim=True)
    if elements.dim() != 5:
        raise ValueError(
            f"expected (B, C, L, h, w) to cut into {segments} segments, got "
            f"{tuple(elements.shape)}: an image has segments=1; unpack tokens first, "
            "packed.unflatten(1, (L, h, w)).movedim(-1, 1)"
        )
    spans = borders(elements.shape[2], segments)
    return torch.stack([elements[:, :, a:b].flatten(1).mean(1) for a, b in spans], 1)


def frame_spans(frame_map: Sequence[Span], segments: int) -> list[Span]:
    """Return the pixel frames [start, end) of each segment.

    `frame_map` has the pixel frames [start, end) that each latent frame is decoded to.

    Example:
        >>> frame_spans([(0, 1), (1, 5), (5, 9)], 2)  # Wan's causal autoencoder: 1, then 4 by 4
        [(0, 5), (5, 9)]
    """
    return [(frame_map[a][0], frame_map[b - 1][1]) for a, b in borders(len(frame_map), segments)]


def pool_frames(curve: Tensor, spans: Sequence[Span]) -> Tensor:
    """Return the means of a per-frame curve (B, F) over the pixel frames of each segment, (B, S).

    Raises ValueError where the curve has another number of frames than the spans.
    """
    if curve.shape[1] != spans[-1][1]:
        raise ValueError(
            f"expected a curve of {spans[-1][1]} frames, as the latents decode to, got "
            f"{curve.shape[1]}"
        )
    return torch.stack([curve[:, a:b].mean(1) for a, b in spans], 1)
