"""Renders the pages: jinja2 templates with HTML escaping on, styles and scripts inlined.

A page is one file that people mail, so nothing in it is loaded from elsewhere. Python
prepares the data; all HTML and SVG is in the folders `templates`. jinja2 is imported when
the first page is rendered, so that `import vidrl` does not need it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# The first part of a template's name, and the folder below vidrl/ that holds its files.
FOLDERS = {
    "report": "report/templates",
    "audit": "audit/templates",
    "bench": "bench/page/templates",
    "label": "feedback/labelling/templates",
    "feedback": "feedback/templates",
}

# A line break between two tags, of HTML or of jinja2, is layout of the template alone. On
# the page a blank between two inline elements would be visible, so the break is dropped.
BETWEEN_TAGS = re.compile(r"(?<=[>}])([ \t]*\n\s*)(?=[<{])")


def render(template: str, /, **values: Any) -> str:
    """Render a whole page, such as "report/run.html", with the values that it names.

    Every value is escaped unless it is `Markup`, which only this module and macros return.
    A name that the template uses and `values` lacks raises jinja2's UndefinedError.
    """
    return _environment().get_template(template).render(**values)


def macro(template: str, macro_name: str, /, **values: Any) -> Markup:
    """Return what a macro of a template draws, for a part of a page that Python places.

    >>> print(macro("report/film.html", "breaking", name="a_<b>"))
    a_<wbr>&lt;b&gt;
    """
    return getattr(_environment().get_template(template).module, macro_name)(**values)


def inlined(*paths: str) -> Markup:
    """Return the text of style or script files below vidrl/, which a page holds unescaped."""
    from markupsafe import Markup

    return Markup("".join(files("vidrl").joinpath(path).read_text("utf-8") for path in paths))


@cache
def _environment() -> Environment:
    """Return the jinja2 environment, created at the first page."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # the filter `tojson` escapes <, > and &, so that data cannot end their script element
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    return environment


def _source(template: str) -> tuple[str, str, None]:
    """Return a template's text, its file, and that the file is never read again.

    Line breaks between tags are moved into jinja2 comments, so that error messages still name
    the right line.
    """
    folder, _, name = template.partition("/")
    file = files("vidrl").joinpath(FOLDERS[folder], name)
    return BETWEEN_TAGS.sub(r"{#\1#}", file.read_text("utf-8")), str(file), None
