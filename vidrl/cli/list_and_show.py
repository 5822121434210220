"""vidrl list, vidrl show: the plug-ins."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from ._declare import command


def declare_list(commands: Any) -> None:
    about = "The plug-ins of one kind (rewards, backbones, algorithms, benchmarks, steering), or of all."
    made = command(commands, "list", about, "what there is", _list)
    made.add_argument("kind", metavar="KIND", nargs="?")
    made.add_argument(
        "--json", action="store_true", help="names, documentation, options and facts as JSON"
    )
    made.add_argument(
        "--diffusers",
        action="store_true",
        help="of backbones: which pipelines of diffusers the backbone `pipeline` drives, and "
        "how that was found out",
    )


def declare_show(commands: Any) -> None:
    about = "A plug-in's documentation, options and facts.\n\n  vidrl show rewards flicker"
    made = command(commands, "show", about, "one of them, in full", _show)
    made.add_argument("kind", metavar="KIND")
    made.add_argument(
        "name",
        metavar="NAME",
        help="a name, or package.module:Class; of rewards also `default`, or package.module:function",
    )
    made.add_argument("--json", action="store_true")


def _list(args: argparse.Namespace) -> int:
    from vidrl import plugin

    if args.diffusers:
        return _diffusers(args)
    chosen = [args.kind] if args.kind else plugin.kinds()
    table = {kind: [_facts(kind, name) for name in plugin.names(kind)] for kind in chosen}
    if args.json:
        print(
            json.dumps(
                table[args.kind] if args.kind else table, indent=2, default=str, ensure_ascii=False
            )
        )
        return 0
    for kind, rows in table.items():
        print("\n".join([*([] if args.kind else [f"\n{kind}"]), *_columns(rows)]))
    return 0


def _facts(kind: str, name: str) -> dict[str, Any]:
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


def _columns(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    width = max((len(row["name"]) for row in rows), default=0)
    return [f"{row['name']:{width}}  {row['summary']}" for row in rows] or ["(none yet)"]


def _diffusers(args: argparse.Namespace) -> int:
    """Print what scripts/pipelines.py wrote down."""
    if args.kind not in (None, "backbones"):
        raise ValueError(
            f"expected --diffusers with the kind backbones, got {args.kind}: leave one of them out"
        )
    file = resources.files("vidrl.backbones") / "pipelines.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    head = ("pipeline", "makes", "path", "contract kept with tiny weights")
    rows = [
        (row["pipeline"], row["makes"], row["checks"].get("path", ""), kept(row["checks"]))
        for row in found["checked"]
    ]
    rows += [(row["pipeline"], row["makes"], row["path"], _read(row)) for row in found["read"]]
    print(
        f"diffusers {found['diffusers']}; run with real weights: none; lines of code a family: 0\n"
    )
    print("\n".join(_aligned([head, *rows])))
    return 0


def kept(checks: Mapping[str, str]) -> str:
    """In a word or two what the contract of a family showed.

    >>> kept({"path": "flow, v", "decode": "yes"}), kept({"lora": "ValueError: ..."}), kept({})
    ('yes', 'all but lora', 'not run')
    """
    told = {name.replace("_", " "): said for name, said in checks.items() if name != "path"}
    broken = [name for name, said in told.items() if said != "yes"]
    return "not run" if not told else f"all but {'; '.join(broken)}" if broken else "yes"


def _read(row: Mapping[str, str]) -> str:
    """What the source of a pipeline shows of it."""
    if row["not"]:
        return f"not driven: {row['not']}"
    return "only read" + (f": needs call.{row['call']}" if row["call"] else "")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines of columns; the last column may be long."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def _show(args: argparse.Namespace) -> int:
    facts = (
        _default()
        if (args.kind, args.name) == ("rewards", "default")
        else _known(args.kind, args.name)
    )
    if args.json:
        print(json.dumps(facts, indent=2, default=str, ensure_ascii=False))
        return 0
    options = [
        f"{option['name']}: {option['type'] or 'any'}"
        + (f" = {option['default']!r}" if "default" in option else "   (required)")
        for option in facts["options"]
    ]
    card = _card(facts["facts"].pop("card", None))
    parts = [f"{name} {weight:g}" for name, weight in facts.get("parts", {}).items()]
    attributes = [f"{name}: {value!r}" for name, value in facts["facts"].items()]
    print(
        "\n".join(
            [
                f"{args.kind} {args.name}   ({facts['class']})",
                "",
                facts["doc"],
                *(_section("Card", card) if card else []),
                *(_section("Parts, weighted", parts) if parts else []),
                *_section("Options", options),
                *_section("Facts", attributes),
            ]
        )
    )
    return 0


def _known(kind: str, name: str) -> dict[str, Any]:
    from vidrl import plugin

    return plugin.facts(kind, name)


def _default() -> dict[str, Any]:
    """The description of the default composite: that of its class, and its parts."""
    from vidrl.rewards import default

    made, facts = default(), _known("rewards", "vidrl.rewards.compose:Composite")
    own = {name: getattr(made, name) for name in ("differentiable", "needs", "time_support")}
    return facts | {
        "name": "default",
        "options": [],
        "parts": made.weights,
        "facts": facts["facts"] | own,
    }


def _card(card: dict[str, str] | None) -> list[str]:
    return [f"{name.replace('_', ' '):9} {text}" for name, text in (card or {}).items() if text]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines or ["none"])]
