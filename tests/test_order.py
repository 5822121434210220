"""Nothing depends on the order of a set, which Python changes with PYTHONHASHSEED from one
process to the next."""

import ast

from test_sizes import ROOT, sources

METHODS = ("union", "intersection", "difference", "symmetric_difference")
# calls that keep the order they are given
ORDERED = ("list", "tuple", "enumerate", "zip", "map", "next", "iter")
OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)


def is_set(node: ast.AST) -> bool:
    """Whether an expression is written as a set, or as an operation on sets or on the keys
    of mappings."""
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, OPERATORS):
        return is_set(node.left) or is_set(node.right) or is_keys(node.left) or is_keys(node.right)
    if not isinstance(node, ast.Call):
        return False
    named = isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return named or (
        isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and is_set(node.func.value)
    )


def is_keys(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("keys", "items")
    )


def iterated(node: ast.AST) -> list[ast.AST]:
    """What a statement or an expression goes through in order."""
    if isinstance(node, ast.For):
        return [node.iter]
    if isinstance(node, (ast.ListComp, ast.DictComp)):
        return [one.iter for one in node.generators]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDERED:
        return node.args
    return (
        node.args if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join" else []
    )


def unordered(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [
        f"line {node.lineno}: {ast.unparse(one)}"
        for node in nodes
        for one in iterated(node)
        if is_set(one)
    ]


def test_no_set_is_gone_through_in_its_own_order():
    """A set decides which measure draws first from a generator, or the order of what is
    written: sort it."""
    found = {str(path.relative_to(ROOT)): unordered(path.read_text()) for path in sources()}
    assert not {path: lines for path, lines in found.items() if lines}


def test_what_is_looked_for_is_found():
    for wrong in (
        "for x in {1, 2}: pass",
        "[x for x in a.keys() & b]",
        "', '.join(set(a))",
        "{k: 1 for k in set(a) - b}",
        "list(set().union(*seen))",
        "for x in frozenset(a): pass",
    ):
        assert unordered(wrong), wrong
    for right in (
        "for x in sorted({1, 2}): pass",
        "[x for x in a if x in b]",
        "len(set(a))",
        "{x for x in set(a)}",
    ):
        assert not unordered(right), right
