"""Defines `vidrl list`, which lists the plug-ins, and `vidrl show`, which describes one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from ._declare import command
from ._tables import Table, print_tables

LIST = """\
List the plug-ins of one kind (rewards, backbones, algorithms, benchmarks, steering,
feedback.formats), or of all kinds, each with a sentence about it.

  vidrl list rewards
  vidrl list backbones --diffusers
"""
SHOW = """\
Describe one plug-in: its documentation, its options and its properties.

  vidrl show rewards flicker
"""
KINDS = "rewards, backbones, algorithms, benchmarks, steering or feedback.formats"
PIPELINE_COLUMNS = ("pipeline", "makes", "path", "contract kept with tiny weights")


def declare_list(commands: Any) -> None:
    """Declare the command `list`."""
    listing = command(commands, "list", LIST, "list rewards, backbones, algorithms ...", _list)
    listing.add_argument("kind", metavar="KIND", nargs="?", help=f"{KINDS} (all kinds)")
    listing.add_argument(
        "--json",
        action="store_true",
        help="print names, documentation, options and properties as JSON",
    )
    listing.add_argument(
        "--diffusers",
        action="store_true",
        help="list the pipelines of diffusers that the backbone `pipeline` can sample from, and "
        "how each of them was checked",
    )


def declare_show(commands: Any) -> None:
    """Declare the command `show`."""
    show = command(commands, "show", SHOW, "describe one plug-in and its options", _show)
    show.add_argument("kind", metavar="KIND", help=KINDS)
    show.add_argument(
        "name",
        metavar="NAME",
        help="a name that `vidrl list KIND` prints, or package.module:Class; for rewards also "
        "`default`, the default composite, or package.module:function",
    )
    show.add_argument("--json", action="store_true", help="print the description as JSON")


def _list(args: argparse.Namespace) -> int:
    from vidrl import plugin

    if args.diffusers:
        return _list_pipelines(args)
    kinds = [args.kind] if args.kind else plugin.kinds()
    found = {kind: [_facts(kind, name) for name in plugin.names(kind)] for kind in kinds}
    if args.json:
        _print_json(found[args.kind] if args.kind else found)
        return 0
    for kind, plugins in found.items():
        title = "" if args.kind else kind
        rows = [(facts["name"], facts["summary"]) for facts in plugins]
        text = "\n".join([*([f"\n{title}"] if title else []), *(_aligned(rows) or ["(none yet)"])])
        print_tables([Table((), rows or [("(none yet)", "")], title)], text)
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def _facts(kind: str, name: str) -> dict[str, Any]:
    """Return the facts of a plug-in, or the reason why it cannot be used on this machine."""
    from vidrl import plugin

    try:
        return plugin.facts(kind, name)
    except ImportError as error:  # one plug-in's missing package must not hide the others
        return {
            "kind": kind,
            "name": name,
            "summary": f"not usable here: {error}",
            "error": str(error),
        }


def _list_pipelines(args: argparse.Namespace) -> int:
    """Print the checks of diffusers' pipelines that scripts/pipelines.py recorded."""
    if args.kind not in (None, "backbones"):
        raise ValueError(
            f"expected --diffusers with the kind backbones, got {args.kind}: leave one of them out"
        )
    file = resources.files("vidrl.backbones") / "pipelines.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    rows = [
        (row["pipeline"], row["makes"], row["checks"].get("path", ""), kept(row["checks"]))
        for row in found["checked"]
    ]
    rows += [(row["pipeline"], row["makes"], row["path"], _read(row)) for row in found["read"]]
    title = (
        f"diffusers {found['diffusers']}; run with real weights: none; lines of code a family: 0"
    )
    text = "\n".join([title, "", *_aligned([PIPELINE_COLUMNS, *rows])])
    print_tables([Table(PIPELINE_COLUMNS, rows, title)], text)
    return 0


def kept(checks: Mapping[str, str]) -> str:
    """Summarise in a few words which promises of the contract a family kept.

    Example:
        >>> kept({"path": "flow, v", "decode": "yes"}), kept({"lora": "ValueError: ..."}), kept({})
        ('yes', 'all but lora', 'not run')
    """
    results = {name.replace("_", " "): text for name, text in checks.items() if name != "path"}
    broken = [name for name, text in results.items() if text != "yes"]
    if not results:
        return "not run"
    return f"all but {'; '.join(broken)}" if broken else "yes"


def _read(row: Mapping[str, str]) -> str:
    """Describe a pipeline whose source was read and which was not run."""
    if row["not"]:
        return f"not driven: {row['not']}"
    return "only read" + (f": needs call.{row['call']}" if row["call"] else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns; the last column is not padded."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return lines


def _show(args: argparse.Namespace) -> int:
    facts = (
        _default_composite()
        if (args.kind, args.name) == ("rewards", "default")
        else _plugin_facts(args.kind, args.name)
    )
    if args.json:
        _print_json(facts)
        return 0
    print("\n".join(_description(f"{args.kind} {args.name}", facts)))
    return 0


def _description(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that `vidrl show` prints."""
    options = [
        f"{option['name']}: {option['type'] or 'any'}"
        + (f" = {option['default']!r}" if "default" in option else "   (required)")
        for option in facts["options"]
    ]
    card = _card_lines(facts["facts"].get("card"))
    parts = [f"{part} {weight:g}" for part, weight in facts.get("parts", {}).items()]
    attributes = [f"{key}: {value!r}" for key, value in facts["facts"].items() if key != "card"]
    return [
        f"{name}   ({facts['class']})",
        "",
        facts["doc"],
        *(_section("Card", card) if card else []),
        *(_section("Parts, weighted", parts) if parts else []),
        *_section("Options", options),
        *_section("Facts", attributes),
    ]


def _plugin_facts(kind: str, name: str) -> dict[str, Any]:
    from vidrl import plugin

    return plugin.facts(kind, name)


def _default_composite() -> dict[str, Any]:
    """Return the description of the default composite: its class and its parts."""
    from vidrl.rewards import default

    composite, facts = default(), _plugin_facts("rewards", "vidrl.rewards.compose:Composite")
    own = {name: getattr(composite, name) for name in ("differentiable", "needs", "time_support")}
    return facts | {
        "name": "default",
        "options": [],
        "parts": composite.weights,
        "facts": facts["facts"] | own,
    }


def _card_lines(card: Mapping[str, str] | None) -> list[str]:
    return [f"{name.replace('_', ' '):9} {text}" for name, text in (card or {}).items() if text]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines or ["none"])]
