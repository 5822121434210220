"""Defines the command `vidrl schema`, which prints the JSON schema of recipes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._declare import command, new_file

SCHEMA = """\
Print the JSON schema of recipes, with which an editor completes keys and marks errors.

  vidrl schema --out recipe.schema.json

An editor with a TOML language server, such as the extension "Even Better TOML", reads the schema
that the first line of a recipe names: #:schema recipe.schema.json
"""


def declare(commands: Any) -> None:
    """Declare the command `schema`."""
    brief = "print the JSON schema of recipes"
    schema = command(commands, "schema", SCHEMA, brief, _schema)
    schema.add_argument(
        "--out", type=new_file, metavar="FILE", help="write the schema to this file, print its path"
    )
    schema.add_argument(
        "--markdown",
        action="store_true",
        help="print a Markdown page with a table of the keys instead of the schema",
    )


def _schema(args: argparse.Namespace) -> int:
    from vidrl import schema

    as_json = json.dumps(schema.recipe_schema(), indent=2) + "\n"
    text = schema.markdown() if args.markdown else as_json
    if args.out is None:
        print(text, end="")
    else:
        Path(args.out).write_text(text, encoding="utf-8")
        print(args.out)
    return 0
