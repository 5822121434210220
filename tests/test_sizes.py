"""Small pieces: functions that fit in the eye, files that fit one thought."""

import ast
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent
CORE = [
    "diffusion/path",
    "diffusion/transition",
    "diffusion/segments",
    "credit/advantages",
    "training/rollout",
    "training/loop",
]


def sources():
    folders = [ROOT / "vidrl", ROOT / "rewards", ROOT / "benchmarks"]
    return sorted({path.resolve() for folder in folders for path in folder.rglob("*.py")})


def code_lines(function):
    """Lines of a function without its docstring."""
    doc = function.body[0] if ast.get_docstring(function) is not None else None
    return (
        function.end_lineno - function.lineno + 1 - (doc.end_lineno - doc.lineno + 1 if doc else 0)
    )


def functions():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield code_lines(node), f"{path.name}:{node.lineno} {node.name}"


def test_functions_are_short():
    found = sorted(functions())
    lengths = [length for length, _ in found]
    longest = ", ".join(f"{name} ({length})" for length, name in found[-5:])
    assert median(lengths) <= 10, longest
    assert quantiles(lengths, n=10)[-1] <= 30, longest


def lines_of_code(path):
    """Lines that are neither empty, nor a comment, nor documentation (a string by itself)."""
    text = path.read_text()
    documentation = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    code = [line for n, line in enumerate(text.splitlines(), 1) if n not in documentation]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code)


def test_the_core_reads_in_one_sitting():
    paths = [ROOT / "vidrl" / f"{name}.py" for name in CORE] + [
        ROOT / "vidrl" / "algorithms" / "grpo.py"
    ]
    lengths = {path.name: lines_of_code(path) for path in paths}
    assert sum(lengths.values()) < 750, lengths


def test_no_two_files_of_tests_share_a_name():
    """Else pytest imports one in place of the other where both run in one process."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "__init__.py"]
    assert sorted(set(names)) == sorted(names)


def test_no_file_is_long_and_none_is_called_utils():
    """Scripts that measure, in studies and peers, read from top to bottom and may be
    longer."""
    modules = [path for path in sources() if path.parent.name not in ("studies", "peers")]
    lengths = {str(path.relative_to(ROOT)): lines_of_code(path) for path in modules}
    assert not {name: lines for name, lines in lengths.items() if lines > 360}
    assert not [name for name in lengths if name.endswith("utils.py")]
