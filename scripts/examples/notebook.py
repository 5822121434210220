"""Write docs/tutorials/segment_grpo.ipynb from segment_grpo.py, so that the two cannot differ.

    python scripts/examples/notebook.py            # after a change of the example
    python scripts/examples/notebook.py --check    # exit with 1 if the notebook is not current

Each docstring of the script becomes a markdown cell, and the code that it explains becomes the
code cell below.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "examples" / "segment_grpo.py"
NOTEBOOK = ROOT / "docs" / "tutorials" / "segment_grpo.ipynb"


def sections(text: str) -> list[tuple[str, str]]:
    """Return the parts of a script, in its order, as (markdown, code).

    A part is the module's head or a function; its docstring is the markdown. Functions are
    divided before their decorators, and the code after the last function is a part too.
    """
    lines, tree = text.splitlines(), ast.parse(text)
    parts = [("", ast.get_docstring(tree) or "", _docstring_lines(tree), 1)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            title = f"## {node.name.replace('_', ' ').capitalize()}"
            parts.append((title, ast.get_docstring(node) or "", _docstring_lines(node), first))
        elif isinstance(node, ast.If):  # `if __name__ == "__main__":` runs in a notebook as well
            parts.append(("## Train the model", "", range(0), node.lineno))
    ends = [first for *_, first in parts[1:]] + [len(lines) + 1]
    found = []
    for (title, doc, skipped, first), end in zip(parts, ends, strict=True):
        kept = [lines[i - 1] for i in range(first, end) if i not in skipped]
        found.append((f"{title}\n\n{doc}".strip(), "\n".join(kept).strip()))
    return found


def _docstring_lines(node: ast.Module | ast.FunctionDef) -> range:
    """Return the line numbers of a docstring."""
    if ast.get_docstring(node) is None:
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def notebook(text: str) -> dict[str, Any]:
    """Return the notebook (format 4.5) of a script, without outputs."""
    cells: list[dict[str, Any]] = []
    for markdown, code in sections(text):
        title, _, rest = markdown.partition("\n")
        # the first sentence of the script is the title of the page
        shown = markdown if title.startswith("## ") else f"# {title.rstrip('.')}\n{rest}"
        cells.append(_cell(len(cells), "markdown", shown))
        cells.append(_cell(len(cells), "code", code))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    """Return a cell of the notebook format."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    source = text.splitlines(keepends=True)
    return {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": source} | code


def page() -> str:
    """Return the text of the notebook's file."""
    made = notebook(SCRIPT.read_text(encoding="utf-8"))
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the notebook, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        current = NOTEBOOK.is_file() and NOTEBOOK.read_text(encoding="utf-8") == page()
        print(f"{NOTEBOOK} is {'current' if current else 'not current: run ' + sys.argv[0]}")
        return int(not current)
    NOTEBOOK.parent.mkdir(parents=True, exist_ok=True)
    NOTEBOOK.write_text(page(), encoding="utf-8")
    print(NOTEBOOK)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
