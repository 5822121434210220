"""An extension of griffe: doctests in docstrings become blocks of code on the site."""

import re

import griffe

DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with a fence of Markdown around each run of doctest lines."""
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


class Doctests(griffe.Extension):
    """Fences the doctests of every object that has a docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Change the docstring of an object when griffe has read it."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
