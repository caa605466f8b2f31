"""Public functions of the packages annotate their arguments."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path.relative_to(ROOT)
    for package in ("imcl_tf", "data_prep", "eval")
    for path in (ROOT / package).rglob("*.py")
)
SPECIAL = ("__init__", "__call__")


def public_functions(body, of_class=""):
    """(name, node, whether it is a method) of functions and their classes."""
    for node in body:
        name = getattr(node, "name", "_")
        if name.startswith("_") and name not in SPECIAL:
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, f"{of_class}{name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(d) for d in node.decorator_list]
            is_method = of_class and "staticmethod" not in decorators
            yield f"{of_class}{name}", node, bool(is_method)


def bare_arguments(source):
    """Names `function(argument)` of arguments without annotation.

    *args and **kwargs, which often belong to a base class, need none.
    """
    bare = []
    for name, node, is_method in public_functions(ast.parse(source).body):
        named = [*node.args.posonlyargs, *node.args.args]
        for argument in [*named[is_method:], *node.args.kwonlyargs]:
            if argument.annotation is None:
                bare.append(f"{name}({argument.arg})")
    return bare


def test_by_hand():
    source = (
        "def f(a, b: int, *c, d=1, **e): pass\n"
        "def _g(a): pass\n"
        "class A:\n"
        "    def __init__(self, a): pass\n"
        "    def _h(self, a): pass\n"
        "    @staticmethod\n"
        "    def i(a): pass\n"
        "class _B:\n"
        "    def j(self, a): pass\n"
    )
    assert bare_arguments(source) == ["f(a)", "f(d)", "A.__init__(a)", "A.i(a)"]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_arguments_are_annotated(path):
    assert bare_arguments((ROOT / path).read_text("utf-8")) == []
