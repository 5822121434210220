"""The head of the page: what was measured, and in words what is beyond doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
    prompts,
    significant_side,
    summary_row,
    verdict,
)
from vidrl.lookup.grammar import counted
from vidrl.report.render import macro

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "bench/header.html"
PAIRS = 6  # pairs of sets, those of four sets: with more pairs the head names the best set alone
# The verdicts of `margin_verdict`, as the head says them.
WITHIN = {
    "equivalent": "equivalent",
    "not worse": "not worse by more than its margin",
    "not better": "not better by more than its margin",
}


def title(results: Results) -> str:
    """Return the names of the sets."""
    names = [one["name"] for one in results["sets"]]
    return " against ".join(names) if len(names) < 3 else listed(names)


def header(results: Results) -> dict[str, Any]:
    """Return the data of the head."""
    suite = results["suite"]
    return {
        "suite": f"{suite['name']} {suite['version']}",
        "measured": _measured(results),
        "unfair": [_sentence(one) for one in results.get("fairness") or []],
        "findings": _findings(results),
        "cautions": _cautions(results),
        "facts": _facts(results),
    }


def _sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def _measured(results: Results) -> str:
    """Say how many clips of how many prompts were measured on how many dimensions."""
    sets, dims = results["sets"], results["dims"]
    counts = [len(one["clips"]) for one in sets]
    same = len(set(counts)) == 1
    clips = counted(counts[0], "clips") if same else f"{listed([str(n) for n in counts])} clips"
    each = f" of each of {len(sets)} sets" if len(sets) > 1 and same else ""
    found = prompts(clip for one in sets for clip in one["clips"])
    source = f", from {counted(len(found), 'prompts')}," if found else ""
    return (
        f"{clips}{each}{source} measured on {counted(len(dims), 'dimensions')}. "
        "Higher is better on every one."
    )


def _findings(results: Results) -> list[Markup]:
    """Return a text for each pair of sets, or for many sets one text on the best of each dim."""
    pairs = compared(results)
    if len(pairs) > PAIRS:
        return [_ranking(results)]
    return [_finding(results, first, second, rows) for (first, second), rows in pairs.items()]


def _ranking(results: Results) -> Markup:
    """Say which set is better than every other set beyond doubt, by dimension."""
    first: dict[str, list[Markup]] = {}
    for dim in results["dims"]:
        best = best_set(results, dim["name"]) or ""
        first.setdefault(best, []).append(_marked(results, dim["name"]))
    undecided = first.pop("", [])
    return macro(TEMPLATE, "ranking", first=first, open=undecided)


def _finding(results: Results, first: str, second: str, rows: Sequence[Row]) -> Markup:
    """Say on which dimensions a set is better, worse and undecided against another."""
    by_verdict: dict[int, list[Markup]] = {1: [], -1: [], 0: []}
    for row in rows:
        by_verdict[verdict(results, row)].append(_marked(results, row["dim"]))
    return macro(
        TEMPLATE,
        "finding",
        first=first,
        second=second,
        better=by_verdict[1],
        worse=by_verdict[-1],
        open=by_verdict[0],
        within=_within(results, rows),
        count=len(rows),
    )


def _within(results: Results, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return on which dimensions a difference is shown to be within the margin."""
    found = {
        word: [_marked(results, row["dim"]) for row in rows if margin_verdict(results, row) == word]
        for word in WITHIN
    }
    return [{"words": WITHIN[word], "dims": dims} for word, dims in found.items() if dims]


def _marked(results: Results, name: str) -> Markup:
    """Return a dimension's name, with † where it was a training reward."""
    trained = any(dim["name"] == name and dim.get("trained") for dim in results["dims"])
    return macro("bench/macros.html", "marked", name=name, trained=trained)


def _cautions(results: Results) -> list[str]:
    """Return what a reader must know before quoting a number."""
    found = [
        _trained(results),
        *(_sentence(one) for one in caveats(results)),
        _slight(results),
        _few(results),
        _saturated(results),
        _lost(results),
    ]
    return [one for one in found if one]


def _trained(results: Results) -> str:
    """Warn of dimensions that were training rewards."""
    names = [dim["name"] for dim in results["dims"] if dim.get("trained")]
    if not names:
        return ""
    were = "was" if len(names) == 1 else "were"
    return (
        f"† {listed(names)} {were} trained on: a rise there may come from optimising the reward, "
        "without better clips."
    )


def _slight(results: Results) -> Markup | str:
    """Name the dimensions whose difference is beyond doubt and too small to matter."""
    found = [
        row["dim"]
        for row in results.get("comparisons", [])
        if significant_side(results, row) and not exceeds_least_relevant(results, row)
    ]
    dims = [_marked(results, name) for name in dict.fromkeys(found)]
    return macro(TEMPLATE, "slight", dims=dims) if dims else ""


def _few(results: Results) -> str:
    """Warn of sets with too few clips or prompts for a claim."""
    least = results["suite"].get("least", 20)
    thin = [
        one["name"]
        for one in results["sets"]
        if any(
            not summary_row(results, one["name"], dim["name"]).get("enough", True)
            for dim in results["dims"]
        )
    ]
    if not thin:
        return ""
    weak = any(not has_enough_clips(results, row) for row in results.get("comparisons", []))
    claim = ", and no difference is claimed there" if weak else ""
    return (
        f"Fewer than {least} scored clips, or a single prompt, on some dimensions of "
        f"{listed(thin)}: marked below{claim}."
    )


def _saturated(results: Results) -> str:
    """Warn of dimensions on which most clips have the best value already."""
    found = [
        dim["name"]
        for dim in results["dims"]
        if any(
            summary_row(results, one["name"], dim["name"]).get("saturated")
            for one in results["sets"]
        )
    ]
    if not found:
        return ""
    return (
        f"Saturated: {listed(found)}. Half of the clips lie at the end of the range, so better "
        "clips can hardly have a higher value."
    )


def _lost(results: Results) -> Markup | str:
    """Count the clips that could not be read and the values that could not be scored."""
    skipped = sum(len(one.get("skipped", [])) for one in results["sets"])
    unscored = sum(
        value is None and not is_inapplicable(clip, dim)
        for one in results["sets"]
        for clip in one["clips"]
        for dim, value in clip["value"].items()
    )
    counts = [f"{counted(skipped, 'clips')} could not be read"] if skipped else []
    counts += [f"{counted(unscored, 'values')} of clips could not be scored"] if unscored else []
    return macro(TEMPLATE, "lost", counts=counts) if counts else ""


def _facts(results: Results) -> list[tuple[str, Any]]:
    protocol, sets = results["protocol"], results["sets"]
    paired = {row.get("paired_by") for row in results.get("comparisons", [])} - {None, ""}
    clips = ", ".join(f"{one['name']} {len(one['clips'])}" for one in sets)
    found: Mapping[str, Any] = {
        "clips": clips if len(sets) > 1 else len(sets[0]["clips"]),
        "prompts": len(prompts(clip for one in sets for clip in one["clips"])) or "none given",
        "paired by": listed(sorted(paired)),
        "frames": _frames(results),
        "protocol": protocol["hash"],
        "made": str(results.get("made", ""))[:10],
    }
    return [(name, value) for name, value in found.items() if value not in (None, "")]


def _frames(results: Results) -> str:
    """Return frames, size and rate of the clips, as ranges where they differ."""
    clips = [clip for one in results["sets"] for clip in one["clips"] if clip.get("frames")]
    if not clips:
        return ""
    sizes = sorted({tuple(clip["size"]) for clip in clips if clip.get("size")})
    size = f"{sizes[0][0]} × {sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    count = _range([clip["frames"] for clip in clips])
    fps = _range(list(count_rates(clip["fps"] for clip in clips)))
    return f"{count} of {size} at {fps} fps" if sizes else count


def _range(numbers: Sequence[float | None]) -> str:
    values = [value for value in numbers if value is not None]
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
