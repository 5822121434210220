"""vidrl schema: the JSON schema of recipes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._declare import command

SCHEMA = """\
The JSON schema of recipes, with which an editor completes keys and marks errors.

  vidrl schema --out recipe.schema.json

An editor with a TOML language server, such as the extension "Even Better TOML", reads the schema
that the first line of a recipe names: #:schema recipe.schema.json
"""


def declare(commands: Any) -> None:
    """Declare the command `schema`."""
    created = command(commands, "schema", SCHEMA, "the JSON schema of recipes", _schema)
    created.add_argument("--out", type=Path, metavar="FILE", help="write to FILE, not to stdout")
    created.add_argument(
        "--markdown", action="store_true", help="print a page with a table of the keys instead"
    )


def _schema(args: argparse.Namespace) -> int:
    from vidrl import schema

    as_json = json.dumps(schema.recipe_schema(), indent=2) + "\n"
    text = schema.markdown() if args.markdown else as_json
    if args.out is None:
        print(text, end="")
    else:
        args.out.write_text(text, encoding="utf-8")
        print(args.out)
    return 0
