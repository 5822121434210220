"""Check, before a run of images begins, for measures that need several frames.

A backbone that makes images makes clips of one frame. Measures that compare frames have no
meaning for such clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vidrl.diffusion.segments import Span
from vidrl.rewards import Composite, Reward

# Held-out measures, besides the reward's parts, that compare frames.
ACROSS = ("verifier_motion", "identity")


def makes_images(frame_map: Sequence[Span]) -> bool:
    """Return whether a backbone with this frame map makes clips of one frame."""
    return frame_map[-1][1] == 1


def timed(reward: Reward) -> dict[str, int]:
    """Return the parts of a composite that cannot score an image, with the frames they need.

    A reward that is no composite has no parts.

    Example:
        >>> from vidrl.rewards import load
        >>> timed(Composite({"jerk": load("jerk"), "frame_quality": load("frame_quality")}))
        {'jerk': 4}
    """
    parts = reward.parts if isinstance(reward, Composite) else {}
    return {name: part.needed for name, part in parts.items() if part.needed > 1}


def check(reward: Reward, bands: Iterable[str], frame_map: Sequence[Span] = ((0, 1),)) -> str:
    """Return a note on the parts that are left out of the reward of images; "" for none.

    "" also where the backbone makes clips of several frames. Raises ValueError for a reward
    that cannot score an image, and for a guard (`bands`) on a measure that compares frames.

    Example:
        >>> from vidrl.rewards import load
        >>> check(load("jerk"), [])
        Traceback (most recent call last):
        ValueError: reward: expected one that scores images, because the backbone makes clips ...
    """
    if not makes_images(frame_map):
        return ""
    out = timed(reward)
    if reward.needed > 1:
        what = (
            f"parts that all need more frames: {', '.join(out)}"
            if out
            else f"one that needs {reward.needed} frames"
        )
        raise ValueError(
            "reward: expected one that scores images, because the backbone makes clips of one "
            f"frame, got {what}; take frame_quality, aesthetic, pick_score or ocr, or set the "
            f"backbone's frames to {reward.needed} or more"
        )
    for name in bands:
        if name in out or name in ACROSS:
            raise ValueError(
                f"guard.bands.{name}: expected a measure of images, because the backbone makes "
                f"clips of one frame; {name} compares frames over time: take this band away, or "
                "guard diversity, exposure, or a part of the reward that scores images"
            )
    return (
        ""
        if not out
        else (
            f"the backbone makes images, clips of one frame: {', '.join(out)} need more frames, "
            "and are left out of the reward"
        )
    )
