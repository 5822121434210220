"""What a run is told, before any image is made, of measures that have no meaning for an
image, a clip of one frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vidrl.diffusion.segments import Span
from vidrl.rewards import Composite, Reward

# held-out measures, beside the reward's parts, that compare frames
ACROSS = ("verifier_motion", "identity")


def makes_images(frame_map: Sequence[Span]) -> bool:
    """Whether a backbone of this frame map makes clips of one frame."""
    return frame_map[-1][1] == 1


def timed(reward: Reward) -> dict[str, int]:
    """The parts of a reward that do not score an image, each with the frames that it needs;
    none of a reward alone.

    Example:
        >>> from vidrl.rewards import load
        >>> timed(Composite({"jerk": load("jerk"), "frame_quality": load("frame_quality")}))
        {'jerk': 4}
    """
    parts = reward.parts if isinstance(reward, Composite) else {}
    return {name: part.needed for name, part in parts.items() if part.needed > 1}


def check(reward: Reward, bands: Iterable[str], frame_map: Sequence[Span] = ((0, 1),)) -> str:
    """A note of what is left out of the reward of images; empty where nothing is, or the
    backbone makes clips.

    Raises ValueError for a reward that scores no image, and for a guard of a measure that
    needs time.

    Example:
        >>> from vidrl.rewards import load
        >>> check(load("jerk"), [])
        Traceback (most recent call last):
        ValueError: reward: expected one that scores images, because the backbone makes clips of one frame, got ...
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
            f"reward: expected one that scores images, because the backbone makes clips of one frame, got "
            f"{what}; take frame_quality, aesthetic, pick_score or ocr, or set the backbone's frames to "
            f"{reward.needed} or more"
        )
    for name in bands:
        if name in out or name in ACROSS:
            raise ValueError(
                f"guard.bands.{name}: expected a measure of images, because the backbone makes clips of "
                f"one frame; {name} compares frames over time: take this band away, or guard diversity, "
                "exposure, or a part of the reward that scores images"
            )
    return (
        ""
        if not out
        else (
            f"the backbone makes images, clips of one frame: {', '.join(out)} need more frames, and "
            "are left out of the reward"
        )
    )
