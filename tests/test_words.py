"""The words of the code: short lines, first sentences with a verb, and no ordinary word with a
private meaning."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WIDTH = 100
MOST_PACKED = 2  # names on the left of one assignment of several values

# Words that this project once used in a sense of its own; the right-hand side says what to write.
PRIVATE = {
    r"\bpays? for\b": "say which score rises or falls",
    r"\btells? of\b": "say what the function returns or prints",
    r"\blooks? back\b": "evaluates, checks the guards and saves",
    r"\bwhat comes of\b": "the result of",
    r"\bwhat the whole\b": "name the noun",
    r"\bin the eye\b": "name what is seen",
    r"\bhave against each other\b": "name the conflict",
    r"\bof one's own\b": "custom",
    r"\bwithout a word\b": "silently",
    r"\bstands? for itself\b": "name the noun",
    r"\bmade one\b": "converted to one form",
    r"\btold\b": "known, distinguished or printed",
    r"\btwins\b": "pairs of one group",
}

# A first sentence needs one of these verbs (as written, or with s, es, d or ed).
VERBS = set(
    """
    accept add adjust advance align allow answer append apply approximate are arrange ask assert
    assign attach average be become begin belong blend bound break bring broadcast build bundle
    calculate call can cancel cast centre change check choose claim classify clean clear clip close
    collect combine come compare compute concatenate condition configure connect consist contain
    control convert copy correct corrupt correspond count cover create credit crop cut deal decide
    decline declare decode decrease define delay delete deliver denoise depend derive describe
    detect determine differ differentiate display divide do download draw drive drop embed enable
    encode end ensure enter estimate evaluate exclude exist expand expect explain export express
    extend extract fail fall fetch fill filter find finish fit fix flag flatten flip fold follow
    forget form format forward free freeze gather generate get give go group grow guard guide had
    handle happen has have hide hold identify ignore implement import improve include increase
    inform initialise inject insert inspect install integrate interpolate interrupt is iterate join
    judge keep know label lack launch learn leave let limit list listen load locate lock log look
    lose lower make map mark mask match may mean measure merge minimise mirror miss mix mock model
    modify move multiply must name narrow need normalise note number offer open optimise order
    overwrite own pack pad parse pass patch perform permit pick place play plot point pool predict
    prefer prepare press prevent print process produce project promise protect prove provide pull
    push put raise rank read rearrange receive recognise recommend record recover reduce refer
    refuse register reject release remain remember remove rename render reorder repeat replace
    report represent request require rescale resample resize resolve respond restore restrict
    return reverse rewrite round run sample satisfy save say scale score search see select send
    separate serve set share shift should show shrink shuffle simulate size skip slice smooth sort
    spawn speak split stack start state stay stop store stream subtract suggest sum summarise
    support swap switch take tell test time trace track train transform translate transpose treat
    trim trust try turn understand undo unpack update upload use validate vary verify visit wait
    walk want warn was watch weigh were will wrap write yield
    """.split()  # noqa: SIM905  one verb a word reads better than a list of quoted strings
)
IRREGULAR = set(
    """
    began built came chose chosen cut did does done drawn drew fell found gave given goes gone
    held kept knew known lasts left lies lay lost made meant occurs ran read said sees seen sent
    shown spent taken tries took underwent went written wrote carries varies applies copies
    identifies classifies multiplies verifies satisfies modifies relies rely cannot cited stops
    maps gets sets puts runs
    """.split()  # noqa: SIM905  as above
)


def sources():
    for top in ("vidrl", "rewards", "benchmarks"):
        for path in sorted((ROOT / top).glob("**/*.py")):
            inside = path.relative_to(ROOT)
            if top != "vidrl" or inside.parts[1] not in ("rewards", "benchmarks"):
                yield inside


def folders():
    """The folders of source files; a module of `vidrl` or `rewards` itself belongs to its folder."""
    return sorted({str(path.parent) for path in sources()})


def files(folder):
    return [path for path in sources() if str(path.parent) == folder]


def has_verb(sentence):
    for word in re.findall(r"[a-z]+", sentence.lower()):
        stems = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("d")}
        stems |= {word.removesuffix("ed"), re.sub(r"(.)\1ed$", r"\1", word)}
        if stems & VERBS or word in IRREGULAR:
            return True
    return False


def docstrings(path):
    """(line, name, docstring) of each documented module, class and function of a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, kinds) and ast.get_docstring(node):
            yield node.body[0].lineno, getattr(node, "name", "module"), ast.get_docstring(node)


def prose(path):
    """(line, text) of each docstring, comment and message of a file."""
    text = (ROOT / path).read_text()
    for line, _, doc in docstrings(path):
        yield line, " ".join(doc.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("folder", folders())
def test_lines_are_short(folder):
    long = [
        f"{path}:{number} has {len(line)} characters"
        for path in files(folder)
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if len(line) > WIDTH
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("folder", folders())
def test_the_first_sentence_of_a_docstring_is_one_line_with_a_verb(folder):
    wrong = []
    for path in files(folder):
        for line, name, doc in docstrings(path):
            summary, _, rest = doc.partition("\n")
            if rest and rest.split("\n")[0].strip():
                wrong.append(f"{path}:{line} {name}: the first sentence does not end on its line")
            elif not has_verb(summary):
                wrong.append(f"{path}:{line} {name}: no verb in {summary!r}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", folders())
def test_no_ordinary_word_has_a_private_meaning(folder):
    wrong = [
        f"{path}:{line} {found[0]!r}: {cure}"
        for path in files(folder)
        for line, text in prose(path)
        for pattern, cure in PRIVATE.items()
        if (found := re.search(pattern, text, re.IGNORECASE))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", folders())
def test_an_assignment_packs_at_most_two_values(folder):
    wrong = [
        f"{path}:{node.lineno} packs {len(node.value.elts)} values"
        for path in files(folder)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) > MOST_PACKED
    ]
    assert not wrong, "\n".join(wrong)
