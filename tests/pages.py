"""Runs the commands and the code of a page of the documentation as they stand. No test is here."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The blocks of a page of docs/ in order, each with its language."""
    return FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def link(place, prompts):
    """Link the repository's files into a working folder, and write the first prompts there."""
    for name in ("assets", "scripts", "benchmarks", "rewards", "vidrl"):
        (place / name).symlink_to(ROOT / name)
    known = (ROOT / "assets" / "prompts" / "world_held_out.txt").read_text().splitlines()
    (place / "few.txt").write_text("\n".join(known[:prompts]) + "\n")
    return place


def environment():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(place, script, *interpreter):
    done = subprocess.run(
        [*interpreter, script], cwd=place, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shorter(text, changes):
    """The same commands with fewer clips and smaller models; `changes` maps long to short."""
    for long, short in changes.items():
        text = text.replace(long, short)
    return text


def shell(place, text, changes):
    text = shorter(text, changes)
    text = re.sub(r"^vidrl ", f"{sys.executable} -m vidrl ", text, flags=re.MULTILINE)
    return run(place, f"set -e\n{text}", "bash", "-c")
