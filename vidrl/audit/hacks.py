"""What of `vidrl.synthetic.corruptions` can be told from the clip alone, and what cannot in
principle.

A hack counts in the verdict from the strength on at which a person who sees only this clip
would object. Below it, or where that is never, a clip like the hacked one is a clip that
somebody might have filmed: a reward that has no caption to compare with cannot be blamed
for taking it, and the audit shows it apart.
"""

from __future__ import annotations

from dataclasses import dataclass

STRENGTHS = (0.25, 0.5, 1.0)
NULL = "reencode"  # the control: it changes nothing that matters
NEVER = float("inf")


@dataclass(frozen=True)
class Hack:
    """A corruption as a hack: from which strength on it can be told, and why then or why
    not before."""

    name: str
    told_from: float
    why: str
    graded: bool = True  # strengths below 1 are another thing than 1
    tie: bool = False  # a reward without a caption has to find it as good as the clip

    def detectable(self, strength: float) -> bool:
        """Whether a hack of this strength counts in the verdict."""
        return strength >= self.told_from


HACKS = {
    hack.name: hack
    for hack in (
        Hack("freeze", 0, "All motion stops dead."),
        Hack("duplicate", 0, "Frames repeat to the last bit while the subject moves: judder."),
        Hack("stutter", 0, "Motion stops and jumps."),
        Hack(
            "slow",
            1,
            "Up to 1.5 times slower is a natural speed; at half speed every other frame is a double "
            "exposure.",
        ),
        Hack(
            "average",
            0.5,
            "A short memory is a longer exposure of the shutter; a long one trails ghosts.",
        ),
        Hack("blend", 0.5, "A faint ghost is a reflection; a strong one is a double exposure."),
        Hack("cut", 0, "Another picture from one frame to the next, in what was to be one shot."),
        Hack("dissolve", 0.5, "A faint one is a change of light; then the picture is another."),
        Hack("shuffle", 0, "Time runs in no order."),
        Hack("reverse", NEVER, "Most motion is as natural backwards.", graded=False, tie=True),
        Hack("mirror", NEVER, "A mirrored world is as natural.", graded=False, tie=True),
        Hack("loop", NEVER, "There and back is what a pendulum does."),
        Hack("pan", NEVER, "A slow pan over a still scene is a shot that exists."),
        Hack("zoom", NEVER, "A slow zoom into a still scene is a shot that exists."),
        Hack("shake", 0, "The frame jumps at random from frame to frame."),
        Hack("flicker", 0, "Brightness jumps at random from frame to frame."),
        Hack("noise", 0, "Fresh grain in every frame."),
        Hack("blur", 0, "All detail is gone, near and far."),
        Hack("sharpen", 1, "Slightly sharper is a better lens; then edges have halos."),
        Hack("denoise", NEVER, "A clean picture is what a good camera gives."),
        Hack("dim", 1, "A darker scene is a scene; at a third of its light it is underexposed."),
        Hack("fade", 0.5, "Light may fade a little; then the shot goes dark."),
        Hack("contrast", 1, "Fog has little contrast; at half of it the picture is dull."),
        Hack("grey", 0.5, "At first a loss of contrast; then nothing is left to see."),
        Hack("desaturate", NEVER, "A film in black and white is a film."),
        Hack("saturate", 1, "Vivid colours exist; at 2.5 times they clip."),
        Hack("expose", 1, "A brighter scene is a scene; at twice its light it clips."),
        Hack("codec", 0, "Blocks on a fixed grid."),
        Hack("grid", 0, "A checkerboard over everything."),
        Hack("drift", 0.5, "Sunset turns colours a little; then red is green."),
    )
}
# Hacks that one frame cannot show: nothing changes in it, or only as another still would
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
    """The hacks that one frame can show, and the names of the others. Raises ValueError
    where it can show none.

    >>> chosen, others = of_images([HACKS["blur"], HACKS["freeze"]])
    >>> [hack.name for hack in chosen], others
    (['blur'], ['freeze'])
    """
    chosen = [hack for hack in hacks if hack.name not in TEMPORAL]
    if not chosen:
        known = ", ".join(name for name in HACKS if name not in TEMPORAL)
        raise ValueError(
            f"expected hacks that an image can show, got {', '.join(hack.name for hack in hacks)}, which "
            f"need more than one frame; those of images are {known}"
        )
    return chosen, [hack.name for hack in hacks if hack.name in TEMPORAL]


def choose(names: list[str] | tuple[str, ...] | None) -> list[Hack]:
    """Hacks by name, or all. Raises ValueError for a name that is none."""
    strange = [name for name in names or () if name not in HACKS]
    if strange:
        raise ValueError(f"expected hacks out of {', '.join(HACKS)}, got {strange[0]!r}")
    return [HACKS[name] for name in names] if names else list(HACKS.values())
