"""The pages are rendered by jinja2: escaping is on, missing names fail, nothing hostile runs."""

import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from markupsafe import Markup

from vidrl.report import render
from vidrl.report.render import FOLDERS, _environment, inlined, macro

ROOT = Path(__file__).parents[2] / "vidrl"
TEMPLATES = [
    f"{name}/{path.name}"
    for name, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).iterdir())
    if path.suffix in (".html", ".svg")
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_compiles_and_turns_no_escaping_off(template):
    _environment().get_template(template)
    folder, _, name = template.partition("/")
    text = (ROOT / FOLDERS[folder] / name).read_text()
    assert "|safe" not in text and "autoescape" not in text


def test_values_are_escaped_and_only_markup_is_not():
    hostile = "\"><script>alert(1)</script> '"
    drawn = macro("report/film.html", "facts", pairs=[(hostile, Markup("<b>bold</b>"))])
    assert "<script" not in drawn and "&#34;&gt;&lt;script&gt;" in drawn
    assert "<b>bold</b>" in drawn


def test_a_name_that_is_missing_fails():
    with pytest.raises(jinja2.UndefinedError, match="has no attribute 'high'"):
        macro("report/charts.html", "chart", drawn={})


def test_line_breaks_between_tags_vanish_and_those_of_text_stay():
    text, file, _ = render._source("report/document.html")
    assert Path(file).is_file()
    drawn = _environment().from_string(text).render(style="")
    assert '<html lang="en"><head><meta' in drawn
    lines = (ROOT / "report/templates/document.html").read_text().count("\n")
    assert text.count("\n") == lines  # so that errors name the right line


def test_scripts_and_styles_hold_nothing_that_ends_their_element():
    for path in ROOT.glob("**/templates/*.[cj]s*"):
        text = inlined(str(path.relative_to(ROOT)))
        assert "</script" not in text and "</style" not in text and "<!--" not in text


def test_jinja2_is_imported_with_the_first_page():
    code = (
        "import sys, vidrl.report.page, vidrl.audit.page, vidrl.bench.page\n"
        "assert not {'jinja2', 'markupsafe'} & set(sys.modules) - set(before)"
    )
    code = f"import sys, torch\nbefore = list(sys.modules)\n{code}"  # torch may import jinja2
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
