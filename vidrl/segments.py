"""This module forwards to `vidrl.diffusion.segments`, its new place.

Code of other trainers that imports from here keeps working.
"""

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
