"""The page of a run: HTML text that holds everything it shows; nothing on it comes from
elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from vidrl.training.guards import LEFT, OUTSIDE

from ..charts import Line, chart, decimals, interval, number, places
from ..run_folder import Row, Run, side
from .bench import benched
from .credit import credited
from .film import given, player
from .headline import warnings
from .influence import influenced

PLAYER = """
const clips = [...document.querySelectorAll("video")];
const press = (id, act) => document.getElementById(id)?.addEventListener("click", event => {
  const on = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", on);
  act(on);
});
const restart = () => clips.forEach(clip => { clip.currentTime = 0; });
press("pause", on => clips.forEach(clip => on ? clip.pause() : clip.play()));
press("slow", on => { clips.forEach(clip => { clip.playbackRate = on ? 0.25 : 1; }); restart(); });
if (matchMedia("(prefers-reduced-motion: reduce)").matches) document.getElementById("pause")?.click();
else setTimeout(restart, 300);
document.querySelectorAll(".card").forEach(card => {
  const clip = card.querySelector("video"), heads = [...card.querySelectorAll(".playhead")];
  if (!clip || !heads.length) return;
  const stopped = () => document.getElementById("pause")?.getAttribute("aria-pressed") === "true";
  const move = () => {
    heads.forEach(head => { head.style.left = `${100 * clip.currentTime / (clip.duration || 1)}%`; });
    requestAnimationFrame(move);
  };
  const hold = event => {
    const box = event.currentTarget.querySelector(".rules").getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    if (at < 0 || at >= 1 || !clip.duration) return;
    clip.pause();
    clip.currentTime = at * clip.duration;
  };
  heads.map(head => head.closest(".lanes")).forEach(lanes => {
    lanes.addEventListener("pointermove", hold);
    lanes.addEventListener("pointerleave", () => stopped() || clip.play());
  });
  move();
});
"""


def page(run: Run) -> str:
    """The whole page."""
    sections: list[Callable[[Run], str]] = [
        _header,
        _clips,
        _forest,
        _curves,
        benched,
        credited,
        influenced,
        _events,
        _details,
    ]
    body = "\n".join(section(run) for section in sections)
    style = files("vidrl").joinpath("report/report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.folder.resolve().name)} · vidrl</title><style>{style}</style></head>\n"
        f"<body><main>{body}</main><script>{PLAYER}</script></body></html>\n"
    )


# --- the head and the table
# ------------------------------------------------------------------------------------------


def _header(run: Run) -> str:
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in _facts(run)
    )
    return (
        f'<header><div class="eyebrow">vidrl run</div><h1>{escape(run.folder.resolve().name)}</h1>'
        f'<p class="lede">{_lede(run)}</p>{_warned(run)}<dl class="facts">{facts}</dl></header>'
    )


def _warned(run: Run) -> str:
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in warnings(run))
    return f'<ul class="warned">{told}</ul>' if told else ""


def _lede(run: Run) -> str:
    row = run.held_out.get("composite")
    if row is None:
        return f"{len(run.metrics)} rounds so far; the held-out comparison comes with the next evaluation."
    count = row.get("n") or (run.evals[-1].get("n") if run.evals else None)
    prompts = f"{count:.0f} held-out prompts" if count else "held-out prompts"
    sure = {1: "rose", -1: "fell"}.get(side(row), "did not move measurably")
    verdict = "changed" if row["low"] is None else sure
    before, after, change, low, high = _numbers(row)
    range_ = f", 95 % interval {low} to {high}" if row["low"] is not None else f"; {_none(row)}"
    running = run.summary.get("status") == "running"
    on = f"After {run.summary['rounds']} rounds so far: on" if running else "On"
    return (
        f"{on} {prompts} the composite reward {verdict}, from <b>{before}</b> to <b>{after}</b>: a paired "
        f"difference of <b>{change}</b>{range_}."
    )


def _none(row: Mapping[str, Any]) -> str:
    """Why a difference has no interval."""
    return escape(f"nothing is sure: {row.get('note') or 'it has no interval'}")


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """Before, after, difference, low and high, with decimals enough to show the interval's
    width."""
    digits = places(0.0 if row["low"] is None else row["high"] - row["low"])
    plain = [decimals(row[side], places=digits) for side in ("before", "after")]
    return plain + [
        decimals(row[side], sign=True, places=digits) for side in ("difference", "low", "high")
    ]


def _facts(run: Run) -> list[tuple[str, Any]]:
    section = lambda name: run.config.get(name, {})  # noqa: E731
    seconds = run.summary.get("train_seconds") or (
        run.metrics[-1].get("total_seconds") if run.metrics else None
    )
    model = section("backbone").get("options", {}).get("model", section("backbone").get("name"))
    found = [
        ("status", run.summary.get("status", "unfinished")),
        ("rounds", run.summary.get("rounds", len(run.metrics))),
        ("training time", seconds and f"{seconds // 60:.0f} min {seconds % 60:.0f} s"),
        ("model", model),
        ("algorithm", section("algorithm").get("name")),
        ("seed", run.config.get("seed")),
        ("device", run.summary.get("device")),
    ]
    return [(name, value) for name, value in found if value is not None]


def _forest(run: Run) -> str:
    if not run.held_out:
        return ""
    parts = [name for name in run.parts if name != "composite"]
    others = [name for name in run.held_out if name not in (*parts, "composite")]
    groups = [
        ("", [name for name in ("composite",) if name in run.held_out]),
        ("Parts of the reward", parts),
        ("Guards and truth", others),
    ]
    head = "".join(
        f"<span>{name}</span>" for name in ("", "before", "after", "change", "", "95 % interval")
    )
    rows = "".join(
        (f'<div class="row group">{title}</div>' if title and names else "")
        + "".join(_forest_row(run, name) for name in names)
        for title, names in groups
    )
    return (
        f'<section><h2>Before and after</h2><p class="note">Same held-out prompts and seeds before and after. '
        f"The dot is the mean paired difference, the bar its 95 % interval, the line zero; each row has its own "
        f"scale. Shaded: the differences that a guard allows; a measure stays in its band only where its whole "
        f"interval lies there. A label says where a measure that no reward "
        f"optimises changed beyond doubt: its interval leaves out zero.</p>"
        f'<div class="row head">{head}</div>{rows}</section>'
    )


def _forest_row(run: Run, name: str) -> str:
    row, zone, verdict = run.held_out[name], run.allowed(name), run.verdict(name)
    before, after, difference, low, high = _numbers(row)
    change = run.change(name)
    style = {"better": "up", "worse": "down", "rose": "moved", "fell": "moved"}.get(change, "")
    out = "out" if verdict in (LEFT, OUTSIDE) else ""
    chip = f'<span class="chip {out}">{escape(verdict)}</span>' if verdict else ""
    if change and name != "composite" and name not in run.parts:
        chip += f'<span class="chip {"out" if change == "worse" else ""}">{escape(change)}</span>'
    plot = interval(row["low"], row["high"], row["difference"], zone, style)
    label = escape(name).replace("_", "_<wbr>")  # so that a long name breaks between its words
    return (
        f'<div class="row {"main" if name == "composite" else ""}"><span>{label}{chip}</span>'
        f"<span>{before}</span><span>{after}</span><span>{difference}</span>{plot}"
        f'<span class="range soft" title="{escape(row.get("note") or "")}">'
        f"{'none' if row['low'] is None else f'{low} to {high}'}</span></div>"
    )


# --- clips
# -----------------------------------------------------------------------------------------------------------


def _clips(run: Run) -> str:
    if not run.timelines:
        return ""
    cards = "".join(_clip(run, row) for row in run.timelines)
    if _are_images(run):
        return (
            f'<section><h2>Images</h2><p class="note">Held-out prompts, same seed left and right; below each '
            f'picture its composite.</p><div class="grid wide">{cards}</div></section>'
        )
    return (
        f'<section><h2>Clips</h2><p class="note">Held-out prompts, same seed left and right. Below each pair, the '
        f'composite frame by frame: <span class="swatch before"></span>before, <span class="swatch"></span>after; '
        f"dashed lines are the borders of the segments that are credited.</p>"
        f'<div class="controls"><button id="pause" aria-pressed="false">Pause</button>'
        f'<button id="slow" aria-pressed="false">Quarter speed</button></div>'
        f'<div class="grid wide">{cards}</div></section>'
    )


def _clip(run: Run, row: Row) -> str:
    sides = "".join(
        f"<figure>{player(run.clip('clips', side, row['file']))}<figcaption><span>{side}</span>"
        f"<span>{number(row[side].get('value'))}</span></figcaption></figure>"
        for side in ("before", "after")
    )
    if _are_images(run):
        return f'<div class="card"><h3>{escape(row["prompt"])}</h3><div class="pair">{sides}</div>{_parts(row)}</div>'
    curves = {
        name: [row[side].get("curves", {}).get(name) for side in ("before", "after")]
        for name in {**row["before"].get("curves", {}), **row["after"].get("curves", {})}
    }
    main = _frames_chart(run, "composite", curves.pop("composite")) if "composite" in curves else ""
    rest = "".join(
        f"<h3>{escape(name)}</h3>{_frames_chart(run, name, pair)}" for name, pair in curves.items()
    )
    more = f"<details><summary>parts, frame by frame</summary>{rest}</details>" if rest else ""
    head = f"<h3>{escape(row['prompt'])}</h3>{given(run, row, 'clips', 'after')}"
    return f'<div class="card">{head}<div class="pair">{sides}</div>{main}{more}</div>'


def _are_images(run: Run) -> bool:
    """Whether the run's clips are images, which have no curve over time."""
    return all(str(row["file"]).endswith(".png") for row in run.timelines)


def _parts(row: Row) -> str:
    """An image's parts before and after: each is one number."""
    before, after = (row[side].get("parts") or {} for side in ("before", "after"))
    told = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{number(value)} → {number(after.get(name))}</dd></div>"
        for name, value in before.items()
        if value is not None
    )
    return f'<dl class="facts">{told}</dl>' if told else ""


def _frames_chart(run: Run, name: str, pair: Sequence[Sequence[float | None] | None]) -> str:
    sides = zip(("before", "after"), pair, strict=True)
    lines = [Line(side, _middles(curve), curve, side) for side, curve in sides if curve]
    length = max((len(line.y) for line in lines), default=1)
    borders = [start for start, _ in _segments(run) if 0 < start < length]
    return chart(
        lines,
        borders=borders,
        span=(0, length),
        axis="frame",
        cells=True,
        title=f"{name}, frame by frame",
    )


def _middles(curve: Sequence[Any]) -> list[float]:
    return [frame + 0.5 for frame in range(len(curve))]


def _segments(run: Run) -> Sequence[Sequence[float]]:
    return run.credit[0].get("segments", []) if run.credit else []


# --- curves
# ----------------------------------------------------------------------------------------------------------


def _curves(run: Run) -> str:
    if not run.metrics:
        return ""
    held = [
        _held_out_curve(run, name)
        for name in ("composite", *run.config.get("guard", {}).get("bands", {}))
    ]
    parts = [
        _spread_curve(run, f"part: {name}", ("parts", name))
        for name in run.metrics[-1].get("parts", {})
    ]
    single = [_metric(run, title, *path) for title, path in SINGLE.items()]
    cards = [
        _spread_curve(run, "reward of the training clips", ("reward",)),
        *held,
        *parts,
        _ratio(run),
        *single,
    ]
    return (
        f'<section><h2>Learning curves</h2><p class="note">One point a round. Shaded: one standard deviation over '
        f"the round's clips; for the ratio, its range. Circles: held-out evaluations.</p>"
        f'<div class="grid">{"".join(filter(None, cards))}</div></section>'
    )


SINGLE = {
    "clip share": ("clip_share",),
    "KL to the reference": ("kl",),
    "gradient norm": ("grad_norm",),
    "learning rate": ("learning_rate",),
    "weight drift": ("weight_drift",),
    "spread within a group": ("reward", "within_group_std"),
    "groups without spread": ("zero_std_share",),
    "unscored": ("unscored_share",),
    "diversity within a group": ("diversity",),
    "squared error on the clips of files": ("error",),
    "squared error on data.clips": ("data_error",),
}


def _card(title: str, last: Any, body: str, digits: int = 3) -> str:
    head = f'<div class="head2"><h3>{escape(title)}</h3><span>{number(last, digits=digits)}</span></div>'
    return f'<div class="card">{head}{body}</div>'


def _metric(run: Run, title: str, *path: str) -> str:
    y = _column(run.metrics, *path)
    if all(value is None for value in y):
        return ""
    return _card(
        title, y[-1], chart([Line(title, _rounds(run.metrics), y)], axis="round", title=title)
    )


def _spread_curve(run: Run, title: str, path: tuple[str, ...]) -> str:
    mean, std = (_column(run.metrics, *path, name) for name in ("mean", "std"))
    if all(value is None for value in mean):  # rounds whose clips no reward has scored
        return ""
    low, high = (
        [None if m is None or s is None else m + sign * s for m, s in zip(mean, std, strict=True)]
        for sign in (-1, 1)
    )
    line = Line(title, _rounds(run.metrics), mean, low=low, high=high)
    return _card(title, mean[-1], chart([line], axis="round", title=title))


def _ratio(run: Run) -> str:
    mean, low, high = (_column(run.metrics, "ratio", name) for name in ("mean", "min", "max"))
    if all(value is None for value in mean):
        return ""
    line = Line("mean", _rounds(run.metrics), mean, low=low, high=high)
    return _card(
        "ratio", mean[-1], chart([line], axis="round", title="ratio", level=1.0, digits=6), digits=6
    )


def _held_out_curve(run: Run, name: str) -> str:
    """One measure at every evaluation: on the first prompts alone where some evaluations
    measured no others."""
    alike = [row.get("first") or row for row in run.evals]
    y = _column(alike, "measures", name, "mean")
    if all(value is None for value in y):
        return ""
    few = next((row["first"].get("n") for row in run.evals if row.get("first")), None)
    title = f"{name}, first {few} prompts" if few else name
    line = Line(name, _rounds(run.evals), y, dots=True)
    return _card(
        f"held out: {title}", y[-1], chart([line], axis="round", title=f"held-out {title}")
    )


def _rounds(rows: Sequence[Row]) -> list[float]:
    return [row["round"] for row in rows]


def _column(rows: Sequence[Row], *path: str) -> list[float | None]:
    return [_at(row, path) for row in rows]


def _at(row: Any, path: Sequence[str]) -> float | None:
    for name in path:
        row = row.get(name) if isinstance(row, Mapping) else None
    return row if isinstance(row, (int, float)) else None


# --- the rest
# --------------------------------------------------------------------------------------------------------


def _events(run: Run) -> str:
    if not run.events:
        return ""
    rows = "".join(
        f"<tr><td>{number(row.get('round'))}</td><td>{escape(str(row.get('kind', '')))}</td>"
        f"<td>{escape(str(row.get('message', '')))}</td></tr>"
        for row in run.events
    )
    head = "<tr><th>round</th><th>kind</th><th>message</th></tr>"
    return f"<section><h2>Events</h2><table>{head}{rows}</table></section>"


def _details(run: Run) -> str:
    versions = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
        for name, value in run.summary.get("versions", {}).items()
    )
    made = (
        f"<details><summary>versions</summary><table>{versions}</table></details>"
        if versions
        else ""
    )
    return (
        f"<section><h2>The run</h2><details><summary>config.toml, resolved</summary>"
        f"<pre>{escape(run.config_text)}</pre></details>{made}</section>"
    )
