"""The head of the page: what was measured, and what can be said of it beyond doubt, in
words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from vidrl.bench.caveats import caveats
from vidrl.bench.fairness import count_rates
from vidrl.bench.page.facts import (
    Results,
    Row,
    best_set,
    compared,
    exceeds_least_relevant,
    has_enough_clips,
    is_inapplicable,
    listed,
    margin_verdict,
    plural,
    prompts,
    significant_side,
    told,
    verdict,
)

PAIRS = 6  # of sets, four sets: above it the head names the best alone


def title(results: Results) -> str:
    """The sets by name."""
    names = [one["name"] for one in results["sets"]]
    return " against ".join(names) if len(names) < 3 else listed(names)


def header(results: Results) -> str:
    """The header with its lede, marks and facts."""
    suite = results["suite"]
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in _facts(results)
    )
    findings, cautions = (
        _list("findings", _findings(results)),
        _list("cautions", _cautions(results)),
    )
    unfair = _list(
        "cautions unfair",
        [escape(f"{one[:1].upper()}{one[1:]}.") for one in results.get("fairness") or []],
    )
    return (
        f'<header><div class="eyebrow">vidrl bench · {escape(suite["name"])} {escape(str(suite["version"]))}</div>'
        f'<h1>{escape(title(results))}</h1><p class="lede">{_measured(results)}</p>{unfair}{findings}{cautions}'
        f'<dl class="facts">{facts}</dl></header>'
    )


def _list(style: str, said: Sequence[str]) -> str:
    return f'<ul class="{style}">{"".join(f"<li>{one}</li>" for one in said)}</ul>' if said else ""


def _measured(results: Results) -> str:
    sets, dims = results["sets"], results["dims"]
    counts = [len(one["clips"]) for one in sets]
    clips = (
        plural(counts[0], "clip")
        if len(set(counts)) == 1
        else f"{listed([str(n) for n in counts])} clips"
    )
    each = f" of each of {len(sets)} sets" if len(sets) > 1 and len(set(counts)) == 1 else ""
    found = prompts(clip for one in sets for clip in one["clips"])
    source = f", from {plural(len(found), 'prompt')}," if found else ""
    return f"{clips}{each}{source} measured on {plural(len(dims), 'dimension')}. Higher is better on every one."


def _findings(results: Results) -> list[str]:
    """A sentence a pair of sets; of many sets one on the best of each dimension, the tables
    have the rest."""
    pairs = compared(results)
    if len(pairs) > PAIRS:
        return [_ranking(results)]
    return [_finding(results, first, second, rows) for (first, second), rows in pairs.items()]


def _ranking(results: Results) -> str:
    """Which set is better than every other one beyond doubt, by dimension."""
    first: dict[str, list[str]] = {}
    for dim in results["dims"]:
        first.setdefault(best_set(results, dim["name"]) or "", []).append(
            _marked(results, dim["name"])
        )
    open_ = first.pop("", [])
    if not first:
        return "On no dimension is one set better than every other one beyond doubt; letters say which are told apart."
    said = [
        f'<b>{escape(name)}</b> is better than every other set beyond doubt on <span class="up">{listed(dims)}'
        "</span>."
        for name, dims in first.items()
    ]
    left = (
        [
            f"On {listed(open_)} no set is better than every other one beyond doubt; the letters below say which are "
            "not told apart."
        ]
        if open_
        else []
    )
    return " ".join([*said, *left])


def _finding(results: Results, first: str, second: str, rows: Sequence[Row]) -> str:
    """What two sets' comparison says.

    The dims are listed in three groups: better, worse and undecided.
    """
    heaps: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for row in rows:
        heaps[verdict(results, row)].append(_marked(results, row["dim"]))
    one, two = f"<b>{escape(first)}</b>", f"<b>{escape(second)}</b>"
    said = [
        f'{word} than {one} beyond doubt on {len(heaps[sign])} of {len(rows)}: <span class="{style}">'
        f"{listed(heaps[sign])}</span>"
        for sign, word, style in ((1, "better", "up"), (-1, "worse", "down"))
        if heaps[sign]
    ]
    if not said:
        return (
            f"Between {two} and {one} no difference is beyond doubt on any of {plural(len(rows), 'dimension')}."
            f"{_within(results, rows, two)}"
        )
    if len(said) > 1:
        said[1] = said[1].replace(f" than {one} beyond doubt", "", 1)
    open_, rest = heaps[0], f"the other {len(heaps[0])}"
    left = f" On {rest if len(open_) > 1 else open_[0]} the clips do not tell." if open_ else ""
    return f"{two} is {'; and '.join(said)}.{left}{_within(results, rows, two)}"


def _within(results: Results, rows: Sequence[Row], two: str) -> str:
    """On which dimensions a difference is shown to be small enough."""
    words = {
        "equivalent": "equivalent",
        "not worse": "not worse by more than its margin",
        "not better": "not better by more than its margin",
    }
    found = {
        word: [_marked(results, row["dim"]) for row in rows if margin_verdict(results, row) == word]
        for word in words
    }
    said = [f"{words[word]} on {listed(dims)}" for word, dims in found.items() if dims]
    return f" {two} is shown to be {'; '.join(said)}." if said else ""


def _slight(results: Results) -> str:
    """The dimensions with a sure difference that is too small to matter."""
    found = [
        _marked(results, row["dim"])
        for row in results.get("comparisons", [])
        if significant_side(results, row) and not exceeds_least_relevant(results, row)
    ]
    names = list(dict.fromkeys(found))
    return (
        (
            f"Surely different on {listed(names)}, but by less than a re-encoding that nobody sees: no relevant "
            f"difference."
        )
        if names
        else ""
    )


def _marked(results: Results, name: str) -> str:
    trained = any(dim["name"] == name and dim.get("trained") for dim in results["dims"])
    return escape(name).replace("_", "_<wbr>") + ("†" if trained else "")


def _cautions(results: Results) -> list[str]:
    """What a reader must know before quoting a number."""
    trained = [escape(dim["name"]) for dim in results["dims"] if dim.get("trained")]
    said = (
        [
            f"† {listed(trained)} {'was' if len(trained) == 1 else 'were'} trained on: a rise there may be the reward "
            f"being served, not the clips getting better."
        ]
        if trained
        else []
    )
    about = [escape(f"{one[:1].upper()}{one[1:]}.") for one in caveats(results)]
    return (
        said
        + about
        + [
            one
            for one in (_slight(results), _few(results), _saturated(results), _lost(results))
            if one
        ]
    )


def _few(results: Results) -> str:
    least = results["suite"].get("least", 20)
    thin = [
        one["name"]
        for one in results["sets"]
        if any(
            not told(results, one["name"], dim["name"]).get("enough", True)
            for dim in results["dims"]
        )
    ]
    if not thin:
        return ""
    weak = any(not has_enough_clips(results, row) for row in results.get("comparisons", []))
    claim = ", and no difference is claimed there" if weak else ""
    return (
        f"Fewer than {escape(str(least))} scored clips, or a single prompt, on some dimensions of "
        f"{escape(listed(thin))}: marked below{claim}."
    )


def _saturated(results: Results) -> str:
    found = [
        escape(dim["name"])
        for dim in results["dims"]
        if any(told(results, one["name"], dim["name"]).get("saturated") for one in results["sets"])
    ]
    if not found:
        return ""
    return f"Saturated: {listed(found)}. Half of the clips lie at the end of the range: little room is left."


def _lost(results: Results) -> str:
    skipped = sum(len(one.get("skipped", [])) for one in results["sets"])
    unscored = sum(
        value is None and not is_inapplicable(clip, dim)
        for one in results["sets"]
        for clip in one["clips"]
        for dim, value in clip["value"].items()
    )
    told_of = ([f"{plural(skipped, 'clip')} could not be read"] if skipped else []) + (
        [f"{plural(unscored, 'value')} of clips could not be scored"] if unscored else []
    )
    return f'{listed(told_of)}: <a href="#left-out">listed with reasons</a>.' if told_of else ""


def _facts(results: Results) -> list[tuple[str, Any]]:
    protocol, sets = results["protocol"], results["sets"]
    paired = {row.get("paired_by") for row in results.get("comparisons", [])} - {None, ""}
    clips = ", ".join(f"{one['name']} {len(one['clips'])}" for one in sets)
    found = [
        ("clips", clips if len(sets) > 1 else len(sets[0]["clips"])),
        ("prompts", len(prompts(clip for one in sets for clip in one["clips"])) or "none given"),
        ("paired by", listed(sorted(paired))),
        ("frames", _frames(results)),
        ("protocol", protocol["hash"]),
        ("made", str(results.get("made", ""))[:10]),
    ]
    return [(name, value) for name, value in found if value not in (None, "")]


def _frames(results: Results) -> str:
    """Frames, size and rate of the clips, as ranges where they differ."""
    clips = [clip for one in results["sets"] for clip in one["clips"] if clip.get("frames")]
    if not clips:
        return ""
    sizes = sorted({tuple(clip["size"]) for clip in clips if clip.get("size")})
    size = f"{sizes[0][0]} × {sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    count, fps = (
        _range([clip["frames"] for clip in clips]),
        _range(list(count_rates(clip["fps"] for clip in clips))),
    )
    return f"{count} of {size} at {fps} fps" if sizes else count


def _range(numbers: Sequence[float | None]) -> str:
    known = [value for value in numbers if value is not None]
    low, high = min(known, default=0), max(known, default=0)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
