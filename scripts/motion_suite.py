"""Write the prompts of the `motion` suite.

    python scripts/motion_suite.py

The suite has ten kinds of motion x three speeds x six cameras, once each, with six things
of each kind, which differ in kind of thing and count. The thing and its three verbs are
written by hand, so that the three speeds of one thing differ in pace alone. A Latin square
decides which camera and which length of clip a thing gets. A thing without motion gets its
speed from the camera. A second file has the held-out captions of `vidrl.synthetic.world`,
for models that understand no other captions.

Output: motion.jsonl and motion_world.jsonl in benchmarks/suites.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrl.rewards._prompts.motion_words import WantedMotion, wanted_motion
from vidrl.synthetic import world

FOLDER = Path(__file__).parent.parent / "benchmarks" / "suites"
SPEEDS = {"slow": 0.5, "plain": 1.0, "quick": 2.0}
CAMERAS = ("unsaid", "static", "pan", "tilt", "zoom", "roll")
SECONDS = (2, 4, 8)
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ENDS = {
    2: " A clip of two seconds.",
    4: " A clip of four seconds.",
    8: " A single take of eight seconds.",
}
COUNTS = {"A": 1, "An": 1, "Two": 2, "Three": 3}
GROUPS = ("Dozens of", "A flock of", "A crowd of", "A convoy of")


@dataclass(frozen=True)
class Thing:
    """A thing that moves: its kind, its words, its verbs at three speeds, and its place."""

    kind: str
    who: str
    verbs: tuple[str, str, str]
    where: str

    @property
    def count(self) -> int | str:
        """Return the number of things, or "many"."""
        return "many" if self.who.startswith(GROUPS) else COUNTS[self.who.split()[0]]


def paced(
    verb: str, *, slow: str = "slowly", quick: str = "quickly", after: str = ""
) -> tuple[str, str, str]:
    """Return one verb at three speeds, by an adverb."""
    return f"{verb} {slow}{after}", f"{verb}{after}", f"{verb} {quick}{after}"


LEFT, RIGHT = " to the left", " to the right"
NEAR, FAR = " towards the camera", " away from the camera"

THINGS: dict[str, list[Thing]] = {
    "left": [
        Thing(
            "animal",
            "A chestnut horse",
            ("walks slowly" + LEFT, "trots" + LEFT, "gallops swiftly" + LEFT),
            "along a sandy beach",
        ),
        Thing(
            "vehicle",
            "A red tram",
            ("rolls slowly" + LEFT, "travels" + LEFT, "races" + LEFT),
            "past a row of brick houses",
        ),
        Thing(
            "person",
            "Two children in yellow raincoats",
            ("stroll slowly" + LEFT, "walk" + LEFT, "run fast" + LEFT),
            "across a wet square",
        ),
        Thing(
            "water",
            "A muddy stream",
            ("flows gently" + LEFT, "flows" + LEFT, "rushes" + LEFT),
            "between mossy stones",
        ),
        Thing(
            "object",
            "Three paper boats",
            ("drift lazily" + LEFT, "float" + LEFT, "sail quickly" + LEFT),
            "on a park pond",
        ),
        Thing(
            "animal",
            "A flock of sheep",
            ("wanders slowly" + LEFT, "moves" + LEFT, "dashes" + LEFT),
            "across a green hillside",
        ),
    ],
    "right": [
        Thing("animal", "An old elephant", paced("walks", after=RIGHT), "across a dry plain"),
        Thing(
            "vehicle",
            "Two green tractors",
            ("crawl" + RIGHT, "drive" + RIGHT, "race" + RIGHT),
            "across a ploughed field",
        ),
        Thing(
            "person",
            "A cyclist in a blue jacket",
            ("rides slowly" + RIGHT, "rides" + RIGHT, "speeds" + RIGHT),
            "along a canal",
        ),
        Thing(
            "water",
            "A sheet of rainwater",
            ("flows slowly" + RIGHT, "flows" + RIGHT, "rushes" + RIGHT),
            "over smooth paving stones",
        ),
        Thing("animal", "Three ducklings", paced("swim", after=RIGHT), "across a village pond"),
        Thing(
            "object",
            "Dozens of yellow balloons",
            ("drift gently" + RIGHT, "float" + RIGHT, "fly swiftly" + RIGHT),
            "above a rooftop garden",
        ),
    ],
    "up": [
        Thing(
            "object", "A hot-air balloon", paced("rises", quick="rapidly"), "above a wooded valley"
        ),
        Thing(
            "animal",
            "A black cat",
            ("creeps upwards", "climbs upwards", "dashes upwards"),
            "along the trunk of an old oak",
        ),
        Thing(
            "vehicle",
            "A silver rocket",
            ("lifts off slowly", "lifts off", "shoots rapidly upwards"),
            "from a launch pad",
        ),
        Thing(
            "person", "Two rock climbers", paced("climb", after=" upwards"), "on a limestone wall"
        ),
        Thing(
            "water",
            "Three plumes of steam",
            ("rise gently", "rise", "shoot swiftly upwards"),
            "from the vents of a geyser",
        ),
        Thing(
            "object",
            "Dozens of paper lanterns",
            ("float slowly upwards", "float upwards", "rise rapidly"),
            "into the evening sky",
        ),
    ],
    "down": [
        Thing("object", "A maple leaf", paced("falls", slow="gently"), "onto a forest path"),
        Thing(
            "animal",
            "Two squirrels",
            ("climb slowly downwards", "climb downwards", "dash downwards"),
            "along a birch trunk",
        ),
        Thing(
            "vehicle", "A cable car", paced("descends", quick="rapidly"), "above a mountain village"
        ),
        Thing(
            "person",
            "A skydiver with a red parachute",
            ("descends gently", "descends", "plummets rapidly"),
            "over a patchwork of fields",
        ),
        Thing(
            "water",
            "Three beads of rain",
            ("roll slowly downwards", "slide downwards", "rush downwards"),
            "on a window",
        ),
        Thing(
            "object",
            "Dozens of white feathers",
            ("fall gently", "fall", "fall swiftly"),
            "onto a lawn",
        ),
    ],
    "bounce": [
        Thing("object", "An orange basketball", paced("bounces"), "on a concrete court"),
        Thing("animal", "A grey kangaroo", paced("hops up and down"), "in a dry meadow"),
        Thing(
            "vehicle", "A toy truck", paced("bounces", slow="gently", quick="rapidly"), "on a drum"
        ),
        Thing(
            "person",
            "Two boys",
            ("jump up and down in slow motion", "jump up and down", "jump up and down fast"),
            "in a school hall",
        ),
        Thing(
            "water",
            "Three beads of water",
            paced("bounce", slow="gently", quick="rapidly"),
            "on a humming loudspeaker",
        ),
        Thing("person", "A crowd of fans", paced("bounces", quick="fast"), "in front of a stage"),
    ],
    "circle": [
        Thing(
            "animal",
            "An eagle",
            (
                "flies lazily in wide circles",
                "flies in wide circles",
                "flies swiftly in wide circles",
            ),
            "above a canyon",
        ),
        Thing(
            "vehicle",
            "A white motorboat",
            ("moves slowly in a circle", "moves in a circle", "races in a circle"),
            "on a lake",
        ),
        Thing(
            "person", "Two ice skaters", paced("glide", after=" in circles"), "on a frozen canal"
        ),
        Thing(
            "water",
            "A patch of white foam",
            ("drifts slowly in a circle", "drifts in a circle", "rushes in a circle"),
            "on a dark pool",
        ),
        Thing(
            "object",
            "Three toy planes on strings",
            paced("go round", slow="gently", quick="fast"),
            "under a nursery ceiling",
        ),
        Thing(
            "vehicle",
            "Dozens of motorbikes",
            ("ride slowly in a circle", "ride in a circle", "race in a circle"),
            "inside a stadium",
        ),
    ],
    "spin": [
        Thing("object", "A wooden top", paced("spins", quick="rapidly"), "on a kitchen table"),
        Thing("animal", "A small terrier", paced("spins"), "on a rug"),
        Thing(
            "vehicle",
            "A blue sports car",
            ("rotates slowly", "rotates", "spins fast"),
            "on a showroom turntable",
        ),
        Thing(
            "person",
            "Two ballroom dancers",
            paced("twirl", slow="gently", quick="rapidly"),
            "under a chandelier",
        ),
        Thing(
            "water",
            "Dozens of small eddies",
            ("rotate slowly", "rotate", "spin swiftly"),
            "in a mountain river",
        ),
        Thing("person", "Three figure skaters", paced("spin", quick="fast"), "on an ice rink"),
    ],
    "grow": [
        Thing("animal", "A pufferfish", paced("swells"), "above a coral reef"),
        Thing(
            "vehicle",
            "A steam train",
            ("comes slowly" + NEAR, "comes" + NEAR, "rushes" + NEAR),
            "through a pine forest",
        ),
        Thing(
            "person",
            "Two hikers",
            ("walk slowly" + NEAR, "walk" + NEAR, "run quickly" + NEAR),
            "along a gravel path",
        ),
        Thing(
            "water",
            "A puddle of rainwater",
            paced("grows", slow="gradually", quick="rapidly"),
            "across the tiles",
        ),
        Thing(
            "object", "Three party balloons", paced("inflate", quick="rapidly"), "on a wooden table"
        ),
        Thing(
            "vehicle",
            "A convoy of lorries",
            ("drives slowly" + NEAR, "drives" + NEAR, "speeds" + NEAR),
            "on a desert road",
        ),
    ],
    "shrink": [
        Thing(
            "animal",
            "Two wild horses",
            ("walk slowly" + FAR, "trot" + FAR, "gallop swiftly" + FAR),
            "across a snowy plain",
        ),
        Thing(
            "vehicle",
            "A fishing boat",
            ("sails slowly" + FAR, "sails" + FAR, "speeds" + FAR),
            "on a calm sea",
        ),
        Thing(
            "person",
            "A woman with an umbrella",
            ("walks slowly" + FAR, "walks" + FAR, "rushes" + FAR),
            "along a rainy street",
        ),
        Thing(
            "water",
            "Three patches of snow",
            paced("shrink", slow="gradually", quick="rapidly"),
            "on warm asphalt",
        ),
        Thing(
            "object",
            "A striped beach ball",
            paced("deflates", quick="rapidly"),
            "on a pebble beach",
        ),
        Thing("water", "Dozens of ice cubes", paced("shrink", quick="fast"), "on a sunny terrace"),
    ],
    "rest": [
        Thing("animal", "A tortoise", ("stays still",) * 3, "on a flat rock"),
        Thing("vehicle", "A blue bicycle", ("stands still",) * 3, "beside a brick wall"),
        Thing("person", "Two palace guards", ("stand still",) * 3, "in front of an iron gate"),
        Thing("water", "A mountain lake", ("lies motionless",) * 3, "under a grey sky"),
        Thing("object", "Three clay jugs", ("stand motionless",) * 3, "on a windowsill"),
        Thing("water", "Dozens of beads of dew", ("hang motionless",) * 3, "on a cobweb"),
    ],
}

# for each camera, in both directions: the words, with {} for an adverb, and (pan, tilt, zoom, roll)
MOVES = {
    "pan": (
        ("while the camera pans{} to the right", (1, 0, 0, 0)),
        ("as the camera pans{} left", (-1, 0, 0, 0)),
    ),
    "tilt": (
        ("while the camera tilts{} up", (0, 1, 0, 0)),
        ("as the camera tilts{} down", (0, -1, 0, 0)),
    ),
    "zoom": (
        ("while the camera zooms{} in", (0, 0, 1, 0)),
        ("as the camera zooms{} out", (0, 0, -1, 0)),
    ),
    "roll": (
        ("while the camera rolls{} clockwise", (0, 0, 0, 1)),
        ("as the camera rolls{} anticlockwise", (0, 0, 0, -1)),
    ),
}
STATIC = (", filmed with a static camera", "; the camera does not move")


def rows() -> Iterator[dict[str, Any]]:
    """Yield the prompts with their expectations.

    The kinds take turns, so that the first n prompts are as mixed as all.
    """
    for turn in range(len(SPEEDS) * len(CAMERAS)):
        for number, kind in enumerate(THINGS):
            speed, camera = divmod(
                (turn * 7 + number * 5) % (len(SPEEDS) * len(CAMERAS)), len(CAMERAS)
            )
            if kind != "rest" or speed == 1 or camera > 1:
                yield _row(number, kind, speed, camera)


def _row(number: int, kind: str, speed: int, camera: int) -> dict[str, Any]:
    """Build the prompt of one kind, speed and camera, with its fields and expectation."""
    thing = THINGS[kind][(camera + 2 * speed + number) % len(CAMERAS)]
    seconds = SECONDS[(camera + speed + number) % len(SECONDS)]
    adverb = ("", " slowly", "", " quickly")[speed + 1] if kind == "rest" else ""
    words, moves = _camera(CAMERAS[camera], (number + speed) % 2, adverb)
    prompt = f"{thing.who} {thing.verbs[speed]} {thing.where}{words}.{ENDS[seconds]}"
    name, pace = list(SPEEDS.items())[speed]
    asked = WantedMotion(
        HEADINGS.get(kind, (0, 0)),
        "" if kind in (*HEADINGS, "rest") else kind,
        moves,  # type: ignore[arg-type]
        CAMERAS[camera] == "static",
        kind == "rest",
        pace,
    )
    fields = {
        "kind": kind,
        "speed": name,
        "camera": CAMERAS[camera],
        "thing": thing.kind,
        "count": thing.count,
    }
    return {
        "prompt": prompt,
        **fields,
        "seconds": seconds,
        "expect": expected(asked, thing.count, seconds),
    }


def _camera(camera: str, direction: int, adverb: str) -> tuple[str, tuple[int, ...]]:
    """Return the words about the camera, and its moves (pan, tilt, zoom, roll)."""
    if camera == "unsaid":
        return "", (0, 0, 0, 0)
    if camera == "static":
        return STATIC[direction], (0, 0, 0, 0)
    words, moves = MOVES[camera][direction]
    return " " + words.format(adverb), moves


def expected(asked: WantedMotion, count: int | str, seconds: float) -> dict[str, Any]:
    """Return what is to be checked, without what the prompt does not ask for.

    Only two or more moving things can be counted.
    """
    counted = count if count in (2, 3) and not asked.rest else 0
    found = {
        "heading": list(asked.heading),
        "path": asked.path,
        "rest": asked.rest,
        "camera": list(asked.camera),
        "still_camera": asked.still_camera,
        "pace": asked.pace,
        "count": counted,
        "seconds": seconds,
    }
    idle = {
        "heading": [0, 0],
        "path": "",
        "rest": False,
        "camera": [0, 0, 0, 0],
        "still_camera": False,
        "pace": 1.0,
        "count": 0,
        "seconds": 0,
    }
    return {name: value for name, value in found.items() if value != idle[name]}


def captions() -> Iterator[dict[str, Any]]:
    """Yield the held-out captions of the synthetic world, which the verifier can read."""
    for scene in world.scenes("held_out"):
        speed = (
            "plain" if scene.motion == "rest" else {"slow": "slow", "fast": "quick"}[scene.speed]
        )
        fields = {
            "kind": scene.motion,
            "speed": speed,
            "camera": "unsaid",
            "thing": scene.shape,
            "count": 1,
        }
        yield {
            "prompt": scene.caption,
            **fields,
            "expect": expected(wanted_motion(scene.caption), 1, 0) | {"caption": True},
        }


def text(found: Iterator[dict[str, Any]]) -> str:
    """Format rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)


FILES = {"motion.jsonl": rows, "motion_world.jsonl": captions}

if __name__ == "__main__":
    for name, rows_of in FILES.items():
        (FOLDER / name).write_text(text(rows_of()), encoding="utf-8")
        print(f"{FOLDER / name}: {len(list(rows_of()))} prompts")
