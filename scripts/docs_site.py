"""What the site needs beside the pages of docs/: reference pages, and the files that pages link to.

mkdocs calls the functions `on_...` (see `hooks` in mkdocs.yml). A page may link to any file of the
repository: such a file becomes a page of the site, its text as it is if it is Markdown, its code in
a block otherwise. The pages of the command line and of the recipes are written from the code.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\(|src=\")([^)\"#\s]+)((?:#[^)\"]*)?[)\"])")
CODE = {".py": "python", ".toml": "toml", ".json": "json", ".txt": "text", ".sh": "bash"}
PICTURES = (".svg", ".png", ".jpg")


def on_config(config):
    """Refuse to build a site in which a public symbol has no documentation."""
    missing = sorted(undocumented())
    if missing:
        raise PluginError("public symbols without a docstring:\n" + "\n".join(missing))
    return config


def undocumented() -> Iterator[str]:
    """Yield each public function, class and method of vidrl that has no docstring.

    A method of a derived class needs no docstring of its own where another class documents it.
    """
    symbols = [(path, *symbol) for path in public_modules() for symbol in public_symbols(path)]
    documented = {name.split(".")[-1] for _, name, node, _ in symbols if ast.get_docstring(node)}
    for path, name, node, derived in symbols:
        inherited = derived and name.split(".")[-1] in documented
        if not ast.get_docstring(node) and not inherited:
            yield f"{path.relative_to(ROOT)}: {name}"


def public_modules() -> Iterator[Path]:
    """Yield the modules that people import: no underscore in a name, no script that measures."""
    for top in ("vidrl", "rewards", "benchmarks"):
        for path in sorted((ROOT / top).glob("**/*.py")):
            inside = path.relative_to(ROOT)
            linked = top == "vidrl" and inside.parts[1] in ("rewards", "benchmarks")
            private = any(part.startswith("_") for part in inside.with_suffix("").parts)
            if not linked and not private and not {"studies", "peers", "cli"} & set(inside.parts):
                yield path


def public_symbols(path: Path) -> Iterator[tuple[str, ast.AST, bool]]:
    """Yield the name and the node of each public function, class and method of a module.

    The third value is whether the node is a method of a class that is derived from another.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, False
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method, bool(node.bases)


def on_files(files, config):
    """Add the reference pages, and every file of the repository that some page links to."""
    pages = {"reference/cli.md": command_line(), "reference/recipes.md": recipes()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    waiting = list(DOCS.rglob("*.md"))
    seen = set()
    while waiting:
        page = waiting.pop()
        for target in sorted(linked(page, page.read_text(encoding="utf-8")) - seen):
            seen.add(target)
            files.append(repository_file(config, target))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def linked(page: Path, text: str) -> set[Path]:
    """Return the existing files and folders outside docs/ that a page links to."""
    found = set()
    for _, link, _ in LINK.findall(text):
        target = Path(os.path.normpath(page.parent / link))
        if "://" not in link and target.exists() and not target.is_relative_to(DOCS):
            found.add(target)
    return found


def repository_file(config, target: Path) -> File:
    """Return a file of the repository as a page, or as a picture."""
    name = place(target)
    if target.is_dir():
        names = sorted(path.name for path in target.iterdir() if path.name[0] not in "._")
        return File.generated(config, name, content=titled(target, "\n".join(names), "text"))
    if target.suffix in PICTURES:
        return File.generated(config, name, abs_src_path=str(target))
    text = target.read_text(encoding="utf-8")
    if target.suffix != ".md":
        text = titled(target, text, CODE.get(target.suffix, "text"))
    return File.generated(config, name, content=text)


def titled(target: Path, text: str, language: str) -> str:
    """Return a page that shows the text of a file in one block."""
    return f"# {target.relative_to(ROOT)}\n\n````{language}\n{text}\n````\n"


def place(target: Path) -> str:
    """Return the place of a repository's file in the site's sources."""
    inside = target.relative_to(ROOT).as_posix()
    as_is = target.suffix == ".md" or target.suffix in PICTURES
    return f"repository/{inside}" if as_is else f"repository/{inside}.md"


def on_page_markdown(text, page, config, files):
    """Let links to files of the repository lead to their pages on the site."""
    source = page.file.src_uri
    inside = source.removeprefix("repository/")
    here = ROOT / inside if source.startswith("repository/") else DOCS / source

    def moved(found: re.Match) -> str:
        target = Path(os.path.normpath(here.parent / found[2]))
        if "://" in found[2] or not target.exists():
            return found[0]
        goal = target.relative_to(DOCS) if target.is_relative_to(DOCS) else place(target)
        link = os.path.relpath(str(goal), os.path.dirname(source) or ".")
        return f"{found[1]}{link}{found[3]}"

    return LINK.sub(moved, text)


def command_line() -> str:
    """Return the page of the command line: the help text of each command."""
    sys.path.insert(0, str(ROOT))
    from vidrl import cli

    reader = cli.build()
    commands = next(a for a in reader._actions if getattr(a, "choices", None)).choices
    os.environ["COLUMNS"] = "100"
    sections = [f"```text\n{reader.format_help()}```\n"]
    for name, command in commands.items():
        sections.append(f"## vidrl {name}\n\n```text\n{command.format_help()}```\n")
    return "# Command line\n\n" + "\n".join(sections)


def recipes() -> str:
    """Return the page of recipes: each key, its type, its default and its meaning."""
    command = [sys.executable, "-m", "vidrl", "schema", "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise PluginError(f"vidrl schema --markdown failed: {done.stderr}")
    return done.stdout
