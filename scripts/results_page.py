"""Write docs/results.md: each measured result, the command that made it, and the claims on it.

    python scripts/results_page.py

The source is benchmarks/results/index.toml, whose `quotes` name the sentence of a page and the
text of the result that this sentence rests on.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FILE = ROOT / "docs" / "results.md"
TITLES = {
    "training": "Training",
    "credit": "Credit by segments",
    "rewards": "Rewards",
    "bench": "The benchmark",
}
HEAD = """\
# Results

Every number that README.md and these pages quote, with the command that measured it. A test
(`tests/test_results_index.py`) checks that each claim stands on its page and each number in its
result. Written by `python scripts/results_page.py` from `benchmarks/results/index.toml`.
"""


def page() -> str:
    """Return the text of the page, one section for each folder of results."""
    index = tomllib.loads((RESULTS / "index.toml").read_text(encoding="utf-8"))
    sections = [HEAD]
    for folder, title in TITLES.items():
        rows = [entry(name, row) for name, row in index.items() if name.startswith(f"{folder}/")]
        sections.append(f"## {title}\n\n" + "\n".join(rows))
    return "\n".join(sections)


def entry(name: str, row: dict) -> str:
    """Return one result: what was measured, the file, the date, the command and the claims."""
    lines = [f"### {row['about']}", ""]
    lines += [f"[{name}](../benchmarks/results/{name}), {row['date']}: `{row['command']}`", ""]
    if "earlier" in row:
        lines += [f"Changed since: {row['earlier']}", ""]
    if row.get("quotes"):
        lines += ["| claim | page | number in the result |", "|---|---|---|"]
        lines += [claim(*quote) for quote in row["quotes"]] + [""]
    return "\n".join(lines)


def claim(page: str, says: str, result: str) -> str:
    """Return the row of a claim: what the page says, the page, and what the result says."""
    link = Path(page).relative_to("docs") if page.startswith("docs/") else Path("..") / page
    said = cell(says).replace("[", "\\[").replace("<", "&lt;")  # brackets would make links
    cells = (said, f"[{page}]({link})", f"`{cell(result).strip()}`")
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """Return a text that may stand in a cell: without line breaks, bars and halves of a link."""
    return " ".join(text.split()).replace("](", "] (").replace("|", "/")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
