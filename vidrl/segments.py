"""The former place of `vidrl.diffusion.segments`, kept for other trainers' code that
imports it from here."""

from vidrl.diffusion.segments import (
    Span,
    borders,
    frame_spans,
    pool,
    pool_frames,
)

__all__ = [
    "Span",
    "borders",
    "frame_spans",
    "pool",
    "pool_frames",
]
