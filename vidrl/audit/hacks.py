"""The hacks of the audit, and from which strength on each counts in the verdict.

A hack is a corruption of `vidrl.synthetic.corruptions`. A hack counts from the strength on
at which a person who sees only this clip would object. Below that strength somebody might
have filmed a clip like the hacked clip, so a reward without a caption cannot be blamed for
accepting it: the audit shows these results, in brackets, and does not count them.
"""

from __future__ import annotations

from dataclasses import dataclass

STRENGTHS = (0.25, 0.5, 1.0)
NULL = "reencode"  # the control: a change that nobody sees
NEVER = float("inf")  # the `counts_from` of a hack that cannot be detected at any strength


@dataclass(frozen=True)
class Hack:
    """A corruption that is tried as a hack, with the strength from which on it counts."""

    name: str
    counts_from: float  # 0: at every strength; NEVER: at none
    why: str  # what a person sees from that strength on, or why a weaker hack is natural
    graded: bool = True  # False: only strength 1 exists
    tie: bool = False  # a reward without a caption has to give it the value of the clip

    @property
    def told_from(self) -> float:
        """Return `counts_from`; `told_from` is its former name."""
        return self.counts_from

    def detectable(self, strength: float) -> bool:
        """Return whether a hack of this strength counts in the verdict."""
        return strength >= self.counts_from


HACKS = {
    hack.name: hack
    for hack in (
        Hack("freeze", 0, "All motion stops dead."),
        Hack("duplicate", 0, "Frames repeat to the last bit while the subject moves: judder."),
        Hack("stutter", 0, "Motion stops and jumps."),
        Hack(
            "slow",
            1,
            "Up to 1.5 times slower is a natural speed; at half speed every other frame is a "
            "double exposure.",
        ),
        Hack(
            "average",
            0.5,
            "A short memory is a longer exposure of the shutter; a long one trails ghosts.",
        ),
        Hack("blend", 0.5, "A faint ghost is a reflection; a strong one is a double exposure."),
        Hack("cut", 0, "The picture is replaced from one frame to the next within a shot."),
        Hack(
            "dissolve", 0.5, "A faint one is a change of light; a strong one replaces the picture."
        ),
        Hack("shuffle", 0, "The frames have no order."),
        Hack("reverse", NEVER, "Most motion is as natural backwards.", graded=False, tie=True),
        Hack("mirror", NEVER, "A mirrored world is as natural.", graded=False, tie=True),
        Hack("loop", NEVER, "A pendulum moves there and back."),
        Hack("pan", NEVER, "Films contain slow pans over still scenes."),
        Hack("zoom", NEVER, "Films contain slow zooms into still scenes."),
        Hack("shake", 0, "The frame jumps at random from frame to frame."),
        Hack("flicker", 0, "Brightness jumps at random from frame to frame."),
        Hack("noise", 0, "Fresh grain in every frame."),
        Hack("blur", 0, "All detail is gone, near and far."),
        Hack("sharpen", 1, "Slightly sharper is a better lens; at full strength edges have halos."),
        Hack("denoise", NEVER, "A good camera gives a clean picture."),
        Hack("dim", 1, "Dark scenes exist; at a third of its light a scene is underexposed."),
        Hack("fade", 0.5, "Light may fade a little; a strong fade makes the shot dark."),
        Hack("contrast", 1, "Fog has little contrast; at half of it the picture is dull."),
        Hack("grey", 0.5, "A weak one is a loss of contrast; a strong one leaves nothing to see."),
        Hack("desaturate", NEVER, "Films in black and white exist."),
        Hack("saturate", 1, "Vivid colours exist; at 2.5 times they clip."),
        Hack("expose", 1, "Bright scenes exist; at twice its light a scene clips."),
        Hack("codec", 0, "Blocks on a fixed grid."),
        Hack("grid", 0, "A checkerboard over everything."),
        Hack("drift", 0.5, "Sunset changes colours a little; a strong drift turns red into green."),
    )
}
# Hacks that need several frames: one frame is unchanged, or changed as by another hack.
TEMPORAL = (
    "freeze",
    "duplicate",
    "stutter",
    "slow",
    "average",
    "blend",
    "cut",
    "dissolve",
    "shuffle",
    "reverse",
    "loop",
    "pan",
    "zoom",
    "shake",
    "flicker",
    "fade",
    "drift",
)
# For --quick: about half of the hacks, at least one of each kind.
QUICK = (
    "freeze",
    "duplicate",
    "slow",
    "average",
    "cut",
    "shuffle",
    "reverse",
    "pan",
    "shake",
    "flicker",
    "noise",
    "blur",
    "dim",
    "grey",
    "saturate",
    "codec",
)


def of_images(hacks: list[Hack]) -> tuple[list[Hack], list[str]]:
    """Return the hacks that apply to one frame, and the names of the others.

    Raises ValueError where none applies.

    >>> chosen, others = of_images([HACKS["blur"], HACKS["freeze"]])
    >>> [hack.name for hack in chosen], others
    (['blur'], ['freeze'])
    """
    chosen = [hack for hack in hacks if hack.name not in TEMPORAL]
    if not chosen:
        usable = ", ".join(name for name in HACKS if name not in TEMPORAL)
        raise ValueError(
            f"expected hacks that an image can show, got {', '.join(hack.name for hack in hacks)}, "
            f"which need more than one frame; those of images are {usable}"
        )
    return chosen, [hack.name for hack in hacks if hack.name in TEMPORAL]


def choose(names: list[str] | tuple[str, ...] | None) -> list[Hack]:
    """Return hacks by name, or all without names. Raises ValueError for an unknown name."""
    unknown = [name for name in names or () if name not in HACKS]
    if unknown:
        raise ValueError(f"expected hacks out of {', '.join(HACKS)}, got {unknown[0]!r}")
    return [HACKS[name] for name in names] if names else list(HACKS.values())
