"""Print a cost as a table of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import ESTIMATE, Cost


class Block(NamedTuple):
    """A titled part of the table, whose rows are pairs of a label and a value."""

    title: str
    rows: Sequence[tuple[str, str]] = ()
    # Lines of text below the rows.
    notes: Sequence[str] = ()


WITHOUT = ", and without the reward's own networks"
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def scaled(value: float, unit: str) -> str:
    """Format a number with three digits and a unit prefix.

    Example:
        >>> scaled(1.234e12, "FLOP"), scaled(float("nan"), "B")
        ('1.23 TFLOP', 'unknown')
    """
    if value != value:
        return "unknown"
    factor, prefix = next((text_line for text_line in UNITS if value >= text_line[0]), (1.0, ""))
    return f"{value / factor:.3g} {prefix}{unit}"


def duration(seconds: float) -> str:
    """Format seconds as seconds, minutes or hours.

    Example:
        >>> duration(5.04), duration(600), duration(9000)
        ('5.0 s', '10.0 min', '2.5 h')
    """
    if seconds != seconds:
        return "unknown"
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2g} s"


def text(parts: Sequence[Block]) -> str:
    """Return the text that `vidrl cost` prints to a pipe or a file."""
    return "\n\n".join("\n".join(_lines(block)) for block in parts)


def blocks(cost: Cost) -> list[Block]:
    """Return the parts of the table in order."""
    return [_shape(cost), _calls(cost), _flops(cost), _memory(cost), _host(cost), _seconds(cost)]


def _lines(block: Block) -> list[str]:
    rows = [f"  {name:36} {value}" for name, value in block.rows]
    return [block.title, *rows, *block.notes]


def _shape(cost: Cost) -> Block:
    s, lengths = cost.shape, set(cost.shape["latent_frames_of_segments"])
    height, width = s["pixels"]
    even = f"of {', '.join(map(str, sorted(lengths, reverse=True)))} latent frame(s)"
    uneven = "; they differ in length" if len(lengths) > 1 else ""
    return Block(
        "Clip",
        [
            ("latent (channels, frames, h, w)", " x ".join(map(str, s["latent"]))),
            ("tokens", "unknown" if s["tokens"] is None else f"{s['tokens']:,}"),
            ("frames", f"{s['frames']} of {height} x {width} at {s['fps']:g} a second"),
            ("segments", f"{s['segments']} {even}{uneven}"),
            *((f"parameters of {name}", f"{n:,}") for name, n in s["parameters"].items()),
        ],
    )


def _calls(cost: Cost) -> Block:
    c = cost.calls
    guidance_note = ", each two rows of the network (guidance)" if c["guidance_rows"] == 2 else ""
    return Block(
        f"Denoiser calls, one a clip and step{guidance_note}",
        [
            ("sampling", f"{c['sampling']:,}   ({c['clips']} clips)"),
            (
                "update, forward and backward",
                f"{c['update']:,}   ({c['clips']} clips x {c['update'] / c['clips']:g} rows)",
            ),
            ("reference, for the KL in the loss", f"{c['reference']:,}"),
            ("logged KL", f"{c['divergence']:,}"),
            ("a round", f"{c['round']:,}"),
            ("an evaluation of all held-out prompts", f"{c['evaluation']:,}"),
            (f"{c['rounds']} rounds, {c['evaluations']} evaluations", f"{c['run']:,}"),
        ],
    )


def _flops(cost: Cost) -> Block:
    names = {
        "call": "a call",
        "call_with_backward": "a call with backward",
        "decode_a_clip": "a decode",
        "encode": "text encoding, a round",
        "sample": "sampling, a round",
        "decode": "decode, a round",
        "update": "update, a round",
    }
    return Block(
        "FLOPs (two a multiply-add)",
        [(label, scaled(cost.flops[k], "FLOP")) for k, label in names.items()],
    )


def _memory(cost: Cost) -> Block:
    excluded = ("peak", "stage", "first", "resident", "host")
    names = [name for name in cost.memory if not name.startswith(excluded)]
    stages = [name for name in cost.memory if name.startswith("stage")]
    rows = [(name, scaled(cost.memory[name], "B")) for name in [*names, *stages]]
    first = [name for name in cost.memory if name.startswith("first: ")]
    rows += [
        (f"{name.removeprefix('first: ')}, before the network", scaled(cost.memory[name], "B"))
        for name in first
    ]
    whole = "all + largest stage" + (", or what comes before" if first else "")
    rows.append((f"peak ({ESTIMATE}): {whole}", scaled(cost.memory["peak"], "B")))
    if "peak resident" in cost.memory:
        rows.append(("peak resident on this machine", scaled(cost.memory["peak resident"], "B")))
    return Block(f"Memory, micro-batch {cost.calls['micro_batch']}", rows, _verdict(cost))


def _host(cost: Cost) -> Block:
    parts = [name for name in cost.memory if name.startswith("host: ")]
    rows = [(name.removeprefix("host: "), scaled(cost.memory[name], "B")) for name in parts]
    rows.append((f"sum ({ESTIMATE})", scaled(cost.memory["host"], "B")))
    return Block("Host memory, beside the program and what the reward works with", rows)


def _verdict(cost: Cost) -> list[str]:
    """Say whether the recipe fits the card, and what to change if it does not."""
    if not cost.card:
        return []
    if cost.card["fits"]:
        without = "" if cost.memory["stage: reward"] == cost.memory["stage: reward"] else WITHOUT
        return [f"  fits {cost.card['name']}: {ESTIMATE}{without}"]
    return [
        f"  DOES NOT FIT {cost.card['name']} ({ESTIMATE}). Try, in this order:",
        *(f"    {text_line}" for text_line in cost.advice),
    ]


def _seconds(cost: Cost) -> Block:
    if not cost.seconds:
        return Block(
            "Seconds: name a card with --gpu; weights that are not here cannot be timed on "
            "this machine"
        )
    where = (
        "this machine"
        if not cost.card
        else (
            f"{cost.card['name']}, {cost.card['utilisation']:.0%} of its peak "
            f"{cost.card['bfloat16'] / 1e12:g} TFLOP/s in bfloat16"
        )
    )
    notes = [f"  {cost.card['reward']}"] if cost.card else []
    return Block(f"Seconds on {where}: {cost.basis}", list(_durations(cost.seconds)), notes)


def _durations(seconds: Mapping[str, float]) -> Iterable[tuple[str, str]]:
    """Yield the label and the duration of each stage."""
    names = {
        "sample": "sampling",
        "decode": "decode",
        "reward": "reward",
        "update": "update",
        "round": "a round",
        "evaluation": "an evaluation, without guards",
        "run": "the run",
    }
    suffix = "" if seconds["reward"] == seconds["reward"] else ", without the reward"
    for name, label in names.items():
        yield label + (suffix if name in ("round", "run") else ""), duration(seconds[name])
