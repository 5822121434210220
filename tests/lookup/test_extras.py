"""The commands in messages work: vidrl is on no index, so none of them asks an index for
vidrl."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vidrl.lookup import extras

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_a_checkout_is_installed_by_its_path():
    assert extras.install("train") == f"pip install {shlex.quote(f'{ROOT}[train]')}"


@pytest.mark.parametrize("extra", [name for name in EXTRAS if name != "dev"])
def test_an_installed_wheel_names_the_packages_of_its_extra(extra, tmp_path):
    wanted = [line.partition(";")[0].strip() for line in EXTRAS[extra]]
    assert extras.packages(extra) == wanted
    assert shlex.split(extras.install(extra, tmp_path)) == ["pip", "install", *wanted]


def test_an_extra_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected an extra of vidrl, got 'trian'"):
        extras.packages("trian")


def test_no_message_and_no_page_asks_an_index_for_vidrl():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    texts = {
        name: (ROOT / name).read_text(errors="replace")
        for name in files
        if name.endswith((".py", ".md", ".toml", ".txt")) and (ROOT / name).is_file()
    }
    asked = re.compile(r"pip install [^\n]*(?<![./\w])vidrl(\[|\b(?!/))")
    found = [
        name
        for name, text in texts.items()
        if asked.search(text) and name != "tests/lookup/test_extras.py"
    ]
    assert not found


def test_the_command_that_a_message_names_resolves():
    """pip reads the path with its extra as this checkout; it resolves nothing and downloads
    nothing."""
    words = shlex.split(extras.install("vmaf"))[2:]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "--report",
            "-",
            *words,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and '"requested_extras": [\n        "vmaf"' in done.stdout, (
        done.stderr
    )
