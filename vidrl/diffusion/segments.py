"""Segments of the time axis: pixel frame ↔ latent frame ↔ segment.

Legend: B batch, C channels, L latent frames, F pixel frames, S segments. Because a step's
density is a diagonal Gaussian, log p = Σ_j log p_j exactly over any partition of the latent
frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Span = tuple[int, int]


def borders(frames: int, segments: int) -> list[Span]:
    """Latent frames [start, end) of each segment, as even as possible, the longer ones
    first.

    Example:
        >>> borders(5, 2)
        [(0, 3), (3, 5)]
    """
    if not 1 <= segments <= frames:
        why = ": an image has one latent frame, use segments=1" if frames == 1 else ""
        raise ValueError(
            f"expected 1 to {frames} segments, one latent frame or more in each, got {segments}{why}"
        )
    sizes = [frames // segments + (j < frames % segments) for j in range(segments)]
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def pool(elements: Tensor, segments: int) -> Tensor:
    """Means of elements (B, C, L, ...) over each segment: (B, S).

    Means, as the field takes over a whole clip, so that a segment's log-ratio has the scale
    of a clip's.

    Example:
        >>> pool(torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1, 1), 2)
        tensor([[2., 6.]])
    """
    if segments == 1:
        return elements.flatten(1).mean(1, keepdim=True)
    if elements.dim() != 5:
        raise ValueError(
            f"expected (B, C, L, h, w) to cut into {segments} segments, got {tuple(elements.shape)}: an "
            "image has segments=1; unpack tokens first, packed.unflatten(1, (L, h, w)).movedim(-1, 1)"
        )
    spans = borders(elements.shape[2], segments)
    return torch.stack([elements[:, :, a:b].flatten(1).mean(1) for a, b in spans], 1)


def frame_spans(frame_map: Sequence[Span], segments: int) -> list[Span]:
    """Pixel frames [start, end) of each segment, from the pixel frames of each latent
    frame.

    Example:
        >>> frame_spans([(0, 1), (1, 5), (5, 9)], 2)  # Wan's causal autoencoder: 1, then 4 by 4
        [(0, 5), (5, 9)]
    """
    return [(frame_map[a][0], frame_map[b - 1][1]) for a, b in borders(len(frame_map), segments)]


def pool_frames(curve: Tensor, spans: Sequence[Span]) -> Tensor:
    """Means of a per-frame curve (B, F) over the pixel frames of each segment: (B, S).

    Raises ValueError where the curve's frames are not those of the spans.
    """
    if curve.shape[1] != spans[-1][1]:
        raise ValueError(
            f"expected a curve of {spans[-1][1]} frames, as the latents decode to, got {curve.shape[1]}"
        )
    return torch.stack([curve[:, a:b].mean(1) for a, b in spans], 1)
