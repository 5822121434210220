"""Runs the commands and the code of a page of the documentation as they stand. No test is here."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from vidrl import cli

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


def commands(text):
    """The words of each command of a text of plain commands `vidrl`, or [] for any other text."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    if re.search(r"[|&<>$;*]", text) or not all(line.startswith("vidrl ") for line in lines):
        return []
    return [shlex.split(line, comments=True) for line in lines]


def here(place, text, changes):
    """As `shell`, but commands `vidrl` run in this process, which has the imports already."""
    known = commands(shorter(text, changes))
    if not known:
        return shell(place, text, changes)
    said, errors = io.StringIO(), io.StringIO()
    for words in known:
        with contextlib.chdir(place), redirect_stdout(said), redirect_stderr(errors):
            status = cli.main(words[1:])
        assert status == 0, f"{shlex.join(words)}\n{said.getvalue()}\n{errors.getvalue()}"
    return said.getvalue()


def shell(place, text, changes):
    text = shorter(text, changes)
    text = re.sub(r"^vidrl ", f"{sys.executable} -m vidrl ", text, flags=re.MULTILINE)
    return run(place, f"set -e\n{text}", "bash", "-c")
