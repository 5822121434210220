"""Write which pipelines of diffusers the backbone `pipeline` drives: data and a page.

    python scripts/pipelines.py             # what the sources of diffusers' pipelines show
    python scripts/pipelines.py --run       # what the contract of every family shows
    python scripts/pipelines.py --run wan   # the same of one family; the others stay as they are
    python scripts/pipelines.py --check     # only check that the files agree with the sources

The data is vidrl/backbones/pipelines.json, which `vidrl list backbones --diffusers` prints,
and the page is docs/guides/pipelines.md; README.md has the names of the families that keep the
whole contract. The contract is tests/backbones/families/contract.py.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "backbones")]

DATA = ROOT / "vidrl" / "backbones" / "pipelines.json"
PAGE = ROOT / "docs" / "guides" / "pipelines.md"
README = ROOT / "README.md"
MARKS = "<!-- python scripts/pipelines.py: begin -->", "<!-- python scripts/pipelines.py: end -->"
WIDTH = 130  # characters in a line of the README
FRAMES = ("num_frames", "video_length", "frames")
NETWORK = re.compile(r"(transformer|unet|prior|decoder)(_\d+)?")
BROUGHT = re.compile(r"(?!.*(embed|latent))(.*_)?(prompt|image|images|video|mask)(_.*)?")
SOUND = re.compile(r"audio|sound|music", re.IGNORECASE)
OTHER = {  # what pipelines make, by the folder of their file
    "ace_step": "sound",
    "diffusion_gemma": "text",
    "llada2": "text",
    "rfd4_proteina": "proteins",
    "shap_e": "3D shapes",
}
VP = "variance-preserving"
Loops = tuple[str, ...]  # the loops around a place in the code, the outermost first
PATHS = {  # by the beginning of the scheduler's name; the first entry that matches counts
    "EDM": "EDM",
    "FlowMatch": "flow",
    "Karras": VP,
    "DDIM": VP,
    "DDPMScheduler": VP,
    "PNDM": VP,
    "CogVideoX": VP,
    "Euler": VP,
    "LCM": VP,
    "HeunDiscrete": VP,
    "UnCLIP": VP,
    "UniPC": "by its scheduler",
    "DPMSolver": "by its scheduler",
    "SchedulerMixin": "by its scheduler",
}
HEAD = """\
# Which pipelines of diffusers can be trained

`python scripts/pipelines.py` writes this page: without an option from the source of diffusers
{diffusers}, and with `--run` from tests. `vidrl list backbones --diffusers` prints the same table.
`[backbone] name = "pipeline"` drives a pipeline by the pipeline's own code
([backbones.md](backbones.md)), so vidrl has no line of code about any of these families.

## Checked with tiny weights

The contract of a family is a set of tests that run on a pipeline of the family's class with a few
thousand random weights, in float32 on a CPU
([contract.py](../../tests/backbones/families/contract.py)). The tests compare with the pipeline's
own call by diffusers alone. Each test has the name of its promise:

{promises}

"yes" means that all tests pass. "not run" means that the tests have not been run since the code
changed. No published checkpoint of these families has been run here, except Wan in the size of the
embedded models.
"""
OPEN = """
## Nothing seen that prevents training

Only the source of these pipelines was read. Each has one loop, one scheduler or copies of one
scheduler, a network, and arguments that a prompt or `backbone.options.call` provides. vidrl tries
such a pipeline. If this fails, vidrl refuses the pipeline before any training and says why.
"""
CLOSED = """
## Not driven

Only the source of these pipelines was read. Two of them have a backbone of their own: `wan` drives
`SkyReelsV2DiffusionForcingPipeline` and `HeliosPipeline`.
"""


# What the sources show


class Source:
    """A pipeline, as its source code shows it; `folder` is the folder of its file."""

    def __init__(self, node: ast.ClassDef, folder: str):
        self.node, self.folder = node, folder

    @cached_property
    def takes(self) -> dict[str, bool]:
        """Return the arguments of its call, and whether each is required."""
        return {name: must for name, _, must in arguments(method(self.node, "__call__"))}

    @cached_property
    def parts(self) -> dict[str, str]:
        """Return its components and their classes."""
        return {name: kind for name, kind, _ in arguments(method(self.node, "__init__"))}

    @property
    def path(self) -> str:
        """Return the noise path of its scheduler, or "" if vidrl knows none."""
        named = [kind for name, kind in self.parts.items() if name.endswith("scheduler")]
        words = re.findall(r"\w+", " ".join(named))
        matches = (path for start, path in PATHS.items() if any(w.startswith(start) for w in words))
        return next(matches, "")

    @property
    def made(self) -> str:
        """Return what the pipeline generates, as "video"."""
        video = any("video" in name or name in FRAMES for name in self.takes)
        kinds = {
            "sound": SOUND.search(self.node.name),
            "embeddings": "Prior" in self.node.name,
            "video": video,
            "image": True,
        }
        return OTHER.get(self.folder) or next(kind for kind, holds in kinds.items() if holds)

    @property
    def makes(self) -> str:
        """Return what it accepts and what it generates, as "text, image to video"."""
        words = {"prompt": "text", "image": "image", "video": "video"}
        given = ", ".join(word for name, word in words.items() if name in self.takes)
        return f"{given or 'nothing'} to {self.made}"

    @property
    def call(self) -> str:
        """Return what must be set in `backbone.options.call`."""
        return "strength = 1" if "strength" in self.takes else ""

    @property
    def obstacle(self) -> str:
        """Return why the pipeline cannot be driven, or "" if the source shows no reason."""
        found = list(steps(method(self.node, "__call__")))
        missing = [n for n, must in self.takes.items() if must and not BROUGHT.fullmatch(n)]
        reasons = {
            f"it makes {self.made}": self.made not in ("video", "image"),
            "its call asks no scheduler for a step": not found,
            "it has no transformer, unet, prior or decoder": not any(
                NETWORK.fullmatch(name) for name in self.parts
            ),
            "it steps by several schedulers of its own":  # its copies of one, for sound, are driven
            len({one for one, _ in found if one.startswith("self.")}) > 1,
            "its steps stand in a loop within a loop, as where a clip is made in pieces": any(
                len(loops) > 1 for _, loops in found
            ),
            "vidrl knows no path of noise for its scheduler": not self.path,
            f"it must be given {', '.join(missing)}, which no prompt brings": bool(missing),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


def sources() -> dict[str, Source]:
    """Return the pipelines that diffusers exports, without the deprecated ones."""
    import diffusers

    top = Path(diffusers.__file__).parent
    exported = set(re.findall(r'"(\w+Pipeline)"', (top / "__init__.py").read_text()))
    files = [file for file in sorted((top / "pipelines").rglob("*.py")) if "onnx" not in file.name]
    found = {
        node.name: Source(node, file.parent.name)
        for file in files
        if "deprecated" not in file.parts
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name in exported
    }
    return {name: one for name, one in sorted(found.items()) if method(one.node, "__call__")}


def method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """Return a method of a class, or None."""
    return next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == name), None)


def arguments(function: ast.FunctionDef | None) -> list[tuple[str, str, bool]]:
    """Return the name and the annotation of each argument, and whether it is required."""
    if function is None:
        return []
    plain, named = function.args.args[1:], function.args.kwonlyargs
    defaults = [*[None] * (len(plain) - len(function.args.defaults)), *function.args.defaults]
    every = zip([*plain, *named], [*defaults, *function.args.kw_defaults], strict=False)
    return [
        (arg.arg, ast.unparse(arg.annotation) if arg.annotation else "", default is None)
        for arg, default in every
    ]


def steps(node: ast.AST | None, loops: Loops = ()) -> Iterator[tuple[str, Loops]]:
    """Yield each call of a scheduler's step: the scheduler, and the loops around the call.

    The loop of FreeInit does not count: it runs once unless a user turns FreeInit on.
    """
    for child in ast.iter_child_nodes(node) if node else ():
        kind = type(child)
        variable = ast.unparse(child.target) if isinstance(child, ast.For) else ""
        is_loop = kind in (ast.For, ast.While) and "free_init" not in variable
        more = (kind.__name__,) if is_loop else ()
        function = child.func if isinstance(child, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr == "step":
            yield ast.unparse(function.value), loops
        yield from steps(child, (*loops, *more))


# What the contract shows


def run(names: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each family's path, and for each promise "yes" or the error."""
    from families import FAMILIES
    from families.contract import CHECKS, driven

    for name in names:
        results = {check: _kept(keep, FAMILIES[name]) for check, keep in CHECKS.items()}
        path = driven(name).path
        broken = [f"   {check}: {error}" for check, error in results.items() if error != "yes"]
        print("\n".join([name, *broken]), flush=True)
        predicts = "" if path.predicts == path.kind else f", predicts {path.predicts}"
        yield name, {"path": path.kind + predicts, **results}


def _kept(keep: Any, family: Any) -> str:
    """Return "yes" if a family keeps a promise, else the error in short."""
    try:
        keep(family)
        return "yes"
    except Exception as error:  # noqa: BLE001  whatever a family fails with is the result
        words = " ".join(str(error).replace(tempfile.gettempdir(), "").split())
        return f"{type(error).__name__}: {words[:200]}"


# The files


def table(before: Mapping[str, Any], again: bool = True) -> dict[str, Any]:
    """Return all that is written down; the results of the contract are those of `before`.

    With `again` the sources are read again; otherwise their results are those of `before`,
    too.
    """
    import diffusers
    from families import FAMILIES

    kept = {row["family"]: row["checks"] for row in before.get("checked", [])}
    checked = [
        {
            "family": name,
            "pipeline": family.pipeline,
            "makes": family.modality,
            "checks": kept.get(name, {}),
        }
        for name, family in FAMILIES.items()
    ]
    if not again:
        return {**before, "checked": checked}
    covered = {family.pipeline for family in FAMILIES.values()}  # by the contract of a family
    read = [
        {
            "pipeline": name,
            "makes": one.makes,
            "path": one.path,
            "call": one.call,
            "not": one.obstacle,
        }
        for name, one in sources().items()
        if name not in covered
    ]
    return {"diffusers": diffusers.__version__, "checked": checked, "read": read}


def page(found: Mapping[str, Any]) -> str:
    """Return docs/guides/pipelines.md."""
    from families.contract import CHECKS

    from vidrl.cli.list_and_show import kept

    promises = ";\n".join(f"- {name.replace('_', ' ')}" for name in CHECKS) + "."
    checked = [
        (
            row["family"],
            f"`{row['pipeline']}`",
            row["makes"],
            row["checks"].get("path", ""),
            kept(row["checks"]),
            "no",
            "0",
        )
        for row in found["checked"]
    ]
    head = ("family", "pipeline", "makes", "path", "tiny weights", "real weights", "lines of code")
    read = [
        (f"`{row['pipeline']}`", row["makes"], row["path"], row["call"], row["not"])
        for row in found["read"]
    ]
    free, closed = ([row for row in read if bool(row[4]) is shut] for shut in (False, True))
    return "\n".join(
        [
            HEAD.format(diffusers=found["diffusers"], promises=promises),
            markdown(head, checked),
            OPEN,
            markdown(("pipeline", "makes", "path", "in `call`"), (row[:4] for row in free)),
            CLOSED,
            markdown(("pipeline", "makes", "why"), ((*row[:2], row[4]) for row in closed)),
        ]
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def text(found: Mapping[str, Any]) -> str:
    """Format the data as JSON."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def listed(found: Mapping[str, Any]) -> str:
    """Return the pipelines whose family keeps every promise, by what they generate."""
    from vidrl.cli.list_and_show import kept

    names: dict[str, set[str]] = {}
    for row in found["checked"]:
        if kept(row["checks"]) == "yes":
            names.setdefault(row["makes"], set()).add(row["pipeline"].removesuffix("Pipeline"))
    lines = [f"- {makes}: {', '.join(sorted(own))}" for makes, own in names.items()]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def readme(found: Mapping[str, Any]) -> str:
    """Return the README with a new list of pipelines."""
    before, _, rest = README.read_text().partition(MARKS[0])
    return "\n".join([before + MARKS[0], listed(found), MARKS[1] + rest.partition(MARKS[1])[2]])


def save(found: Mapping[str, Any]) -> None:
    """Write the data, the page and the README."""
    DATA.write_text(text(found))
    PAGE.write_text(page(found))
    README.write_text(readme(found))


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, and write or check the files."""
    form = argparse.RawDescriptionHelpFormatter
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    reader.add_argument("--run", nargs="*", metavar="FAMILY", help="all families, or these")
    reader.add_argument("--check", action="store_true", help="write nothing; 1 if a file is old")
    asked = reader.parse_args(words)
    before = json.loads(DATA.read_text()) if DATA.exists() else {}
    found = table(before, again=asked.run is None or not before)
    if asked.check:
        old = text(found) != text(before) or PAGE.read_text() != page(found)
        return int(old or README.read_text() != readme(found))
    save(found)
    rows = {row["family"]: row for row in found["checked"]}
    wrong = [name for name in asked.run or () if name not in rows]
    if wrong:
        reader.error(f"expected families out of {', '.join(rows)}, got {wrong[0]}")
    for name, checks in run(asked.run or rows) if asked.run is not None else ():
        rows[name]["checks"] = checks
        save(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
